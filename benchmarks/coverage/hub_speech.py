"""Speech, music and time series models of ``transformers`` in small sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage.hub_build import Recipe, both, decoded, text, wave

__all__ = ["SERIES", "SPEECH", "WAVES"]

WAVES: dict[str, Any] = {
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
}
STRIDED: dict[str, Any] = {**WAVES, "squeeze_factor": 2}
PAIR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
}


def mel(frames: int, bins: int) -> dict[str, Tensor]:
    """A spectrogram ``[1, frames, bins]``."""
    return {"input_features": torch.randn(1, frames, bins)}


def past(length: int = 16, channels: int = 2) -> dict[str, Tensor]:
    """A series ``[1, length, channels]``."""
    return {"past_values": torch.randn(1, length, channels)}


def forecast() -> dict[str, Tensor]:
    """What the forecasting transformers take: past values, time features, and those of the future."""
    return {
        "past_values": torch.randn(1, 19),
        "past_time_features": torch.randn(1, 19, 2),
        "past_observed_mask": torch.ones(1, 19),
        "future_values": torch.randn(1, 4),
        "future_time_features": torch.randn(1, 4, 2),
    }


FORECASTER: dict[str, Any] = {
    **{key: value for key, value in PAIR.items() if key != "d_model"},
    "d_model": 16,
    "prediction_length": 4,
    "context_length": 12,
    "num_time_features": 2,
    "lags_sequence": [1, 2, 7],
}

SPEECH = {
    "whisper": Recipe(
        "WhisperConfig",
        "WhisperModel",
        both(lambda: {"input_features": torch.randn(1, 8, 20)}, decoded),
        {
            **PAIR,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 16,
            "decoder_start_token_id": 1,
        },
    ),
    "speech_to_text": Recipe(
        "Speech2TextConfig",
        "Speech2TextModel",
        both(lambda: mel(20, 8), decoded),
        {**PAIR, "input_feat_per_channel": 8, "conv_channels": 24, "max_source_positions": 32},
    ),
    "moonshine": Recipe(
        "MoonshineConfig",
        "MoonshineModel",
        both(lambda: wave(2000), decoded),
        {
            "encoder_num_hidden_layers": 1,
            "decoder_num_hidden_layers": 1,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
        },
    ),
    "wav2vec2": Recipe("Wav2Vec2Config", "Wav2Vec2Model", wave, WAVES),
    "wav2vec2_conformer": Recipe("Wav2Vec2ConformerConfig", "Wav2Vec2ConformerModel", wave, WAVES),
    "wav2vec2_bert": Recipe(
        "Wav2Vec2BertConfig", "Wav2Vec2BertModel", lambda: mel(12, 16), {"feature_projection_input_dim": 16}
    ),
    "hubert": Recipe("HubertConfig", "HubertModel", wave, WAVES),
    "wavlm": Recipe("WavLMConfig", "WavLMModel", wave, {**WAVES, "num_buckets": 8}),
    "unispeech": Recipe("UniSpeechConfig", "UniSpeechModel", wave, WAVES),
    "unispeech_sat": Recipe("UniSpeechSatConfig", "UniSpeechSatModel", wave, WAVES),
    "data2vec_audio": Recipe(
        "Data2VecAudioConfig",
        "Data2VecAudioModel",
        wave,
        {
            "conv_dim": (16, 16),
            "conv_stride": (4, 2),
            "conv_kernel": (8, 3),
            "conv_pos_kernel_size": 3,
            "num_conv_pos_embeddings": 2,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
    "sew": Recipe("SEWConfig", "SEWModel", wave, STRIDED),
    "sew_d": Recipe("SEWDConfig", "SEWDModel", wave, {**STRIDED, "position_buckets": 8}),
    "audio_spectrogram_transformer": Recipe(
        "ASTConfig",
        "ASTModel",
        lambda: {"input_values": torch.randn(1, 32, 16)},
        {"patch_size": 8, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8},
    ),
    "speecht5": Recipe(
        "SpeechT5Config",
        "SpeechT5ForSpeechToText",
        both(wave, decoded),
        {
            **WAVES,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 40,
        },
    ),
    "univnet": Recipe(
        "UnivNetConfig",
        "UnivNetModel",
        lambda: {"input_features": torch.randn(1, 6, 8), "noise_sequence": torch.randn(1, 6, 4)},
        {
            "model_in_channels": 4,
            "model_hidden_channels": 8,
            "num_mel_bins": 8,
            "resblock_kernel_sizes": [3],
            "resblock_stride_sizes": [4],
            "resblock_dilation_sizes": [[1, 3]],
            "kernel_predictor_hidden_channels": 4,
            "kernel_predictor_num_blocks": 1,
        },
        common=False,
    ),
    "vits": Recipe(
        "VitsConfig",
        "VitsModel",
        text,
        {
            "flow_size": 32,
            "ffn_dim": 48,
            "spectrogram_bins": 16,
            "depth_separable_num_layers": 1,
            "depth_separable_channels": 2,
            "duration_predictor_flow_bins": 4,
            "duration_predictor_num_flows": 1,
            "prior_encoder_num_flows": 1,
            "prior_encoder_num_wavenet_layers": 1,
            "posterior_encoder_num_wavenet_layers": 1,
            "duration_predictor_filter_channels": 16,
            "wavenet_dilation_rate": 1,
            "upsample_initial_channel": 16,
            "upsample_rates": [4, 2],
            "upsample_kernel_sizes": [8, 4],
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3]],
            "use_stochastic_duration_prediction": False,
        },
    ),
    "fastspeech2_conformer": Recipe(
        "FastSpeech2ConformerConfig",
        "FastSpeech2ConformerModel",
        text,
        {
            "hidden_size": 24,
            "vocab_size": 99,
            "num_mel_bins": 8,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_num_attention_heads": 2,
            "decoder_num_attention_heads": 2,
            "encoder_linear_units": 32,
            "decoder_linear_units": 32,
            "duration_predictor_channels": 16,
            "energy_predictor_channels": 16,
            "pitch_predictor_channels": 16,
            "speech_decoder_postnet_units": 16,
        },
        common=False,
    ),
    "encodec": Recipe(
        "EncodecConfig",
        "EncodecModel",
        lambda: {"input_values": torch.randn(1, 1, 320)},
        {"hidden_size": 16, "num_filters": 4, "upsampling_ratios": [4, 2], "codebook_size": 16, "codebook_dim": 16},
        common=False,
    ),
    "mimi": Recipe(
        "MimiConfig",
        "MimiModel",
        lambda: {"input_values": torch.randn(1, 1, 640)},
        {
            "hidden_size": 32,
            "num_filters": 4,
            "upsampling_ratios": [4, 2],
            "codebook_size": 16,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "num_quantizers": 3,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "intermediate_size": 48,
            "upsample_groups": 32,
        },
        common=False,
    ),
    "dac": Recipe(
        "DacConfig",
        "DacModel",
        lambda: {"input_values": torch.randn(1, 1, 320)},
        {
            "encoder_hidden_size": 8,
            "downsampling_ratios": [2, 4],
            "decoder_hidden_size": 32,
            "n_codebooks": 2,
            "codebook_size": 16,
            "codebook_dim": 4,
        },
        common=False,
    ),
    "musicgen": Recipe(
        "MusicgenDecoderConfig",
        "MusicgenForCausalLM",
        lambda: {"input_ids": torch.arange(8).reshape(2, 4)},
        {"num_codebooks": 2, "ffn_dim": 48},
    ),
    "seamless_m4t": Recipe(
        "SeamlessM4TConfig",
        "SeamlessM4TForTextToText",
        both(text, decoded),
        {
            "encoder_layers": 1,
            "decoder_layers": 1,
            "speech_encoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 40,
            "speech_encoder_attention_heads": 4,
            "speech_encoder_intermediate_size": 48,
            "t2u_encoder_layers": 1,
            "t2u_decoder_layers": 1,
        },
    ),
}

SERIES = {
    "time_series_transformer": Recipe(
        "TimeSeriesTransformerConfig", "TimeSeriesTransformerModel", forecast, FORECASTER
    ),
    "informer": Recipe("InformerConfig", "InformerModel", forecast, FORECASTER),
    "autoformer": Recipe("AutoformerConfig", "AutoformerModel", forecast, {**FORECASTER, "label_length": 4}),
    "patchtst": Recipe(
        "PatchTSTConfig",
        "PatchTSTModel",
        past,
        {
            "num_input_channels": 2,
            "context_length": 16,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 16,
            "num_attention_heads": 4,
            "ffn_dim": 24,
            "num_hidden_layers": 2,
        },
    ),
    "patchtsmixer": Recipe(
        "PatchTSMixerConfig",
        "PatchTSMixerForPrediction",
        past,
        {
            "num_input_channels": 2,
            "context_length": 16,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 16,
            "num_layers": 2,
            "prediction_length": 4,
        },
    ),
    "timesfm": Recipe(
        "TimesFmConfig",
        "TimesFmModel",
        lambda: {
            "past_values": torch.randn(1, 16),
            "past_values_padding": torch.zeros(1, 16),
            "freq": torch.zeros(1, 1, dtype=torch.int64),
        },
        {"patch_length": 4, "context_length": 16, "horizon_length": 4, "head_dim": 8},
    ),
}
