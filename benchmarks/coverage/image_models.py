"""One network of every module of ``timm``: the one with the fewest parameters by name, random weights, small images."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.cases import Case, Unavailable

__all__ = ["LIBRARY", "cases"]

LIBRARY = "timm"

SIDES = (64, 96, 128, 160, 224, 256)
"""Sides of images that are tried; the smallest that the network takes is used, and two blocks where it lets one say."""

SMALL = """
zepto atto femto test pico nano xxxs xxs xx_small xs x_small tiny mini lite t0 b0 small s 18 26 50
""".split()
"""What small members of a family are called, smallest first."""

MOST_PARAMETERS = 60_000_000


def _size(name: str) -> tuple[int, int, str]:
    """Sorts the members of a family: by what they are called, then by the length of the name."""
    rank = next((number for number, word in enumerate(SMALL) if re.search(rf"(^|_|\d){word}(_|\d|$)", name)), 99)
    return rank, len(name), name


def _smallest() -> dict[str, str]:
    """Module of the library to the name of its smallest network."""
    import timm

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
        if not name.startswith("test_"):
            families.setdefault(module, []).append(name)
    return {module: min(names, key=_size) for module, names in sorted(families.items())}


def _make(name: str) -> tuple[nn.Module, Any]:
    import timm

    problems: list[str] = []
    for side in SIDES:
        for options in ({"img_size": side, "depth": 2}, {"img_size": side}, {"depth": 2}, {}):
            torch.manual_seed(0)
            try:
                model = timm.create_model(name, pretrained=False, num_classes=10, **options).eval()
            except Exception as error:
                problems.append(str(error)[:100])
                continue
            count = sum(parameter.numel() for parameter in model.parameters())
            if count > MOST_PARAMETERS:
                raise Unavailable(f"its smallest network has {count / 1e6:.0f} M parameters")
            channels = model.default_cfg.get("input_size", (3, 0, 0))[0]
            image = torch.randn(1, channels, side, side)
            try:
                with torch.no_grad():
                    model(image)
            except Exception as error:
                problems.append(str(error)[:100])
                continue
            return model, image
    raise Unavailable(f"it takes no image of {SIDES[0]} to {SIDES[-1]} pixels: {problems[-1] if problems else ''}")


def cases() -> dict[str, Case]:
    """Networks by name, one per module of the library; the tables are by kind of network."""
    return {
        name: Case(name, _kind(module), partial(_make, name), note=f"`{module}`")
        for module, name in _smallest().items()
    }


def _kind(module: str) -> str:
    """Whether a module's networks attend, mix tokens, or convolve only."""
    import timm.models

    source = inspect.getsource(getattr(timm.models, module, timm.models)).lower()
    if "attention(" in source and ("q @ k" in source or "scaled_dot_product" in source or "softmax" in source):
        return "with attention"
    return "without attention"
