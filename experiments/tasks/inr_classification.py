"""Tell what an implicit neural representation shows from its weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from converters import Structure
from experiments.evaluation.metrics import classification_metrics
from experiments.tasks.invariance import zoo_permutation_delta
from experiments.tasks.objective import CrossEntropy, Objective
from experiments.zoo import Zoo, ZooDataset

__all__ = ["InrClassification"]

LABEL = "label"


class InrClassification:
    """Classification of networks by the label of the image that each one draws.

    Predictions are probabilities of the classes. Besides the test networks the training networks are scored, which
    tells what a method cannot fit from what it cannot carry over (Zhou et al. 2023, arXiv:2302.14040, Table 16).

    Args:
        zoo: networks with a column ``label`` of classes from 0.
        permutations: true permutations tried by `invariance`.
        canonical: symmetries of activations to remove from the weights, see `converters.canonicalize`; None: none.
        test_zoo: another zoo whose test networks are classified instead of this one's.

    Raises:
        ValueError: a zoo has no labels, or its labels are no classes.
    """

    def __init__(
        self,
        zoo: Zoo,
        permutations: int = 4,
        canonical: Sequence[str] | None = None,
        test_zoo: Zoo | None = None,
    ) -> None:
        self.canonical = tuple(canonical or ())
        self.zoo, self.test_zoo, self.permutations = zoo, zoo if test_zoo is None else test_zoo, permutations
        for each in (self.zoo, self.test_zoo):
            if LABEL not in each.records:
                raise ValueError(
                    f"{each.path} has no column {LABEL}: its networks draw no labelled images; "
                    "choose a zoo of SIRENs, such as zoo=digits_siren"
                )
            if not (each.records[LABEL] >= 0).all() or each.records[LABEL].dtype.kind != "i":
                raise ValueError(f"{each.path}: labels must be whole numbers from 0")
        self.classes = int(zoo.header["data"]["classes"])
        self._datasets = dict[str, ZooDataset]()

    @property
    def settings(self) -> tuple[str, ...]:
        """One: the class."""
        return ("class",)

    @property
    def also_scored(self) -> tuple[str, ...]:
        """The training networks."""
        return ("train",)

    @property
    def outputs(self) -> int:
        """One number per class."""
        return self.classes

    @property
    def structure(self) -> Structure | None:
        """The architecture, or None where there are several."""
        return self.zoo.structure

    def dataset(self, split: str) -> ZooDataset:
        """The networks of a split with their labels."""
        return ZooDataset(self.test_zoo if split == "test" else self.zoo, split, [LABEL], self.canonical)

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> Iterable[Any]:
        """Batches ``(graphs, labels [B, 1])``."""
        if split not in self._datasets:
            self._datasets[split] = self.dataset(split)
        return self._datasets[split].loader(batch_size, shuffle=shuffle, seed=seed)

    def objective(self, loss: str | None = None) -> Objective:
        """Cross-entropy.

        Raises:
            ValueError: another loss is asked for.
        """
        if loss is not None:
            raise ValueError(f"trainer.loss={loss!r}: classes are learned by their cross-entropy; leave it null")
        return CrossEntropy(self.classes)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
        """The accuracy, of probabilities ``[N, classes]`` and labels ``[N, 1]``."""
        return {name: classification_metrics(*self.answers(prediction, target)) for name in self.settings}

    def answers(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable class and the right one, ``[N, 1]``."""
        return prediction.argmax(1, keepdim=True).double(), target

    def invariance(self, predict: Callable[[Any], Tensor]) -> float:
        """The largest change of a probability when hidden neurons of test networks are permuted."""
        return zoo_permutation_delta(predict, self.test_zoo, self.permutations, self.canonical)
