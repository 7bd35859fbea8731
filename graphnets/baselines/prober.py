"""A predictor that runs the networks: learned inputs, and what the networks answer to them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from converters import Structure, execute
from graphnets.baselines.probing import input_and_classes
from graphnets.baselines.questions import Questioner

__all__ = ["Prober"]


class Prober(Questioner):
    r"""Predicts properties of classifiers from their answers to learned inputs.

    Every network is run by `converters.execute` on the same learned probes, each with a learned label (a distribution
    over the classes). How far the answers agree with the labels, how sure they are (see `read_scores`), and a few
    statistics of the weights (see `describe`) are what a perceptron predicts from. Probing as such is the
    "functionalist" reading of weights of Herrmann et al. 2024 (arXiv:2403.11998), learned inputs also appear as probe
    features in Kofinas et al. 2024 (arXiv:2403.12143) and as the method of Kahana et al. 2024 (ProbeGen,
    arXiv:2410.10811); statistics of weights are those of Unterthiner et al. 2020 (arXiv:2002.11448).

    Deviations: probes carry labels, so that the features are small in number and mean the same for every network,
    where the cited works hand the raw answers to the perceptron; probes are free tensors, not the output of a
    generator; features are clipped after standardisation, and those that did not vary among the networks of
    `fit_statistics` have no say, so that an unseen architecture cannot throw the prediction far off; weights beyond
    1000 and answers beyond 100, which diverged networks have, are cut there.

    Answers are invariant under every symmetry of the networks' functions; statistics of weights and answers of shaken
    networks are so under permutations, and therefore so is the prediction. In evaluation mode no prediction depends on
    other networks of the batch; in training mode features are standardised within the batch (BatchNorm).

    Args:
        structure: any of the networks; None takes inputs and classes from the first networks that `fit_statistics`
            sees. Networks may differ in everything else: activation, depth, width, kind. Inputs of as many numbers in
            another shape count as the same (a perceptron's row and a convolutional network's image), in reading order.
        targets: predicted numbers per network.
        probes: number of learned inputs.
        hidden: widths of the perceptron's hidden layers.
        temperatures: at which answers are compared with labels.
        dropout: after each hidden layer.
        weight_noise: relative Gaussian noise on weights while training.
        shakes: how many times networks are asked once more with noise on their weights, which tells how firm their
            answers are; see `shaken`.
        shake: size of that noise relative to each tensor's root mean square.
        spread: standard deviation of the probes at the start.
        sharpness: score of each probe's own class in its label at the start; the classes take turns.
        gain: probes and labels are stored divided by it, so that with Adam they learn this many times faster than the
            rest; much for a random start, about 2 for good ``examples``.
        examples: probes at the start instead of random ones, ``[probes, *input]``, alone or with their classes
            ``[probes]``. A few inputs of the kind that the networks were trained on help more than anything else.

    Raises:
        StructureMismatch: networks cannot be probed (see `input_and_classes`), or have other inputs or classes.
        ValueError: ``examples`` are of another shape, or an argument has no meaning.
        RuntimeError: there is no structure yet.

    Shapes:
        - batch: a graph or a batch of B graphs
        - result: ``[B, targets]``

    >>> from torch import nn
    >>> from converters import to_graph
    >>> graph = to_graph(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)))
    >>> model = Prober(graph.structure, targets=1, probes=16)
    >>> model
    Prober(
      16 probes of shape (2,) for 3 classes -> 1 targets
      ...
    >>> model.eval()(graph).shape
    torch.Size([1, 1])
    """

    def ends(self, structure: Structure) -> tuple[tuple[int, ...], int]:
        """See `input_and_classes`."""
        return input_and_classes(structure)

    def answers(self, weights: Mapping[str, Tensor], structure: Structure, probes: Tensor) -> Tensor:
        """What the networks themselves answer."""
        shape, _ = input_and_classes(structure)
        scores: Tensor = execute(weights, probes.reshape(-1, *shape), structure=structure)
        return scores
