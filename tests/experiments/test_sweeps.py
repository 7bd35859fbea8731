"""Grids of settings: all of them, or always the same random ones."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.sweeps import listed_settings

GRID = [{"grid": {"model.blocks": [4, 6], "optim.optimizer.lr": [1e-3, 1e-4, 1e-5], "model.heads": [4, 8]}}]


def test_a_grid_is_every_combination_once() -> None:
    found = listed_settings(GRID, 99)
    assert len(found) == 12
    assert len({str(each) for each in found}) == 12
    assert found[0] == {"model": {"blocks": 4, "heads": 4}, "optim": {"optimizer": {"lr": 1e-3}}}
    assert [each["model"]["heads"] for each in found[:3]] == [4, 8, 4]


def test_of_a_large_grid_the_first_and_the_same_random_others_are_taken() -> None:
    everything = listed_settings(GRID, 12)
    for trials in (1, 2, 5):
        found = listed_settings(GRID, trials)
        assert found == listed_settings(GRID, trials)
        assert found[0] == everything[0]
        assert len({str(each) for each in found}) == trials
        assert all(each in everything for each in found)
    assert listed_settings(GRID, 3)[1:] != everything[1:3]


def test_a_list_is_taken_from_its_start() -> None:
    assert listed_settings(None, 1) == [{}]
    assert listed_settings([{}, {"a": 1}, {"a": 2}], 2) == [{}, {"a": 1}]


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ([{"grid": {"a": [1]}}, {}], "a grid stands alone"),
        ([{"grid": {"a": [1]}, "model": {}}], "a grid stands alone"),
        ([{"grid": {}}], "grid: names no keys"),
        ([{"grid": [1, 2]}], "grid: names no keys"),
        ([{"grid": {"a": [1], "b": 3}}], "grid.b: is not a list of values"),
        ([{"grid": {"a": []}}], "grid.a: is not a list of values"),
    ],
)
def test_what_is_no_grid_is_refused(tuning: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listed_settings(tuning, 2)
