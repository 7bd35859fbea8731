"""Probes begin as images of the training pool, never as held-out ones."""

from __future__ import annotations

import pytest
import torch

from experiments.data import load_images, probe_examples

DIGITS = {"name": "digits", "pooling": 2}


def test_they_are_images_of_the_pool_with_their_classes_in_proportion() -> None:
    data = load_images(DIGITS)
    inputs, classes = probe_examples(DIGITS, probes=50)
    pool = {image.numpy().tobytes(): int(label) for image, label in zip(data.pool, data.pool_labels, strict=True)}
    held_out = {image.numpy().tobytes() for image in data.test} - set(pool)
    keys = [image.numpy().tobytes() for image in inputs]
    assert [pool[key] for key in keys] == classes.tolist()
    assert not held_out & set(keys)
    assert len(set(keys)) == 50
    assert torch.bincount(classes).tolist() == [5] * 10


def test_the_seed_decides_which() -> None:
    first, again, other = (probe_examples(DIGITS, probes=20, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_than_the_pool_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="probes=1000, but digits pooled 2x2 has a pool of 1000 images; ask for fewer"):
        probe_examples(DIGITS, probes=1000)
