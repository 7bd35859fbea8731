"""What a network was made for, beside its weights: its data set and its result; the two tasks on that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from converters import execute
from experiments.data import IMAGE_ENCODERS, encode_images
from experiments.tasks.invariance import zoo_permutation_delta
from experiments.tasks.objective import Objective
from experiments.tasks.weight_coding import WeightCoding, normalised
from experiments.zoo import Zoo, ZooDataset
from experiments.zoo.dataset import ZooLoader
from graphnets.contrastive import chance_nt_xent, class_means, from_rows, nt_xent, recall_at, to_rows

__all__ = ["Conditioned", "HalvesApart", "HalvesTogether", "Sampling", "SharedSpace"]

FOLDS = 5


class HalvesTogether(Objective):
    """NT-Xent of both halves of the outputs: projections and latents; see `graphnets.contrastive.nt_xent`.

    Args:
        temperature: of the loss.
        run: the target's column with the training run, whose snapshots are no negatives of each other.
        negatives: ``"all"`` or ``"across"``.
    """

    def __init__(self, temperature: float, run: int, negatives: str) -> None:
        self.temperature, self.run, self.negatives = temperature, run, negatives

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, ``[1]``."""
        projected, latents = output.chunk(2, 1)
        return nt_xent(projected, latents, self.temperature, target[:, self.run], self.negatives).unsqueeze(0)

    def encode(self, target: Tensor) -> Tensor:
        """The targets themselves."""
        return target

    def decode(self, output: Tensor) -> Tensor:
        """The outputs in float64."""
        return output.detach().cpu().double()


class HalvesApart(HalvesTogether):
    """The squared distance of both halves of the outputs, as of a velocity and the one that is wanted."""

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, ``[1]``."""
        found, wanted = output.chunk(2, 1)
        return (found - wanted).square().mean().unsqueeze(0)


class _WithConditions:
    """Batches whose graphs hold their conditions."""

    def __init__(self, loader: ZooLoader, columns: int) -> None:
        self.loader, self.columns = loader, columns

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for graphs, target in self.loader:
            graphs.condition = target[:, : self.columns]
            yield graphs, target


class Conditioned(WeightCoding):
    """Networks of a zoo with the vector of the data set that each was trained on, and with its result.

    A method has a coder as its ``pretraining``; its model reads rows of latent and condition, and its outputs have two
    halves that belong together, ``[B, 2 * latent]``. A condition is the mean features of the network's classes in the
    order of its outputs (training images alone, see `graphnets.contrastive.class_means`) and the result.

    Args:
        zoo: networks of one architecture; see `WeightCoding` for ``align``, ``permutations`` and ``test_zoo``.
        latent: numbers of the coder's latents.
        encoder: ``name`` in `experiments.data.IMAGE_ENCODERS`, and its arguments.
        result: the column of records that is the result; the paper's is the validation loss.
        temperature, negatives: of NT-Xent.

    Raises:
        ValueError: networks have no result of that name.
    """

    def __init__(
        self,
        zoo: Zoo,
        latent: int,
        encoder: Mapping[str, Any],
        result: str = "test_loss",
        temperature: float = 0.1,
        negatives: str = "all",
        align: bool = True,
        permutations: int = 2,
        test_zoo: Zoo | None = None,
    ) -> None:
        super().__init__(zoo, align=align, permutations=permutations, test_zoo=test_zoo)
        if result not in zoo.records:
            raise ValueError(f"task.result={result!r} is no column of {zoo.path}; they are {', '.join(zoo.records)}")
        options = dict(encoder)
        name = options.pop("name", None)
        if name not in IMAGE_ENCODERS:
            raise ValueError(f"task.encoder.name={name!r} is one of {', '.join(IMAGE_ENCODERS)}")
        self.latent, self.result, self.temperature, self.negatives = latent, result, temperature, negatives
        self.features = encode_images(IMAGE_ENCODERS[name](self.data, **options), self.data.pool)
        self._conditioned = dict[str, ZooDataset]()

    @property
    def outputs(self) -> int:
        """Two halves."""
        return 2 * self.latent

    @property
    def numbers(self) -> int:
        """Of a condition: the data set's and the result."""
        return len(self.tasks[0]) * self.features.shape[1] + 1

    @property
    def tasks(self) -> list[list[int]]:
        """The classes of every network of the training zoo, in the order of its outputs."""
        return self._tasks(self.zoo)

    def _tasks(self, zoo: Zoo) -> list[list[int]]:
        if "classes" not in zoo.records:
            return [list(range(self.data.classes))] * len(zoo.records)
        return [[int(each) for each in task.split("-")] for task in zoo.records["classes"]]

    def dataset(self, split: str) -> ZooDataset:
        """A split; targets are the columns condition, run, accuracy and classes."""
        if split not in self._conditioned:
            dataset = super().dataset(split)
            known = dataset.zoo.records.set_index("id")
            tasks = dict(zip(dataset.zoo.records["id"], self._tasks(dataset.zoo), strict=True))
            ids = dataset.ids.tolist()
            vectors: dict[tuple[int, ...], Tensor] = {}
            for task in {tuple(tasks[i]) for i in ids}:
                vectors[task] = class_means(self.features, self.data.pool_labels, task)
            columns = [self.result, "run", "test_accuracy"]
            own = torch.from_numpy(known.loc[ids, columns].to_numpy(dtype=np.float32, copy=True))
            parts = [torch.stack([vectors[tuple(tasks[i])] for i in ids]), own, torch.tensor([tasks[i] for i in ids])]
            dataset.y = torch.cat([part.float() for part in parts], 1)
            self._conditioned[split] = dataset
        return self._conditioned[split]

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches ``(graphs, targets)``; the graphs hold their conditions ``[B, numbers]``."""
        return _WithConditions(self.dataset(split).loader(batch_size, shuffle=shuffle, seed=seed), self.numbers)

    def objective(self, loss: str | None = None) -> Objective:
        """NT-Xent of the halves (``null`` or ``nt_xent``), or their squared distance (``mse``).

        Raises:
            ValueError: another loss is asked for.
        """
        if loss not in (None, "nt_xent", "mse"):
            raise ValueError(f"trainer.loss={loss!r} is none of nt_xent, mse and null")
        kind = HalvesApart if loss == "mse" else HalvesTogether
        return kind(self.temperature, self.numbers, self.negatives)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of either half when hidden neurons of test networks are permuted."""
        condition = self.dataset("test").y[:, : self.numbers]

        def both(graphs: Any) -> Tensor:
            graphs.condition = condition
            return predict(graphs)

        return zoo_permutation_delta(both, self.test_zoo, self.permutations)


class SharedSpace(Conditioned):
    r"""Conditions are to lie where the weights do (Swanevelder 2025, Section 3.3); who finds whom among test networks.

    - ``nt_xent``, ``chance``, ``below_chance``: the loss over the whole test split, what it is for equal similarities
      (:math:`\ln(2B - 1)` less what is masked), and their difference, in nats.
    - ``recall_1``, ``recall_10``: the share of conditions whose own network is among the most similar of all test
      networks; ``recall_1_weights``: of networks that find their condition; ``recall_1_lift``: the first, over chance.
    - ``probe_accuracy``, ``probe_loss``: R² of ridge regressions from latents of weights, five-fold among test networks
      by run; ``probe_class``: the share of networks whose first class a linear classifier tells.
    """

    @property
    def settings(self) -> tuple[str, ...]:
        """One: all test networks as the gallery."""
        return ("gallery",)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """The metrics above."""
        projected, latents = prediction.chunk(2, 1)
        runs = target[:, self.numbers].long()
        loss = float(nt_xent(projected, latents, self.temperature, runs, self.negatives))
        chance = chance_nt_xent(len(runs), runs, self.negatives)
        first, ten = (recall_at(projected, latents, min(k, len(runs))) for k in (1, 10))
        found = {
            "recall_1": first,
            "recall_10": ten,
            "recall_1_weights": recall_at(latents, projected, 1),
            "recall_1_lift": first * len(runs),
            "nt_xent": loss,
            "chance": chance,
            "below_chance": chance - loss,
        }
        return {name: found | self._probes(latents, target) for name in self.settings}

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each condition finds its network first, ``[N, 1]``, beside ones."""
        projected, latents = (torch.nn.functional.normalize(half, dim=1) for half in prediction.chunk(2, 1))
        similarity = projected @ latents.T
        own = similarity.diagonal().unsqueeze(1)
        hit = ((similarity >= own).sum(1, keepdim=True) == 1).double()
        return hit, torch.ones_like(hit)

    def _probes(self, latents: Tensor, target: Tensor) -> dict[str, float]:
        x, runs = latents.numpy(), target[:, self.numbers].numpy()
        folds = [(np.flatnonzero(runs % FOLDS != k), np.flatnonzero(runs % FOLDS == k)) for k in range(FOLDS)]
        folds = [fold for fold in folds if len(fold[0]) and len(fold[1])]
        found = {}
        for name, column in (("probe_loss", self.numbers - 1), ("probe_accuracy", self.numbers + 1)):
            y = target[:, column].numpy()
            guess = cross_val_predict(RidgeCV(np.logspace(-3, 3, 13)), x, y, cv=folds)
            found[name] = float(1 - np.square(y - guess).sum() / max(np.square(y - y.mean()).sum(), 1e-12))
        first = target[:, self.numbers + 2].long().numpy()
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        enough = all(len(np.unique(first[fold[0]])) > 1 for fold in folds)
        guess = cross_val_predict(classifier, x, first, cv=folds) if enough else np.full_like(first, -1)
        return found | {"probe_class": float((guess == first).mean())}


class Sampling(Conditioned):
    r"""Networks are to be made for a data set never met and a result that is asked for (Section 3.4): P(W | D, R).

    Predictions are rows of ``samples`` networks each. The results asked for are eight quantiles of the training
    networks', in an order of chance, so that they know nothing of the test network whose data set is taken.

    - ``reached_accuracy``: of the sampled networks, on held-out images of their own classes; ``best_accuracy`` where
      one of the two best quantiles of results was asked for.
    - ``spearman``: rank correlation of the losses asked for and reached, over all test networks.
    - ``diversity``: the share of images to which two samples of one condition give different classes.
    - ``distance``: the distance to the nearest training network in weights, over the median distance of a training
      network to its nearest one of another run: far below 1 they are copies.

    Args:
        samples: networks drawn for each condition.
        zoo, latent, encoder, result, temperature, negatives, align, permutations, test_zoo: see `Conditioned`.
    """

    LEVELS = 8

    def __init__(self, zoo: Zoo, latent: int, encoder: Mapping[str, Any], samples: int = 4, **options: Any) -> None:
        super().__init__(zoo, latent, encoder, **options)
        self.samples = samples

    @property
    def settings(self) -> tuple[str, ...]:
        """One: data sets never met."""
        return ("unseen tasks",)

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """Zero: networks are made from conditions, which know no neurons, and draws differ from call to call."""
        return 0.0

    def dataset(self, split: str) -> ZooDataset:
        """A split; what is asked of test networks' data sets are quantiles of training networks' results."""
        known = split in self._conditioned
        dataset = super().dataset(split)
        if split == "test" and not known:
            results = self.dataset("train").y[:, self.numbers - 1].double()
            shares = (torch.arange(self.LEVELS, dtype=torch.float64) + 0.5) / self.LEVELS
            levels = torch.quantile(results, shares).float()
            order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
            dataset.y[:, self.numbers - 1] = levels[order % self.LEVELS]
        return dataset

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """The metrics above."""
        accuracy, loss, differ, distance = self._measured(prediction, target)
        asked = target[:, self.numbers - 1]
        best = self._best(target)
        rank = float(spearmanr(asked.numpy(), loss.mean(1).numpy()).statistic)
        found = {
            "reached_accuracy": float(accuracy.mean()),
            "best_accuracy": float(accuracy[best].mean()),
            "spearman": rank if rank == rank else 0.0,
            "diversity": float(differ.mean()),
            "distance": float(distance.mean()),
        }
        return dict.fromkeys(self.settings, found)

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The accuracy that networks reach of which a good result was asked, ``[n, 1]``, beside ones."""
        best = self._best(target)
        accuracy = self._measured(prediction[best], target[best])[0].mean(1, keepdim=True)
        return accuracy, torch.ones_like(accuracy)

    def _best(self, target: Tensor) -> Tensor:
        """Where one of the two best quantiles of results is asked for."""
        asked = target[:, self.numbers - 1]
        low: Tensor = asked <= asked.unique()[:2].max()
        return low

    def _measured(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Accuracy and loss ``[N, samples]``, differences of samples and distances to training networks ``[N]``."""
        rows = prediction.float().unflatten(1, (self.samples, -1))
        return *self.reached(rows, target), self._distances(rows)

    def reached(self, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What networks reach on held-out images of their conditions' classes.

        Running statistics of normalisation layers are taken anew first, on training images of these classes.

        Shapes:
            - rows: ``[N, S, numbers]``; target: of the conditions ``[N, ...]``
            - result: accuracy and loss ``[N, S]``, and the share of images on which two of S differ ``[N]``
        """
        classes = target[:, self.numbers + 2 :].round().long()
        found: list[list[Tensor]] = []
        size, samples = max(self.together // rows.shape[1], 1), rows.shape[1]
        for part, own in zip(rows.split(size), classes.split(size), strict=True):
            images, labels = self._test.all(own)
            stack = from_rows(part.flatten(0, 1), self._structure)
            if normalised(self._structure):
                stack = self._recalibrated(stack, own.repeat_interleave(samples, 0))
            seen = images.repeat_interleave(samples, 0)
            logits = execute(stack, seen, structure=self._structure, own_inputs=True)
            found.append(_reached(logits.unflatten(0, (-1, samples)), labels))
        accuracy, loss, differ = (torch.cat([part[i] for part in found]) for i in range(3))
        return accuracy, loss, differ

    def _distances(self, rows: Tensor) -> Tensor:
        """To the nearest training network, over that of training networks to their nearest stranger."""
        train = self.dataset("train")
        known = to_rows(train.weights(range(len(train))), self._structure).float()
        between = torch.cdist(known, known)
        runs = train.y[:, self.numbers]
        between[runs.unsqueeze(0) == runs.unsqueeze(1)] = torch.inf
        usual = between.amin(1).median()
        nearest: Tensor = torch.cdist(rows.flatten(0, 1), known).amin(1) / usual
        return nearest.view(-1, self.samples).mean(1).double()


def _reached(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Of class scores ``[n, S, B, C]`` on images whose labels are -1 where they do not count, ``[n, B]``."""
    counted = (labels >= 0).double().unsqueeze(1)
    share = counted / counted.sum(2, keepdim=True)
    right = labels.clamp_min(0).unsqueeze(1)
    given = logits.argmax(3)
    accuracy = ((given == right) * share).sum(2)
    chosen = right.expand(-1, logits.shape[1], -1).unsqueeze(3)
    loss = -(logits.double().log_softmax(3).gather(3, chosen).squeeze(3) * share).sum(2)
    pairs = logits.shape[1] * (logits.shape[1] - 1)
    unlike = (given.unsqueeze(1) != given.unsqueeze(2)) * share.unsqueeze(2)
    return [accuracy, loss, unlike.sum((1, 2, 3)) / max(pairs, 1)]
