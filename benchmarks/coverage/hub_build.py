"""From a configuration class and what differs from the common small sizes to a random network."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage.cases import Unavailable

__all__ = ["Recipe", "both", "build", "decoded", "image", "images", "text", "wave"]

Inputs = Callable[[], dict[str, Tensor]]

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")


def text(length: int = 7) -> dict[str, Tensor]:
    """Token numbers ``[1, length]``, none of them special."""
    return {"input_ids": torch.arange(5, 5 + length)[None] % 90}


def decoded(length: int = 5) -> dict[str, Tensor]:
    """Token numbers ``[1, length]`` for a decoder."""
    return {"decoder_input_ids": torch.arange(11, 11 + length)[None]}


def image(side: int = 32, channels: int = 3) -> dict[str, Tensor]:
    """An image ``[1, channels, side, side]`` of noise."""
    return {"pixel_values": torch.randn(1, channels, side, side)}


def images(side: int = 32, channels: int = 3) -> Inputs:
    """The same, as a function to be called later."""
    return lambda: image(side, channels)


def wave(samples: int = 400) -> dict[str, Tensor]:
    """A waveform ``[1, samples]``."""
    return {"input_values": torch.randn(1, samples)}


def both(*parts: Inputs) -> Inputs:
    """Keywords of several inputs together."""

    def merged() -> dict[str, Tensor]:
        return {key: value for part in parts for key, value in part().items()}

    return merged


@dataclass(frozen=True)
class Recipe:
    """A network of ``transformers``.

    Args:
        config, model: names of classes of the library.
        inputs: makes the keywords of the forward pass.
        sizes: arguments of the configuration, besides the common ones that it knows.
        common: whether the common sizes apply to the outermost configuration.
    """

    config: str
    model: str
    inputs: Inputs
    sizes: Mapping[str, Any] = field(default_factory=dict)
    common: bool = True


def build(recipe: Recipe, attention: str = "eager") -> tuple[nn.Module, dict[str, Tensor]]:
    """The network with random weights in eval mode, and its inputs; the same on every call.

    Raises:
        Unavailable: this version of the library does not have the class.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _built(recipe, attention)


def _built(recipe: Recipe, attention: str) -> tuple[nn.Module, dict[str, Tensor]]:
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    try:
        config_class, model_class = getattr(transformers, recipe.config), getattr(transformers, recipe.model)
    except (AttributeError, ImportError) as error:
        raise Unavailable(f"transformers {transformers.__version__}: {error}") from None
    config = config_class(**_arguments(config_class, recipe))
    if hasattr(config, "use_cache"):
        config.use_cache = False
    config._attn_implementation = attention
    model, inputs = model_class(config).eval(), recipe.inputs()
    if "input_ids" in inputs and getattr(config, "pad_token_id", None) is not None:
        with contextlib.suppress(Exception):  # where the library insists on a number
            config.pad_token_id = None  # else some models look for padding among the numbers, only to warn of it
    return model, inputs


def _arguments(config_class: Any, recipe: Recipe) -> dict[str, Any]:
    """The common sizes that the class knows, under the names that it uses, and the recipe's own."""
    arguments: dict[str, Any] = {}
    if recipe.common:
        try:
            default = config_class()
        except Exception:
            default = None
        synonyms = getattr(config_class, "attribute_map", {})
        known = COMMON if default is None else {key: value for key, value in COMMON.items() if hasattr(default, key)}
        arguments = {key: value for key, value in known.items() if synonyms.get(key, key) not in recipe.sizes}
        for number, token in enumerate(SPECIAL_TOKENS):
            given = getattr(default, token, None)
            if isinstance(given, int) and given >= COMMON["vocab_size"]:
                arguments[token] = number
    return {key: _nested(value) for key, value in {**arguments, **recipe.sizes}.items()}


def _nested(value: Any) -> Any:
    """A recipe inside a recipe is a configuration."""
    if isinstance(value, Recipe):
        import transformers

        config_class = getattr(transformers, value.config)
        return config_class(**_arguments(config_class, value))
    return dict(value) if isinstance(value, Mapping) and not inspect.isclass(value) else value
