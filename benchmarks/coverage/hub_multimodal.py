"""Models of ``transformers`` that join text with images, sound or pages, in small sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage.hub_build import Recipe, both, decoded, image, images, text, wave
from benchmarks.coverage.hub_speech import WAVES

__all__ = ["MULTIMODAL"]

LETTERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 99,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PICTURES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
TWO_TOWERS: dict[str, Any] = {"text_config": LETTERS, "vision_config": PICTURES, "projection_dim": 20}
CHAT: dict[str, Any] = {**LETTERS, "num_key_value_heads": 2}


def boxes(length: int = 7) -> dict[str, Tensor]:
    """Token numbers with a place on the page for each."""
    corners = torch.arange(length)[None, :, None] * 7 + torch.tensor([1, 2, 9, 11])
    return {**text(length), "bbox": corners}


def regions(count: int = 5) -> dict[str, Tensor]:
    """Features of regions of an image."""
    return {"visual_feats": torch.randn(1, count, 24), "visual_pos": torch.rand(1, count, 4)}


MULTIMODAL = {
    "clip": Recipe("CLIPConfig", "CLIPModel", both(text, image), TWO_TOWERS, common=False),
    "chinese_clip": Recipe("ChineseCLIPConfig", "ChineseCLIPModel", both(text, image), TWO_TOWERS, common=False),
    "siglip": Recipe(
        "SiglipConfig",
        "SiglipModel",
        both(text, image),
        {"text_config": {**LETTERS, "projection_size": 24}, "vision_config": PICTURES},
        common=False,
    ),
    "align": Recipe(
        "AlignConfig",
        "AlignModel",
        both(text, images(64)),
        {
            "text_config": LETTERS,
            "vision_config": {
                "image_size": 64,
                "width_coefficient": 0.5,
                "depth_coefficient": 0.3,
                "hidden_dim": 64,
                "in_channels": [32, 16],
                "out_channels": [16, 24],
                "kernel_sizes": [3, 3],
                "strides": [1, 2],
                "num_block_repeats": [1, 1],
                "expand_ratios": [1, 6],
            },
            "projection_dim": 16,
        },
        common=False,
    ),
    "altclip": Recipe(
        "AltCLIPConfig",
        "AltCLIPModel",
        both(text, image),
        {**TWO_TOWERS, "text_config": {**LETTERS, "project_dim": 20}},
        common=False,
    ),
    "blip": Recipe(
        "BlipConfig",
        "BlipForImageTextRetrieval",
        both(text, image),
        {**TWO_TOWERS, "text_config": {**LETTERS, "encoder_hidden_size": 24}, "image_text_hidden_size": 16},
        common=False,
    ),
    "groupvit": Recipe(
        "GroupViTConfig",
        "GroupViTModel",
        both(text, image),
        {
            **TWO_TOWERS,
            "vision_config": {
                **PICTURES,
                "num_group_tokens": [6, 4, 0],
                "num_output_groups": [6, 4, 0],
                "depths": [1, 1, 1],
                "num_hidden_layers": 3,
            },
        },
        common=False,
    ),
    "owlvit": Recipe("OwlViTConfig", "OwlViTModel", both(text, image), TWO_TOWERS, common=False),
    "clipseg": Recipe(
        "CLIPSegConfig",
        "CLIPSegForImageSegmentation",
        both(text, image),
        {
            **TWO_TOWERS,
            "reduce_dim": 16,
            "extract_layers": [0, 1],
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 24,
        },
        common=False,
    ),
    "bridgetower": Recipe(
        "BridgeTowerConfig",
        "BridgeTowerModel",
        both(text, image),
        {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "text_config": LETTERS,
            "vision_config": {"hidden_size": 128, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        },
        common=False,
    ),
    "flava": Recipe(
        "FlavaConfig",
        "FlavaModel",
        both(text, image),
        {
            "text_config": LETTERS,
            "image_config": {**PICTURES, "hidden_size": 32},
            "multimodal_config": {key: LETTERS[key] for key in list(LETTERS)[:4]},
            "hidden_size": 32,
            "projection_dim": 20,
        },
        common=False,
    ),
    "clap": Recipe(
        "ClapConfig",
        "ClapModel",
        both(text, lambda: {"input_features": torch.randn(1, 1, 64, 16), "is_longer": torch.tensor([[False]])}),
        {
            "text_config": {**LETTERS, "projection_dim": 20},
            "audio_config": {
                "num_mel_bins": 16,
                "spec_size": 32,
                "patch_size": 4,
                "patch_stride": [4, 4],
                "patch_embeds_hidden_size": 16,
                "depths": [1, 1],
                "num_attention_heads": [2, 2],
                "num_hidden_layers": 2,
                "hidden_size": 32,
                "window_size": 4,
                "projection_dim": 20,
            },
            "projection_dim": 20,
        },
        common=False,
    ),
    "git": Recipe("GitConfig", "GitForCausalLM", both(text, image), {"vision_config": PICTURES}),
    "vilt": Recipe("ViltConfig", "ViltModel", both(text, image), {"image_size": 32, "patch_size": 8}),
    "lxmert": Recipe(
        "LxmertConfig",
        "LxmertModel",
        both(text, regions),
        {"l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 24, "visual_pos_dim": 4},
    ),
    "visual_bert": Recipe(
        "VisualBertConfig",
        "VisualBertModel",
        both(text, lambda: {"visual_embeds": torch.randn(1, 4, 24), "visual_attention_mask": torch.ones(1, 4)}),
        {"visual_embedding_dim": 24},
    ),
    "layoutlm": Recipe("LayoutLMConfig", "LayoutLMModel", boxes, {"max_2d_position_embeddings": 128}),
    "layoutlmv3": Recipe(
        "LayoutLMv3Config",
        "LayoutLMv3Model",
        both(boxes, image),
        {
            "input_size": 32,
            "patch_size": 8,
            "coordinate_size": 6,
            "shape_size": 4,
            "max_2d_position_embeddings": 128,
            "rel_pos_bins": 8,
            "rel_2d_pos_bins": 8,
        },
    ),
    "lilt": Recipe(
        "LiltConfig",
        "LiltModel",
        boxes,
        {"max_2d_position_embeddings": 128, "channel_shrink_ratio": 2, "hidden_size": 48},
    ),
    "tapas": Recipe(
        "TapasConfig",
        "TapasModel",
        both(text, lambda: {"token_type_ids": torch.zeros(1, 7, 7, dtype=torch.int64)}),
    ),
    "trocr": Recipe(
        "VisionEncoderDecoderConfig",
        "VisionEncoderDecoderModel",
        both(image, decoded),
        {
            "encoder": {**PICTURES, "model_type": "vit"},
            "decoder": {
                "model_type": "trocr",
                "vocab_size": 99,
                "d_model": 32,
                "decoder_layers": 2,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 40,
                "max_position_embeddings": 16,
                "cross_attention_hidden_size": 24,
                "is_decoder": True,
                "add_cross_attention": True,
                "pad_token_id": 0,
                "decoder_start_token_id": 1,
            },
        },
        common=False,
    ),
    "pix2struct_vision": Recipe(
        "Pix2StructVisionConfig",
        "Pix2StructVisionModel",
        lambda: {
            "flattened_patches": torch.cat([torch.ones(1, 4, 1), torch.ones(1, 4, 1), torch.randn(1, 4, 48)], -1),
            "attention_mask": torch.ones(1, 4),
        },
        {"patch_embed_hidden_size": 48, "d_ff": 48, "d_kv": 8, "seq_len": 16, "patch_size": 4},
    ),
    "speech_encoder_decoder": Recipe(
        "SpeechEncoderDecoderConfig",
        "SpeechEncoderDecoderModel",
        both(wave, decoded),
        {
            "encoder": {**LETTERS, **WAVES, "model_type": "wav2vec2"},
            "decoder": {
                **LETTERS,
                "model_type": "bert",
                "is_decoder": True,
                "add_cross_attention": True,
            },
        },
        common=False,
    ),
    "llava": Recipe(
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        lambda: {"input_ids": torch.tensor([[3, *[98] * 16, 4, 5]]), **image()},
        {
            "text_config": {**CHAT, "max_position_embeddings": 64, "model_type": "llama"},
            "vision_config": {**PICTURES, "projection_dim": 20, "model_type": "clip_vision_model"},
            "image_token_index": 98,
        },
        common=False,
    ),
    "decision_transformer": Recipe(
        "DecisionTransformerConfig",
        "DecisionTransformerModel",
        lambda: {
            "states": torch.randn(1, 4, 6),
            "actions": torch.randn(1, 4, 3),
            "rewards": torch.randn(1, 4, 1),
            "returns_to_go": torch.randn(1, 4, 1),
            "timesteps": torch.arange(4)[None],
            "attention_mask": torch.ones(1, 4),
        },
        {"state_dim": 6, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "max_ep_len": 16},
    ),
}
