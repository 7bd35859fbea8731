"""Small random networks of the ``transformers`` library: one per model type, built from its configuration class."""

from __future__ import annotations

from benchmarks.coverage.cases import Case
from benchmarks.coverage.hub_build import Recipe, build
from benchmarks.coverage.hub_dense import DENSE
from benchmarks.coverage.hub_language import DECODERS, ENCODERS, PAIRS
from benchmarks.coverage.hub_multimodal import MULTIMODAL
from benchmarks.coverage.hub_speech import SERIES, SPEECH
from benchmarks.coverage.hub_vision import VISION

__all__ = ["KINDS", "LIBRARY", "cases"]

LIBRARY = "transformers"

KINDS: dict[str, dict[str, Recipe]] = {
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "encoder-decoder": PAIRS,
    "vision": VISION,
    "detection, segmentation, depth": DENSE,
    "speech and music": SPEECH,
    "multimodal": MULTIMODAL,
    "time series": SERIES,
}
"""The recipes by what they are for; the page has a table for each."""

FUSED = ("bert", "gpt2", "llama", "t5", "vit", "whisper", "mixtral", "clip")
"""Types that are also built with the fused attention kernel."""


def cases() -> dict[str, Case]:
    """All networks by model type; those with ``/sdpa`` call torch's fused attention."""
    found = {}
    for kind, recipes in KINDS.items():
        for name, recipe in recipes.items():
            found[name] = Case(name, kind, lambda recipe=recipe: build(recipe))
            if name in FUSED:
                fused = f"{name}/sdpa"
                found[fused] = Case(fused, kind, lambda recipe=recipe: build(recipe, attention="sdpa"))
    return found
