"""The permutable groups of every annotated network, and the reasons of what stays fixed."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.converters.laws import case
from tests.converters.networks import ALL, NETWORKS, Nested, Network

ALONG_PIXELS = {"cnn_layer_norm", "cnn_layer_norm_pixels", "mixer"}


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_those_annotated(name: str) -> None:
    structure = case(name).structure
    found = Counter(
        group.size if group.cells == 1 else Nested(group.size, group.cells)
        for group in structure.groups
        if group.permutable and not group.factors
    )
    assert found == Counter(NETWORKS[name].groups)


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.frozen])
def test_frozen_axes_have_their_reason(name: str) -> None:
    reasons = "; ".join(f"{where}: {why}" for where, why in case(name).structure.frozen_reasons)
    assert NETWORKS[name].frozen in reasons


def clean(network: Network) -> bool:
    """No reason is expected, not even that an axis of a parameter lies along pixels or patches."""
    return bool(network.groups) and not network.frozen and network.name not in ALONG_PIXELS


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if clean(network)])
def test_nothing_is_frozen_without_need(name: str) -> None:
    assert case(name).structure.frozen_reasons == ()


@pytest.mark.parametrize("name", ALL)
def test_nested_groups_fit_their_parents(name: str) -> None:
    structure = case(name).structure
    for number, group in enumerate(structure.groups):
        assert group.role in ("input", "hidden", "output", "fixed")
        assert group.size % group.cells == 0
        if group.parent is not None:
            assert group.parent != number
            assert structure.groups[group.parent].size == group.cells


def test_table_names_are_unique_and_many() -> None:
    assert len(ALL) >= 100
    assert all(name == network.name for name, network in ALL.items())
