"""Detection, segmentation, depth and keypoint models of ``transformers`` in small sizes."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.coverage.hub_build import Recipe, images
from benchmarks.coverage.hub_vision import CONVNEXT, PATCHES, STAGES, WINDOWS

__all__ = ["DENSE"]

BACKBONE = Recipe(
    "ResNetConfig",
    "ResNetModel",
    images(64),
    {**STAGES, "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
)
TRANSFORMER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "num_queries": 5,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": BACKBONE,
}

DENSE = {
    "segformer": Recipe(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        images(),
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [3, 3],
            "strides": [4, 2],
            "num_attention_heads": [2, 4],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 24,
        },
        common=False,
    ),
    "detr": Recipe("DetrConfig", "DetrForObjectDetection", images(64), TRANSFORMER),
    "conditional_detr": Recipe("ConditionalDetrConfig", "ConditionalDetrModel", images(64), TRANSFORMER),
    "deformable_detr": Recipe(
        "DeformableDetrConfig", "DeformableDetrModel", images(64), {**TRANSFORMER, "num_feature_levels": 3}
    ),
    "dab_detr": Recipe(
        "DabDetrConfig",
        "DabDetrModel",
        images(64),
        {
            **{key: value for key, value in TRANSFORMER.items() if key != "d_model"},
            "hidden_size": 32,
        },
    ),
    "table_transformer": Recipe(
        "TableTransformerConfig", "TableTransformerForObjectDetection", images(64), TRANSFORMER
    ),
    "rt_detr": Recipe(
        "RTDetrConfig",
        "RTDetrModel",
        images(64),
        {
            "backbone_config": Recipe(
                "RTDetrResNetConfig",
                "RTDetrResNetBackbone",
                images(64),
                {
                    **STAGES,
                    "embedding_size": 16,
                    "layer_type": "basic",
                    "out_features": ["stage2", "stage3", "stage4"],
                },
                common=False,
            ),
            "d_model": 32,
            "encoder_hidden_dim": 32,
            "encoder_in_channels": [24, 32, 40],
            "encoder_ffn_dim": 48,
            "encoder_attention_heads": 4,
            "decoder_in_channels": [32, 32, 32],
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 40,
            "num_queries": 5,
        },
        common=False,
    ),
    "yolos": Recipe(
        "YolosConfig",
        "YolosForObjectDetection",
        images(),
        {"image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 5},
    ),
    "maskformer": Recipe(
        "MaskFormerConfig",
        "MaskFormerForInstanceSegmentation",
        images(64),
        {
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
            "backbone_config": Recipe(
                "SwinConfig",
                "SwinModel",
                images(64),
                {
                    **WINDOWS,
                    "image_size": 64,
                    "depths": [1, 1, 1, 1],
                    "num_heads": [2, 2, 4, 4],
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                },
                common=False,
            ),
            "decoder_config": Recipe(
                "DetrConfig",
                "DetrModel",
                images(),
                {key: value for key, value in TRANSFORMER.items() if "backbone" not in key},
                common=False,
            ),
        },
        common=False,
    ),
    "mask2former": Recipe(
        "Mask2FormerConfig",
        "Mask2FormerForUniversalSegmentation",
        images(64),
        {
            "backbone_config": Recipe(
                "SwinConfig",
                "SwinModel",
                images(64),
                {
                    **WINDOWS,
                    "image_size": 64,
                    "depths": [1, 1, 1, 1],
                    "num_heads": [2, 2, 4, 4],
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                },
                common=False,
            ),
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 48,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "dim_feedforward": 48,
            "num_queries": 5,
        },
        common=False,
    ),
    "upernet": Recipe(
        "UperNetConfig",
        "UperNetForSemanticSegmentation",
        images(64),
        {
            "backbone_config": Recipe(
                "ConvNextConfig",
                "ConvNextModel",
                images(64),
                {**CONVNEXT, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
                common=False,
            ),
            "hidden_size": 24,
            "use_auxiliary_head": True,
            "auxiliary_in_channels": 16,
            "auxiliary_channels": 12,
        },
        common=False,
    ),
    "dpt": Recipe(
        "DPTConfig",
        "DPTForDepthEstimation",
        images(),
        {
            **PATCHES,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 16, 24, 32],
            "fusion_hidden_size": 16,
            "is_hybrid": False,
        },
    ),
    "glpn": Recipe(
        "GLPNConfig",
        "GLPNForDepthEstimation",
        images(64),
        {
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 16,
        },
        common=False,
    ),
    "depth_anything": Recipe(
        "DepthAnythingConfig",
        "DepthAnythingForDepthEstimation",
        images(56),
        {
            "backbone_config": Recipe(
                "Dinov2Config",
                "Dinov2Model",
                images(),
                {
                    "image_size": 56,
                    "patch_size": 14,
                    "num_hidden_layers": 4,
                    "out_features": ["stage1", "stage2", "stage3", "stage4"],
                    "reshape_hidden_states": False,
                },
            ),
            "reassemble_hidden_size": 32,
            "patch_size": 14,
            "neck_hidden_sizes": [8, 16, 24, 32],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
        },
        common=False,
    ),
    "superpoint": Recipe(
        "SuperPointConfig",
        "SuperPointForKeypointDetection",
        images(32),
        {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "descriptor_decoder_dim": 16},
        common=False,
    ),
    "vitpose": Recipe(
        "VitPoseConfig",
        "VitPoseForPoseEstimation",
        images(32),
        {
            "backbone_config": Recipe(
                "VitPoseBackboneConfig",
                "VitPoseBackbone",
                images(),
                {"image_size": [32, 32], "patch_size": [8, 8], "out_indices": [2]},
            ),
            "num_labels": 5,
        },
        common=False,
    ),
    "vitmatte": Recipe(
        "VitMatteConfig",
        "VitMatteForImageMatting",
        images(32, 4),
        {
            "backbone_config": Recipe(
                "VitDetConfig",
                "VitDetBackbone",
                images(),
                {"image_size": 32, "pretrain_image_size": 32, "patch_size": 16, "num_channels": 4, "out_indices": [2]},
            ),
            "hidden_size": 32,
            "fusion_hidden_sizes": [16, 12, 8, 4],
            "convstream_hidden_sizes": [8, 12, 16],
        },
        common=False,
    ),
    "sam": Recipe(
        "SamConfig",
        "SamModel",
        lambda: {"pixel_values": torch.randn(1, 3, 32, 32), "input_points": torch.tensor([[[[8.0, 9.0]]]])},
        {
            "vision_config": {
                **PATCHES,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "mlp_dim": 48,
                "output_channels": 16,
                "num_pos_feats": 8,
                "window_size": 2,
                "global_attn_indexes": [1],
            },
            "prompt_encoder_config": {**PATCHES, "hidden_size": 16, "mask_input_channels": 4},
            "mask_decoder_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "mlp_dim": 24,
                "iou_head_hidden_dim": 16,
            },
        },
        common=False,
    ),
}
