"""Predict from an initialisation which few of its weights are enough, and try that by training them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from converters import Structure, permute, sample_permutation, to_graphs, weight_space
from experiments.data import load_images
from experiments.tasks.objective import EDGE, Objective
from experiments.zoo import TicketConfig, Zoo, ZooDataset
from experiments.zoo.nets import architectures_of
from experiments.zoo.sampling import draw_recipe
from experiments.zoo.tickets.pruning import ticket_accuracies
from graphnets.nfn import Tickets
from graphnets.nfn.tickets import by_tensor, in_a_row
from graphnets.pieces import Pieces

__all__ = ["TicketLikelihood", "WinningTickets", "chosen"]

IMP = "ticket_accuracy"
LARGEST, DRAWN = "largest", "drawn"
AT_ONCE = 8
"""Networks in a batch of `WinningTickets.invariance`."""


class TicketLikelihood(Objective):
    r"""The evidence lower bound of masks, per weight and with its sign turned (Zhou et al. 2023, Appendix D.2).

    arXiv:2302.14040. With scores :math:`s` and the divergence :math:`D` that a model gives, a network's loss is

    .. math:: \tfrac1P \Big( D + \textstyle\sum_i \big[ \log(1 + e^{s_i}) - M_i s_i \big] \Big)

    Shapes:
        - output: ``[B, P + 1]``, the scores and the divergence; target: masks ``[B, P]``
    """

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss, ``[1]``."""
        scores, divergence = output[:, :-1], output[:, -1]
        cross = functional.binary_cross_entropy_with_logits(scores, target.to(scores), reduction="none").mean(1)
        return (cross + divergence / scores.shape[1]).mean(0, keepdim=True)

    def encode(self, target: Tensor) -> Tensor:
        """Scores that are sure of a mask up to 1e-4, and no divergence."""
        return torch.cat([target.clamp(EDGE, 1 - EDGE).logit(), target.new_zeros(len(target), 1)], 1)

    def decode(self, output: Tensor) -> Tensor:
        """The probability that a weight stays, ``[B, P]``."""
        return output[:, :-1].detach().cpu().double().sigmoid()


def chosen(probabilities: Tensor, sizes: Sequence[int], kept: float, drawn: bool) -> Tensor:
    r"""Masks that keep a given share of the weights, from the probability of each to stay.

    Each tensor has its share of all that is expected to stay, :math:`\sum_i p_i`. (The largest probabilities of all
    tensors together may lie in the last layers alone, which leaves no way through the network.) In a tensor, those
    with the largest stay, or weights are drawn one after the other with odds :math:`p_i / (1 - p_i)`.

    Args:
        probabilities: ``[B, P]``; where one is 0 or 1, the mask is that, whatever others are.
        sizes: numbers of weights of the tensors, in order; P in all.
        kept: the share of weights that stay.
        drawn: whether they are drawn.

    Shapes:
        - result: ``[B, P]`` boolean

    >>> chosen(torch.tensor([[0.1, 0.3, 0.2, 0.2, 0.4, 0.0]]), [4, 2], kept=0.5, drawn=False)
    tensor([[False,  True,  True, False,  True, False]])
    """
    scores, generator = probabilities.logit(), torch.Generator().manual_seed(0)
    if drawn:
        uniform = torch.rand(scores.shape, generator=generator, dtype=scores.dtype)
        scores = scores - (-uniform.log()).log()
    expected = torch.stack([part.sum(1) for part in probabilities.split(list(sizes), 1)], 1)
    counts = (kept * scores.shape[1] * expected / expected.sum(1, keepdim=True)).round()
    parts = zip(scores.split(list(sizes), 1), counts.split(1, 1), strict=True)
    masks = torch.cat([part.argsort(1, descending=True).argsort(1) < count for part, count in parts], 1)
    return torch.where((probabilities == 0) | (probabilities == 1), probabilities == 1, masks)


class _Batches:
    """Minibatches ``(Tickets, targets)`` of one split."""

    def __init__(
        self, networks: ZooDataset, masks: dict[str, Tensor], targets: Tensor, size: int, shuffle: bool, seed: int
    ) -> None:
        self.networks, self.masks, self.targets = networks, masks, targets
        self.loader = networks.loader(size, shuffle=shuffle, seed=seed)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tickets, Tensor]]:
        for index in torch.split(self.loader.order(0), self.loader.batch_size):
            graphs, _ = self.networks.batch(index)
            yield Tickets(graphs, {name: mask[index].float() for name, mask in self.masks.items()}), self.targets[index]


class WinningTickets:
    """Prediction of winning tickets for initialisations that were never trained before.

    A batch's networks are `graphnets.nfn.Tickets`, targets are masks in a row. A prediction, the probability of every
    weight to stay, becomes two masks of the zoo's sparsity, of the ``largest`` probabilities and ``drawn`` by them, see
    `chosen`. Both are scored by training: the network starts from its own initial weights without those that the mask
    prunes, with the batches of its recipe, and is measured on held-out images. So are dense networks and those of
    other masks, which differ in nothing else.

    Args:
        zoo: of winning tickets, of one architecture.
        permutations: true permutations tried by `invariance`.
        test_zoo: None; tickets are tested on networks of their own zoo.

    Raises:
        ValueError: the zoo has no tickets or several architectures, or there is another one.
    """

    def __init__(self, zoo: Zoo, permutations: int = 4, test_zoo: Zoo | None = None) -> None:
        if not isinstance(zoo.config, TicketConfig):
            raise ValueError(f"{zoo.path} has no winning tickets; choose a zoo of them, such as zoo=digits_mlp_tickets")
        if test_zoo is not None:
            raise ValueError("test_zoo: tickets are tested on initialisations of the zoo they were learned from")
        if zoo.structure is None:
            raise ValueError(f"{zoo.path} has {len(zoo.structures)} architectures; tickets are predicted for one")
        self.zoo, self.config, self.permutations = zoo, zoo.config, permutations
        self._structure = zoo.structure
        self._splits = dict[str, tuple[ZooDataset, dict[str, Tensor]]]()
        self._trained: tuple[str, Tensor] | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """How probabilities become masks."""
        return (LARGEST, DRAWN)

    @property
    def also_scored(self) -> tuple[str, ...]:
        """No split but ``test``."""
        return ()

    @property
    def outputs(self) -> int:
        """A score per weight, and a divergence."""
        return self._structure.num_parameters + 1

    @property
    def structure(self) -> Structure | None:
        """The architecture."""
        return self._structure

    def _split(self, split: str) -> tuple[ZooDataset, dict[str, Tensor]]:
        """The networks of a split and their masks, in the same order."""
        if split not in self._splits:
            (architecture,) = self.zoo.architectures
            records = self.zoo.of(architecture)
            rows = records.index[records["split"] == split].to_numpy()
            self._splits[split] = ZooDataset(self.zoo, split, [IMP]), self.zoo.masks(architecture, rows)
        return self._splits[split]

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches ``(tickets, masks [B, P])``."""
        networks, masks = self._split(split)
        targets = in_a_row(masks, self._structure).float()
        return _Batches(networks, masks, targets, batch_size, shuffle, seed)

    def objective(self, loss: str | None = None) -> Objective:
        """The evidence lower bound.

        Raises:
            ValueError: another loss is asked for.
        """
        if loss is not None:
            raise ValueError(f"trainer.loss={loss!r}: tickets are learned by their likelihood; leave it null")
        return TicketLikelihood()

    def masks(self, prediction: Tensor) -> dict[str, Tensor]:
        """The masks ``[N, P]`` of probabilities ``[N, P]``, by setting."""
        sizes = [self._structure.parameter[name].numel for name in Pieces.of(self._structure, "hnp").names]
        kept = 1 - self.config.sparsity
        return {name: chosen(prediction, sizes, kept, name == DRAWN) for name in self.settings}

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """What the masks of all test networks reach, how much they keep, and how much of iterative pruning's."""
        theirs, reached = target > 0.5, self.answers(prediction, target)[0].mean(0)
        return {
            name: {
                "ticket_accuracy": float(accuracy),
                "kept": float(mask.double().mean()),
                "ticket_recall": float((mask & theirs).sum() / theirs.sum()),
            }
            for (name, mask), accuracy in zip(self.masks(prediction).items(), reached, strict=True)
        }

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The accuracy of every test network after its training with each of its masks, ``[N, settings]``.

        Beside it the accuracy that iterative pruning's mask reached when the zoo was made.
        """
        key = hashlib.sha256(prediction.numpy().tobytes()).hexdigest()
        if self._trained is None or self._trained[0] != key:
            first, *others = self.masks(prediction).values()
            reached = [self._retrained(first)]
            reached += [reached[0] if torch.equal(mask, first) else self._retrained(mask) for mask in others]
            self._trained = key, torch.stack(reached, 1)
        return self._trained[1], self._split("test")[0].y.double().expand(-1, len(self.settings))

    def _retrained(self, masks: Tensor) -> Tensor:
        networks, data = self._split("test")[0], load_images(self.config.data)
        if len(masks) != len(networks):
            raise ValueError(f"{len(masks)} masks for {len(networks)} test networks; predict all of them, in order")
        architectures = architectures_of(self.config.architecture, data.image_shape, data.classes)
        recipes = [draw_recipe(self.config, architectures, int(network)) for network in networks.ids]
        named = by_tensor(masks, self._structure)
        flat = torch.cat([named[name].flatten(1) for name in recipes[0].architecture.shapes], 1)
        return ticket_accuracies(self.config, recipes, flat, data)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a weight's probability when hidden neurons of test networks are permuted with it."""
        generator = torch.Generator().manual_seed(0)
        worst = 0.0
        for (graphs, masks), _ in self.loader("test", AT_ONCE):
            weights = weight_space(graphs, self._structure).to_weights()
            expected = by_tensor(predict(Tickets(graphs, masks)), self._structure)
            for _ in range(self.permutations):
                permutation = sample_permutation(self._structure, generator=generator)
                moved = to_graphs(permute(weights, permutation), self._structure)
                found = predict(Tickets(moved, permute(masks, permutation)))
                wanted = in_a_row(permute(expected, permutation), self._structure)
                worst = max(worst, float((found - wanted).abs().max()))
        return worst
