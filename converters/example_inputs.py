"""Small inputs for networks of the Hugging Face hub, from their configs and the arguments of their forward."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["example_inputs_of"]

TOKENS, ANSWERS, SAMPLES, SIDE = 8, 5, 4000, 64
"""Tokens for an encoder, tokens for a decoder, samples of sound, pixels where the config names no size."""


def example_inputs_of(model: nn.Module) -> list[dict[str, Tensor]]:
    """Dictionaries of keyword arguments to try, the likeliest first; none for networks that have no config.

    Built are ``input_ids``, ``pixel_values``, ``input_features`` and ``input_values``, with ``decoder_input_ids`` for
    encoder-decoders: batches of one, as small as the config allows.
    """
    config = getattr(model, "config", None)
    if config is None:
        return []
    known = inspect.signature(model.forward).parameters
    makers = {"input_ids": _tokens, "pixel_values": _pixels, "input_features": _features, "input_values": _sound}
    makers["past_values"] = _series
    main = getattr(model, "main_input_name", "input_ids")
    wanted = [name for name in dict.fromkeys([main, *makers]) if name in known and name in makers]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    made = {name: _cast(makers[name](config), dtype) for name in wanted}
    extra: dict[str, Tensor] = {}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in known:
        extra["decoder_input_ids"] = _ids(config, ANSWERS)
    sets = [list(made)] if _both(config) else []
    sets += [[name] for name in made]
    sets += [list(made)] if len(made) > 1 else []
    unique = list(dict.fromkeys(tuple(names) for names in sets))
    return [{name: made[name] for name in names} | extra for names in unique]


def _both(config: Any) -> bool:
    """Whether text and images go in together."""
    return hasattr(config, "text_config") and hasattr(config, "vision_config")


def _part(config: Any, names: tuple[str, ...], key: str) -> Any:
    """A config's entry, or that of its first part that has it."""
    for holder in (config, *(getattr(config, name, None) for name in names)):
        value = getattr(holder, key, None)
        if value is not None:
            return value
    return None


def _ids(config: Any, count: int) -> Tensor:
    """Token numbers that are none of the special ones, where the vocabulary is large enough."""
    size = _part(config, ("text_config", "decoder", "encoder"), "vocab_size") or 2
    keys = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
    special = {value for key in keys if isinstance(value := getattr(config, key, None), int)}
    plain = [i for i in range(min(size, 64)) if i not in special] or [0]
    return torch.tensor([[plain[i % len(plain)] for i in range(count)]])


def _tokens(config: Any) -> Tensor:
    return _ids(config, TOKENS)


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _pixels(config: Any) -> Tensor:
    parts = ("vision_config", "encoder", "backbone_config")
    size = _part(config, parts, "image_size") or SIDE
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return _noise(1, _part(config, parts, "num_channels") or 3, height, width)


def _features(config: Any) -> Tensor:
    """Spectra: ``[1, mel, time]`` where the encoder convolves over time (Whisper), else ``[1, time, mel]``."""
    mel = _part(config, ("encoder",), "num_mel_bins")
    if mel is not None:
        return _noise(1, mel, 2 * (getattr(config, "max_source_positions", None) or TOKENS))
    sizes = (getattr(config, key, None) for key in ("input_feat_per_channel", "feature_projection_input_dim"))
    return _noise(1, 32, next((size for size in sizes if size), 80))


def _sound(config: Any) -> Tensor:
    mel, length = getattr(config, "num_mel_bins", None), getattr(config, "max_length", None)
    return _noise(1, length, mel) if mel and length and not hasattr(config, "conv_stride") else _noise(1, SAMPLES)


def _series(config: Any) -> Tensor:
    """Time series ``[1, time, channels]``."""
    return _noise(1, getattr(config, "context_length", TOKENS), getattr(config, "num_input_channels", 1))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
