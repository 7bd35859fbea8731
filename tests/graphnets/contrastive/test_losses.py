"""NT-Xent against its formula, chance, and retrieval."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graphnets.contrastive import chance_nt_xent, nt_xent, recall_at


def by_formula(first: Tensor, second: Tensor, temperature: float, runs: list[int], across: bool) -> float:
    """Equation 2.7, term by term."""
    z = [*first, *second]
    count, own = len(first), runs * 2
    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        terms = []
        for k in range(2 * count):
            left_out = k == i or (own[k] == own[i] and k != partner) or (across and (k < count) == (i < count))
            if not left_out:
                terms.append(math.exp(float(functional.cosine_similarity(z[i], z[k], 0)) / temperature))
        positive = math.exp(float(functional.cosine_similarity(z[i], z[partner], 0)) / temperature)
        total -= math.log(positive / sum(terms))
    return total / (2 * count)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("runs", [[0, 1, 2, 3, 4], [0, 0, 1, 1, 2]])
def test_the_loss_is_the_formula(runs: list[int], across: bool) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 7, dtype=torch.float64)
    found = nt_xent(first, second, 0.3, torch.tensor(runs), "across" if across else "all")
    assert math.isclose(float(found), by_formula(first, second, 0.3, runs, across), rel_tol=1e-12)


def test_strangers_need_no_runs_and_snapshots_of_one_run_count_otherwise() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 6, 4, dtype=torch.float64)
    plain = nt_xent(first, second)
    assert torch.equal(plain, nt_xent(first, second, runs=torch.arange(6)))
    assert nt_xent(first, second, runs=torch.tensor([0, 0, 1, 1, 2, 2])) < plain, "fewer negatives"


@pytest.mark.parametrize("negatives", ["all", "across"])
def test_a_constant_answer_scores_chance(negatives: str) -> None:
    runs = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    constant = torch.ones(7, 3, dtype=torch.float64)
    for given in (None, runs):
        chance = chance_nt_xent(7, given, negatives)
        assert math.isclose(float(nt_xent(constant, constant, 0.1, given, negatives)), chance, rel_tol=1e-12)
    assert math.isclose(chance_nt_xent(7), math.log(13))


def test_lengths_do_not_matter_and_gradients_do() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 3, dtype=torch.float64)
    lengths = torch.rand(4, 1, dtype=torch.float64) + 0.5
    assert torch.allclose(nt_xent(first, second), nt_xent(first * lengths, second), rtol=1e-12)
    first.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, second, 0.5, torch.tensor([0, 0, 1, 2])), first)


def test_recall_counts_partners_among_the_nearest() -> None:
    gallery = functional.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    queries = gallery[[0, 0, 2, 2]]  # the second and the fourth ask for the wrong one
    assert recall_at(queries, gallery, 1) == 0.5
    assert recall_at(queries, gallery, 2) == 0.75
    assert recall_at(queries, gallery, 4) == 1.0
    assert recall_at(queries, gallery, 1, owners=torch.tensor([0, 0, 1, 1])) == 1.0


def test_a_constant_answer_finds_nothing() -> None:
    constant = torch.ones(10, 3)
    assert recall_at(constant, constant, 1) == 0.0
    assert recall_at(constant, torch.randn(10, 3), 10) == 1.0


def test_wrong_use_is_told() -> None:
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"pairs of shapes \[4, 3\] and \[3, 3\]"):
        nt_xent(z, z[:3])
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        nt_xent(z, z, 0)
    with pytest.raises(ValueError, match="one of all, across"):
        nt_xent(z, z, negatives="some")
    with pytest.raises(ValueError, match=r"4 pairs and \[3\] runs"):
        nt_xent(z, z, runs=torch.arange(3))
    with pytest.raises(ValueError, match="k=5 is not between 1 and 4"):
        recall_at(z, z, 5)
