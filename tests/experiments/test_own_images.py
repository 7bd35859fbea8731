"""Images of the classes that each network tells apart."""

from __future__ import annotations

import pytest
import torch

from experiments.tasks.own_images import OwnImages

LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 3, 3, 0])
IMAGES = OwnImages(torch.stack([LABELS.float(), torch.arange(11.0)], 1), LABELS)
CLASSES = torch.tensor([[2, 0], [3, 1], [0, 3]])


def test_all_images_of_own_classes_once_and_what_is_right() -> None:
    inputs, right = IMAGES.all(CLASSES)
    assert inputs.shape == (3, 7, 2)
    for own, images, outputs in zip(CLASSES, inputs, right, strict=True):
        inside = outputs >= 0
        assert torch.equal(own[outputs[inside]].float(), images[inside, 0])
        wanted = torch.nonzero(torch.isin(LABELS, own)).flatten()
        assert torch.equal(images[inside, 1].sort().values, wanted.float())


def test_spaced_images_are_of_all_classes_and_apart() -> None:
    found = IMAGES.spaced(CLASSES, 4)
    assert torch.equal(found[..., 0], CLASSES.repeat(1, 2).float())
    assert torch.equal(found[0, :, 1], torch.tensor([0.0, 1.0, 4.0, 7.0]))
    assert torch.equal(found, IMAGES.spaced(CLASSES, 4))
    assert torch.equal(IMAGES.spaced(CLASSES, 3)[..., 0], CLASSES[:, [0, 1, 0]].float())


def test_drawn_images_are_of_own_classes_and_follow_the_seed() -> None:
    torch.manual_seed(0)
    found = IMAGES.drawn(CLASSES, 200)
    assert torch.equal(found[..., 0], CLASSES.repeat(1, 100).float())
    assert set(found[0, :, 1].tolist()) == {0, 4, 5, 1, 3, 7, 10}
    torch.manual_seed(0)
    assert torch.equal(found, IMAGES.drawn(CLASSES, 200))
    assert not torch.equal(found, IMAGES.drawn(CLASSES, 200))


def test_a_class_without_images_is_named() -> None:
    few = OwnImages(torch.zeros(3, 2), torch.tensor([0, 2, 2]))
    with pytest.raises(ValueError, match="no images of class 1"):
        few.spaced(torch.tensor([[0, 1]]), 2)
