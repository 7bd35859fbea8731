"""Models that read the parameters tensor by tensor, by name, and therefore serve one layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from converters import Structure, StructureMismatch, weight_space
from converters.layout import same_layout
from graphnets.layered import Networks, networks_of, structures_of

__all__ = ["ParameterModel"]


class ParameterModel(nn.Module):
    """A model of networks that share one layout, which it may learn from the first networks it sees.

    The structure is part of the ``state_dict`` (as JSON), so a model made with ``structure=None`` can be loaded.
    """

    structure: Structure | None = None

    def adopt(self, structure: Structure) -> None:
        """Become a model of networks with this layout."""
        self.structure = structure
        self.build(structure)

    def build(self, structure: Structure) -> None:
        """Make submodules; every model says how."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it is built of")

    @staticmethod
    def names(structure: Structure) -> list[str]:
        """Trainable tensors in the order of the structure, tied ones once."""
        return [p.name for p in structure.parameters if not p.buffer and p.alias_of is None]

    @property
    def built_for(self) -> str:
        """The structure's name, for `extra_repr`."""
        return "no structure yet" if self.structure is None else self.structure.name

    def read(self, batch: Networks) -> list[Tensor]:
        """Every trainable tensor of B networks, flattened: ``[B, numbers]`` each.

        Raises:
            StructureMismatch: a network has another layout.
            RuntimeError: there is no structure yet.
        """
        if self.structure is None:
            raise RuntimeError(
                f"{type(self).__name__} was made with structure=None and has not seen networks; "
                "call fit_statistics or load a state_dict first, or pass the structure"
            )
        for other in {id(s): s for s in structures_of(batch)}.values():
            if not same_layout(self.structure, other):
                raise StructureMismatch(
                    f"{type(self).__name__} was built for {self.structure!r} and cannot read {other!r}; "
                    "it needs networks of one layout"
                )
        features = weight_space(batch, self.structure)
        return [features[name].flatten(1) for name in self.names(self.structure)]

    def adopt_first(self, batches: Iterable[Any]) -> Iterable[Any]:
        """The same batches; without a structure, the first network's is adopted."""
        for item in batches:
            if self.structure is None:
                self.adopt(structures_of(networks_of(item))[0])
            yield item

    def get_extra_state(self) -> str:
        """The structure as JSON."""
        return "" if self.structure is None else self.structure.to_json()

    def set_extra_state(self, state: str) -> None:
        """Adopt the stored structure where there is none."""
        if state and self.structure is None:
            self.adopt(Structure.from_json(state))
