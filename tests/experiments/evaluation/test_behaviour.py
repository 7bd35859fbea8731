"""Metrics of what networks do, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from experiments.evaluation.behaviour import behaviour


def test_a_network_does_what_itself_does() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(3, 40, 4), torch.randint(4, (3, 40))
    found = behaviour(scores, scores, labels)
    for name in ("agreement", "correlation", "cosine"):
        assert torch.allclose(found[name], torch.ones(3).double()), name
    assert torch.equal(found["accuracy_drop"], torch.zeros(3).double())
    assert bool((found["class_entropy"] > 0.9).all())


def test_metrics_are_those_of_the_images_that_count() -> None:
    torch.manual_seed(0)
    original, rebuilt = torch.randn(2, 30, 3), torch.randn(2, 30, 3)
    labels, counted = torch.randint(3, (2, 30)), torch.rand(2, 30) < 0.5
    found = behaviour(original, rebuilt, labels, counted)
    for i in range(2):
        a, b, own = original[i, counted[i]], rebuilt[i, counted[i]], labels[i, counted[i]]
        assert float(found["agreement"][i]) == pytest.approx(float((a.argmax(1) == b.argmax(1)).double().mean()))
        expected = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
        assert float(found["correlation"][i]) == pytest.approx(expected, abs=1e-6)
        assert float(found["cosine"][i]) == pytest.approx(float(functional.cosine_similarity(a, b).mean()), abs=1e-6)
        shares = b.argmax(1).bincount(minlength=3) / len(b)
        entropy = -sum(float(p) * np.log(float(p)) for p in shares if p > 0) / np.log(3)
        assert float(found["class_entropy"][i]) == pytest.approx(entropy, abs=1e-6)
        drop = (a.argmax(1) == own).double().mean() - (b.argmax(1) == own).double().mean()
        assert float(found["accuracy_drop"][i]) == pytest.approx(float(drop))


def test_a_constant_answer_has_no_entropy_and_no_correlation() -> None:
    torch.manual_seed(0)
    constant = torch.zeros(1, 20, 3) + torch.tensor([0.0, 2.0, 0.0])
    found = behaviour(constant, constant)
    assert float(found["agreement"]) == 1.0
    assert float(found["class_entropy"]) == 0.0
    assert float(behaviour(torch.randn(1, 20, 3), torch.zeros(1, 20, 3))["correlation"]) == 0.0
    assert "accuracy_drop" not in found


def test_wrong_use_is_told() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2, 3\] and \[1, 2, 4\]"):
        behaviour(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="no image that counts"):
        behaviour(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), counted=torch.zeros(1, 2, dtype=torch.bool))


def test_a_network_without_finite_scores_gives_the_first_class() -> None:
    scores, labels = torch.randn(3, 40, 4), torch.randint(4, (3, 40))
    broken = scores.clone()
    broken[1] = torch.nan
    found = behaviour(scores, broken, labels)
    assert all(bool(torch.isfinite(values).all()) for values in found.values())
    assert float(found["agreement"][1]) == pytest.approx(float((scores[1].argmax(1) == 0).double().mean()))
    assert float(found["correlation"][1]) == pytest.approx(0.0)
    assert float(found["class_entropy"][1]) == pytest.approx(0.0)
    assert float(found["agreement"][0]) == pytest.approx(1.0)
