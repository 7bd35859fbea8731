"""Write networks as short codes from which networks that do the same come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from converters import Structure, aligned, execute
from experiments.data import load_images
from experiments.evaluation.behaviour import behaviour
from experiments.tasks.invariance import zoo_permutation_delta
from experiments.tasks.objective import Objective
from experiments.tasks.own_images import OwnImages
from experiments.zoo import Zoo, ZooDataset
from graphnets.contrastive import align_to_mean, behaviour_loss, from_rows, recalibrated, to_rows
from graphnets.contrastive.rows import held

__all__ = ["WeightCoding", "WeightError", "normalised"]

CHUNK = 256
SHOWN = 16
NUMBERS = 2**24
"""Numbers of images that networks of one chunk see together, at most."""
NOISE = 256
"""Noise images on which networks are compared."""
CALIBRATION = 255
"""Training images on which running statistics are taken."""

RECALIBRATED = {"agreement": "agreement", "drop": "accuracy_drop"}


def normalised(structure: Structure) -> bool:
    """Whether networks have running statistics."""
    return any(p.buffer and p.numel for p in structure.parameters)


class WeightError(Objective):
    r"""The squared error of weights, as a share of their variance, and what networks do (Meynent et al. 2025).

    .. math:: \mathcal L = (1 - \lambda)\, \frac{\mathrm{mean} (\hat w - w)^2}{\mathrm{mean} (w - \bar w)^2}
              + \lambda\, \mathcal L_B

    with :math:`\bar w` the mean network of training, so that 1 is the loss of always giving back the mean, and
    :math:`\mathcal L_B` of `graphnets.contrastive.behaviour_loss`, the divergence of class probabilities on images of
    each network's own classes. Networks with running statistics are judged by what they do with those of these
    images, as their own are taken anew after decoding. Outputs are rows of weights; targets have the classes in further
    columns.

    Args:
        training: rows of the training networks, ``[N, numbers]``.
        structure: of the networks.
        pool: images by class.
        images: how many of them each network sees: in training other ones every time, drawn from torch's global
            generator; in evaluation evenly spaced ones.
        share: of behaviour, :math:`\lambda`.
    """

    def __init__(
        self, training: Tensor, structure: Structure, pool: OwnImages, images: int, share: float = 0.0
    ) -> None:
        self.variance = float((training - training.mean(0)).square().mean().clamp_min(1e-12))
        self.numbers, self.structure, self.share = training.shape[1], structure, share
        self.pool, self.images = pool, images

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, ``[1]``."""
        rows = self.encode(target).to(output)
        loss = (1 - self.share) * functional.mse_loss(output, rows) / self.variance
        if self.share:
            inputs = self._inputs(target[:, self.numbers :].cpu().round().long()).to(output)
            found, wanted = from_rows(output, self.structure), from_rows(rows, self.structure)
            loss = loss + self.share * behaviour_loss(
                found, wanted, inputs, self.structure, "divergence", True, normalised(self.structure)
            )
        return loss.unsqueeze(0)

    def _inputs(self, classes: Tensor) -> Tensor:
        return (self.pool.drawn if torch.is_grad_enabled() else self.pool.spaced)(classes, self.images)

    def encode(self, target: Tensor) -> Tensor:
        """The weights alone."""
        return target[:, : self.numbers]

    def decode(self, output: Tensor) -> Tensor:
        """Weights in float64."""
        return output.detach().cpu().double()


class WeightCoding:
    """Networks are to come back from their codes (Swanevelder 2025, Section 4.1): as weights, scored by what they do.

    Predictions are the rows of weights that come back. Networks are run on held-out images of the classes of their own
    task, see `experiments.evaluation.behaviour`; ``noise_agreement`` and ``noise_class_entropy`` are those metrics on
    standard normal noise, on which the paper's networks agree though they do nothing alike on images.
    ``recalibrated_agreement`` and ``recalibrated_drop`` are agreement and accuracy drop after the running statistics of
    normalisation layers were taken anew on training images of the network's classes, see
    `graphnets.contrastive.recalibrated`; of networks without any they are agreement and drop.

    Args:
        zoo: networks of one architecture; where they have a column ``classes``, each tells these apart.
        align: bring all networks into the order of neurons of the mean training network first, see
            `graphnets.contrastive.align_to_mean`; their functions stay.
        behaviour: the share of what networks do in the loss, 0 to 1, see `WeightError`.
        images: how many training images of its own classes each network sees in that loss.
        permutations: true permutations tried by `invariance`.
        test_zoo: another zoo whose test networks are coded instead of this one's.

    Raises:
        ValueError: networks differ in their architecture, or ``behaviour`` is no share.
    """

    def __init__(
        self,
        zoo: Zoo,
        align: bool = True,
        behaviour: float = 0.0,
        images: int = 63,
        permutations: int = 2,
        test_zoo: Zoo | None = None,
    ) -> None:
        if zoo.structure is None:
            raise ValueError(f"{zoo.path} has several architectures; codes are those of one")
        self.zoo, self.test_zoo = zoo, zoo if test_zoo is None else test_zoo
        if not 0 <= behaviour <= 1:
            raise ValueError(f"task.behaviour={behaviour} is a share, from 0 to 1")
        self.align, self.behaviour, self.permutations = align, behaviour, permutations
        self.data = load_images(zoo.header["config"]["data"])
        (architecture, *_) = zoo.architectures.values()
        self.prepare, self.images, self._module = architecture.prepare, images, architecture.build
        self._datasets = dict[str, ZooDataset]()
        self._reference: Mapping[str, Tensor] | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """One: images of their own tasks."""
        return ("images",)

    @property
    def also_scored(self) -> tuple[str, ...]:
        """The test networks alone."""
        return ()

    @property
    def outputs(self) -> int:
        """Numbers of a network."""
        return sum(p.numel for p in held(self._structure))

    @property
    def structure(self) -> Structure | None:
        """The architecture."""
        return self.zoo.structure

    @property
    def _structure(self) -> Structure:
        assert self.zoo.structure is not None, "refused on the way in"
        return self.zoo.structure

    def dataset(self, split: str) -> ZooDataset:
        """The networks of a split, with their rows and the classes that they tell apart as targets."""
        if split not in self._datasets:
            dataset = ZooDataset(self.test_zoo if split == "test" else self.zoo, split, ["id"])
            if self.align and split == "train":
                found, self._reference = align_to_mean(dataset.weights(range(len(dataset))), self._structure)
                dataset.map_weights(lambda _: found)
            elif self.align:
                self.dataset("train")
                reference = self._reference
                assert reference is not None
                dataset.map_weights(lambda stack: aligned(stack, reference, self._structure))
            rows = to_rows(dataset.weights(range(len(dataset))), self._structure)
            records = dataset.zoo.records.set_index("id")
            classes = torch.arange(self.data.classes).expand(len(dataset), -1)
            if "classes" in records:
                own = records.loc[dataset.ids.numpy(), "classes"]
                classes = torch.tensor([[int(each) for each in task.split("-")] for task in own])
            dataset.y = torch.cat([rows, classes.to(rows)], 1)
            self._datasets[split] = dataset
        return self._datasets[split]

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches ``(graphs, targets [B, outputs + classes])``."""
        return self.dataset(split).loader(batch_size, shuffle=shuffle, seed=seed)

    def objective(self, loss: str | None = None) -> Objective:
        """The error of weights.

        Raises:
            ValueError: another loss is asked for.
        """
        if loss is not None:
            raise ValueError(f"trainer.loss={loss!r}: weights are learned by their squared error; leave it null")
        rows = self.dataset("train").y[:, : self.outputs]
        return WeightError(rows, self._structure, self._pool, self.images, self.behaviour)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """What networks that came back do beside the original ones, and how far their weights are; means."""
        error = (prediction - target[:, : self.outputs]).square().mean() / self._variance
        found = {metric: float(values.mean()) for metric, values in self._behaviour(prediction, target).items()}
        return {name: found | {"relative_mse": float(error)} for name in self.settings}

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The agreement of each network, ``[N, 1]``, beside ones."""
        agreement = self._behaviour(prediction, target)["agreement"].unsqueeze(1)
        return agreement, torch.ones_like(agreement)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a probability of what comes back, when hidden neurons of test networks are permuted."""
        inputs = self.prepare(self.data.test[:SHOWN]).double()

        def probabilities(graphs: Any) -> Tensor:
            logits: Tensor = execute(from_rows(predict(graphs), self._structure), inputs, structure=self._structure)
            return logits.softmax(2).flatten(1)

        return zoo_permutation_delta(probabilities, self.test_zoo, self.permutations)

    @cached_property
    def _variance(self) -> float:
        rows = self.dataset("train").y[:, : self.outputs].double()
        return float((rows - rows.mean(0)).square().mean().clamp_min(1e-12))

    @cached_property
    def _pool(self) -> OwnImages:
        return OwnImages(self.prepare(self.data.pool).float(), self.data.pool_labels)

    @cached_property
    def _test(self) -> OwnImages:
        return OwnImages(self.prepare(self.data.test).float(), self.data.test_labels)

    @property
    def together(self) -> int:
        """How many networks are run at once on all their images."""
        return max(1, min(CHUNK, NUMBERS // self._test.inputs.numel()))

    def _behaviour(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Metric to value, ``[N]``."""
        shape = self._test.inputs.shape[1:]
        noise = torch.randn(NOISE, *shape, generator=torch.Generator().manual_seed(0))
        run = partial(execute, structure=self._structure)
        parts: list[dict[str, Tensor]] = []
        for rows, wanted in zip(prediction.split(self.together), target.split(self.together), strict=True):
            classes = wanted[:, self.outputs :].round().long()
            images, labels = self._test.all(classes)
            original, rebuilt = (from_rows(each[:, : self.outputs].float(), self._structure) for each in (wanted, rows))
            stacks = [original, rebuilt]
            if normalised(self._structure):
                stacks.append(self._recalibrated(rebuilt, classes))
            scores, *others = (run(stack, images, own_inputs=True) for stack in stacks)
            found, *again = (behaviour(scores, own, labels.clamp_min(0), labels >= 0) for own in others)
            on_noise = behaviour(run(original, noise), run(rebuilt, noise))
            found |= {f"noise_{metric}": on_noise[metric] for metric in ("agreement", "class_entropy")}
            found |= {f"recalibrated_{short}": (again or [found])[0][name] for short, name in RECALIBRATED.items()}
            parts.append(found)
        return {metric: torch.cat([part[metric] for part in parts]) for metric in parts[0]}

    def _recalibrated(self, rebuilt: Mapping[str, Tensor], classes: Tensor) -> dict[str, Tensor]:
        """Networks that came back, with statistics of training images of their own classes."""
        seen = self._pool.spaced(classes, CALIBRATION)
        model = self._module()
        stacks = [
            recalibrated(model, {name: tensor[i : i + 1] for name, tensor in rebuilt.items()}, [own])
            for i, own in enumerate(seen)
        ]
        return {name: torch.cat([stack[name] for stack in stacks]) for name in rebuilt}
