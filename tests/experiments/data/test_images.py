from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from experiments.data import digits, load_images
from experiments.data.images import average_pool, stratified_split, translate


def test_the_split_is_disjoint_exhaustive_stable_and_stratified() -> None:
    labels = load_digits().target
    pool, test = stratified_split(labels, 797, seed=0)
    assert len(pool) == 1000
    assert len(test) == 797
    assert np.array_equal(np.sort(np.concatenate([pool, test])), np.arange(len(labels)))
    again = stratified_split(labels, 797, seed=0)
    assert np.array_equal(test, again[1])
    assert not np.array_equal(test, stratified_split(labels, 797, seed=1)[1])
    share = np.bincount(labels[test]) / np.bincount(labels)
    assert np.abs(share - 797 / 1797).max() < 0.01


def test_pooled_digits_are_the_means_of_two_by_two_squares() -> None:
    data = digits(pooling=2)
    assert data.image_shape == (1, 4, 4)
    images, labels = load_digits(return_X_y=True)
    _, test = stratified_split(labels, 797, seed=0)
    first = images[test[0]].reshape(8, 8)
    expected = torch.tensor(first.reshape(4, 2, 4, 2).mean((1, 3)) / 16, dtype=torch.float32)
    found = data.test[0, 0]
    # Standardising is one affine map for all pixels of all images.
    slope = (found[1, 1] - found[0, 0]) / (expected[1, 1] - expected[0, 0])
    assert torch.allclose(found - found[0, 0], slope * (expected - expected[0, 0]), atol=1e-5)
    assert abs(float(data.pool.mean())) < 1e-5
    assert abs(float(data.pool.std()) - 1) < 1e-4
    assert data.test_labels.tolist() == labels[test].tolist()


def test_the_shifted_test_set_is_translated_before_pooling() -> None:
    plain, pooled = digits(pooling=1), digits(pooling=2)
    zero = plain.test.min()  # the background pixel
    right = plain.shifted[: len(plain.test)]
    assert torch.equal(right[..., 1:], plain.test[..., :-1])
    assert torch.equal(right[..., 0], zero.expand_as(right[..., 0]))
    assert len(pooled.shifted) == 4 * len(pooled.test)
    assert torch.equal(pooled.shifted_labels, pooled.test_labels.repeat(4))
    mean, deviation = average_pool(right, 2).mean(), average_pool(right, 2).std()
    shifted = pooled.shifted[: len(pooled.test)]
    standard = (shifted - shifted.mean()) / shifted.std()
    assert torch.allclose((average_pool(right, 2) - mean) / deviation, standard, atol=1e-4)


def test_translations_undo_one_another_inside() -> None:
    images = torch.randn(2, 1, 5, 6)
    there_and_back = translate(translate(images, 1, -2), -1, 2)
    assert torch.equal(there_and_back[..., :4, 2:], images[..., :4, 2:])


def test_the_fingerprint_sees_every_part() -> None:
    data = digits(pooling=2)
    assert data.fingerprint == digits(pooling=2).fingerprint
    for name in ("pool", "test", "shifted"):
        changed = getattr(data, name).clone()
        changed[0, 0, 0, 0] += 1e-3
        assert dataclasses.replace(data, **{name: changed}).fingerprint != data.fingerprint


def test_unknown_data_and_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"data\.name='cats' is not a known data set; known are digits"):
        load_images({"name": "cats"})
    with pytest.raises(ValueError, match="has no option poling; its options are pooling"):
        load_images({"name": "digits", "poling": 2})
    with pytest.raises(ValueError, match="8x8 pixels cannot be cut into 3x3 squares"):
        load_images({"name": "digits", "pooling": 3})
    with pytest.raises(ValueError, match="test_images=1797 leaves no training pool"):
        load_images({"name": "digits", "test_images": 1797})
