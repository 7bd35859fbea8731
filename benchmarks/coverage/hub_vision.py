"""Vision models of ``transformers`` in small sizes: images and clips to features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage.hub_build import Recipe, both, images

__all__ = ["CONVNEXT", "PATCHES", "STAGES", "VISION", "WINDOWS"]

PATCHES: dict[str, Any] = {"image_size": 32, "patch_size": 8}
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 1]}
WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 2, 1]}


def video(frames: int = 4, side: int = 32) -> dict[str, Tensor]:
    """A clip ``[1, frames, 3, side, side]``."""
    return {"pixel_values": torch.randn(1, frames, 3, side, side)}


VISION = {
    "vit": Recipe("ViTConfig", "ViTModel", images(), PATCHES),
    "deit": Recipe("DeiTConfig", "DeiTModel", images(), PATCHES),
    "vit_msn": Recipe("ViTMSNConfig", "ViTMSNModel", images(), PATCHES),
    "vit_mae": Recipe(
        "ViTMAEConfig",
        "ViTMAEModel",
        both(images(), lambda: {"noise": torch.rand(1, 16)}),
        {
            **PATCHES,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 24,
        },
    ),
    "ijepa": Recipe("IJepaConfig", "IJepaModel", images(), PATCHES),
    "beit": Recipe(
        "BeitConfig",
        "BeitModel",
        images(),
        {**PATCHES, "use_relative_position_bias": True, "use_absolute_position_embeddings": True},
    ),
    "data2vec_vision": Recipe(
        "Data2VecVisionConfig", "Data2VecVisionModel", images(), {**PATCHES, "use_relative_position_bias": True}
    ),
    "dinov2": Recipe("Dinov2Config", "Dinov2Model", images(), PATCHES),
    "dinov2_with_registers": Recipe("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", images(), PATCHES),
    "dinov3_vit": Recipe("DINOv3ViTConfig", "DINOv3ViTModel", images(), PATCHES),
    "hiera": Recipe(
        "HieraConfig",
        "HieraModel",
        images(64),
        {
            "image_size": [64, 64],
            "embed_dim": 16,
            "depths": [1, 1, 1],
            "num_heads": [1, 2, 4],
            "query_stride": [2, 2],
            "num_query_pool": 1,
        },
    ),
    "swin": Recipe("SwinConfig", "SwinModel", images(), WINDOWS),
    "swinv2": Recipe("Swinv2Config", "Swinv2Model", images(), WINDOWS),
    "swin2sr": Recipe(
        "Swin2SRConfig",
        "Swin2SRForImageSuperResolution",
        images(16),
        {**WINDOWS, "image_size": 16, "patch_size": 1, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]},
    ),
    "convnext": Recipe("ConvNextConfig", "ConvNextModel", images(64), CONVNEXT, common=False),
    "convnextv2": Recipe("ConvNextV2Config", "ConvNextV2Model", images(64), CONVNEXT, common=False),
    "dinov3_convnext": Recipe("DINOv3ConvNextConfig", "DINOv3ConvNextModel", images(64), CONVNEXT, common=False),
    "resnet": Recipe("ResNetConfig", "ResNetModel", images(64), {**STAGES, "layer_type": "bottleneck"}),
    "regnet": Recipe("RegNetConfig", "RegNetModel", images(64), {**STAGES, "groups_width": 8}),
    "bit": Recipe("BitConfig", "BitModel", images(64), {**STAGES, "num_groups": 2}),
    "mobilenet_v1": Recipe("MobileNetV1Config", "MobileNetV1Model", images(64), {"depth_multiplier": 0.25}),
    "mobilenet_v2": Recipe("MobileNetV2Config", "MobileNetV2Model", images(64), {"depth_multiplier": 0.25}),
    "efficientnet": Recipe(
        "EfficientNetConfig",
        "EfficientNetModel",
        images(64),
        {
            "image_size": 64,
            "width_coefficient": 0.5,
            "hidden_dim": 640,
            "depth_coefficient": 0.3,
            "in_channels": [32, 16, 24],
            "out_channels": [16, 24, 40],
            "kernel_sizes": [3, 3, 5],
            "strides": [1, 2, 2],
            "num_block_repeats": [1, 2, 2],
            "expand_ratios": [1, 6, 6],
        },
        common=False,
    ),
    "mobilevit": Recipe(
        "MobileViTConfig",
        "MobileViTModel",
        images(64),
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32],
            "num_attention_heads": 4,
            "patch_size": 2,
        },
        common=False,
    ),
    "mobilevitv2": Recipe(
        "MobileViTV2Config",
        "MobileViTV2Model",
        images(64),
        {"image_size": 64, "width_multiplier": 0.25, "base_attn_unit_dims": [32, 48, 64], "n_attn_blocks": [1, 1, 1]},
        common=False,
    ),
    "levit": Recipe(
        "LevitConfig",
        "LevitModel",
        images(64),
        {
            "image_size": 64,
            "patch_size": 16,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
            "down_ops": [["Subsample", 4, 4, 4, 2, 2], ["Subsample", 4, 6, 4, 2, 2]],
        },
        common=False,
    ),
    "cvt": Recipe(
        "CvtConfig",
        "CvtModel",
        images(64),
        {"embed_dim": [16, 24, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
        common=False,
    ),
    "pvt": Recipe(
        "PvtConfig",
        "PvtModel",
        images(64),
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
        },
        common=False,
    ),
    "pvt_v2": Recipe(
        "PvtV2Config",
        "PvtV2Model",
        images(64),
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
        },
        common=False,
    ),
    "focalnet": Recipe(
        "FocalNetConfig",
        "FocalNetModel",
        images(),
        {
            "image_size": 32,
            "embed_dim": 16,
            "hidden_sizes": [16, 24],
            "depths": [1, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        common=False,
    ),
    "poolformer": Recipe(
        "PoolFormerConfig",
        "PoolFormerModel",
        images(64),
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        common=False,
    ),
    "swiftformer": Recipe(
        "SwiftFormerConfig",
        "SwiftFormerModel",
        images(64),
        {"depths": [1, 1, 2, 1], "embed_dims": [8, 16, 24, 32], "image_size": 64},
        common=False,
    ),
    "hgnet_v2": Recipe("HGNetV2Config", "HGNetV2Backbone", images(64), {"out_features": ["stage4"]}, common=False),
    "textnet": Recipe("TextNetConfig", "TextNetModel", images(64), common=False),
    "vitdet": Recipe(
        "VitDetConfig",
        "VitDetModel",
        images(),
        {**PATCHES, "pretrain_image_size": 32, "use_relative_position_embeddings": True},
    ),
    "siglip_vision": Recipe("SiglipVisionConfig", "SiglipVisionModel", images(), PATCHES),
    "clip_vision": Recipe("CLIPVisionConfig", "CLIPVisionModel", images(), PATCHES),
    "mgp_str": Recipe(
        "MgpstrConfig",
        "MgpstrForSceneTextRecognition",
        images(32),
        {
            "image_size": [32, 32],
            "num_bpe_labels": 99,
            "num_wordpiece_labels": 99,
            "max_token_length": 5,
        },
    ),
    "timesformer": Recipe("TimesformerConfig", "TimesformerModel", video, {**PATCHES, "num_frames": 4}),
    "videomae": Recipe("VideoMAEConfig", "VideoMAEModel", video, {**PATCHES, "num_frames": 4}),
    "vivit": Recipe("VivitConfig", "VivitModel", video, {"image_size": 32, "num_frames": 4, "tubelet_size": [2, 8, 8]}),
    "vjepa2": Recipe(
        "VJEPA2Config",
        "VJEPA2Model",
        lambda: {"pixel_values_videos": torch.randn(1, 4, 3, 32, 32)},
        {
            "crop_size": 32,
            "patch_size": 8,
            "frames_per_clip": 4,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 4,
            "pred_num_hidden_layers": 1,
            "hidden_size": 48,
        },
    ),
}
