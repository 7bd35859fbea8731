"""Language models of ``transformers`` in small sizes: encoders, decoders, encoder-decoders, state spaces, mixtures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage.hub_build import Recipe, both, decoded, text

__all__ = ["DECODERS", "ENCODERS", "PAIRS"]

GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SMALL_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
SMALL_PAIR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
}
SMALL_T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
SMALL_XLM: dict[str, Any] = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": 99}


def entities() -> dict[str, Tensor]:
    """Two named things and the tokens that mention them."""
    places = torch.tensor([[[1, 2, -1], [4, -1, -1]]])
    return {"entity_ids": torch.tensor([[5, 9]]), "entity_position_ids": places}


ENCODERS = {
    "bert": Recipe("BertConfig", "BertForMaskedLM", text),
    "bert_generation": Recipe("BertGenerationConfig", "BertGenerationEncoder", text),
    "roberta": Recipe("RobertaConfig", "RobertaModel", text),
    "roberta_prelayernorm": Recipe("RobertaPreLayerNormConfig", "RobertaPreLayerNormModel", text),
    "roc_bert": Recipe(
        "RoCBertConfig",
        "RoCBertModel",
        text,
        {"pronunciation_embed_dim": 8, "shape_embed_dim": 8, "pronunciation_vocab_size": 99, "shape_vocab_size": 99},
    ),
    "xlm_roberta": Recipe("XLMRobertaConfig", "XLMRobertaModel", text),
    "camembert": Recipe("CamembertConfig", "CamembertForMaskedLM", text),
    "data2vec_text": Recipe("Data2VecTextConfig", "Data2VecTextModel", text),
    "albert": Recipe("AlbertConfig", "AlbertModel", text, {"embedding_size": 16}),
    "distilbert": Recipe(
        "DistilBertConfig", "DistilBertForMaskedLM", text, {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    ),
    "electra": Recipe("ElectraConfig", "ElectraModel", text, {"embedding_size": 16}),
    "convbert": Recipe("ConvBertConfig", "ConvBertModel", text, {"embedding_size": 32}),
    "deberta": Recipe(
        "DebertaConfig", "DebertaModel", text, {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    ),
    "deberta_v2": Recipe(
        "DebertaV2Config",
        "DebertaV2Model",
        text,
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    "mpnet": Recipe("MPNetConfig", "MPNetModel", text),
    "modernbert": Recipe("ModernBertConfig", "ModernBertModel", text),
    "ernie": Recipe("ErnieConfig", "ErnieModel", text),
    "esm": Recipe(
        "EsmConfig", "EsmModel", text, {"position_embedding_type": "rotary", "pad_token_id": 0, "mask_token_id": 1}
    ),
    "eurobert": Recipe("EuroBertConfig", "EuroBertModel", text),
    "nomic_bert": Recipe("NomicBertConfig", "NomicBertModel", text),
    "rembert": Recipe("RemBertConfig", "RemBertModel", text, {"input_embedding_size": 16, "output_embedding_size": 24}),
    "roformer": Recipe("RoFormerConfig", "RoFormerModel", text, {"embedding_size": 32}),
    "ibert": Recipe("IBertConfig", "IBertModel", text),
    "luke": Recipe("LukeConfig", "LukeModel", both(text, entities), {"entity_vocab_size": 20, "entity_emb_size": 16}),
    "megatron_bert": Recipe("MegatronBertConfig", "MegatronBertModel", text),
    "mobilebert": Recipe(
        "MobileBertConfig",
        "MobileBertModel",
        text,
        {"embedding_size": 32, "true_hidden_size": 16, "intra_bottleneck_size": 16, "hidden_size": 32},
    ),
    "squeezebert": Recipe("SqueezeBertConfig", "SqueezeBertModel", text, {"embedding_size": 32}),
    "nystromformer": Recipe(
        "NystromformerConfig", "NystromformerModel", text, {"segment_means_seq_len": 8, "num_landmarks": 8}
    ),
    "yoso": Recipe("YosoConfig", "YosoModel", text, {"use_expectation": True}),
    "mra": Recipe("MraConfig", "MraModel", lambda: text(32)),
    "fnet": Recipe("FNetConfig", "FNetModel", text),
    "longformer": Recipe("LongformerConfig", "LongformerModel", text, {"attention_window": [4, 4]}),
    "big_bird": Recipe("BigBirdConfig", "BigBirdModel", text, {"attention_type": "original_full"}),
    "funnel": Recipe(
        "FunnelConfig",
        "FunnelBaseModel",
        text,
        {"vocab_size": 99, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
        common=False,
    ),
    "xlnet": Recipe(
        "XLNetConfig",
        "XLNetModel",
        text,
        {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
        common=False,
    ),
    "xlm": Recipe("XLMConfig", "XLMModel", text, SMALL_XLM),
    "flaubert": Recipe("FlaubertConfig", "FlaubertModel", text, SMALL_XLM),
    "xmod": Recipe("XmodConfig", "XmodModel", text, {"languages": ["en"], "default_language": "en"}),
    "canine": Recipe(
        "CanineConfig",
        "CanineModel",
        lambda: text(16),
        {"num_hash_buckets": 32, "local_transformer_stride": 4, "downsampling_rate": 4, "num_hash_functions": 4},
    ),
    "splinter": Recipe("SplinterConfig", "SplinterModel", text),
    "perceiver": Recipe(
        "PerceiverConfig",
        "PerceiverModel",
        lambda: {"inputs": torch.randn(1, 10, 24)},
        {
            "num_latents": 6,
            "d_latents": 32,
            "d_model": 24,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "qk_channels": 32,
            "v_channels": 32,
        },
    ),
}

DECODERS = {
    "openai": Recipe("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", text, SMALL_GPT),
    "gpt2": Recipe("GPT2Config", "GPT2LMHeadModel", text, SMALL_GPT),
    "gpt_neo": Recipe("GPTNeoConfig", "GPTNeoForCausalLM", text, {"attention_types": [[["global", "local"], 1]]}),
    "gpt_neox": Recipe("GPTNeoXConfig", "GPTNeoXForCausalLM", text),
    "gptj": Recipe("GPTJConfig", "GPTJForCausalLM", text, {**SMALL_GPT, "rotary_dim": 4}),
    "gpt_bigcode": Recipe("GPTBigCodeConfig", "GPTBigCodeForCausalLM", text, SMALL_GPT),
    "codegen": Recipe("CodeGenConfig", "CodeGenForCausalLM", text, {**SMALL_GPT, "rotary_dim": 4}),
    "ctrl": Recipe("CTRLConfig", "CTRLLMHeadModel", text, {**SMALL_GPT, "dff": 48}),
    "opt": Recipe("OPTConfig", "OPTForCausalLM", text, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "xglm": Recipe(
        "XGLMConfig", "XGLMForCausalLM", text, {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}
    ),
    "biogpt": Recipe("BioGptConfig", "BioGptForCausalLM", text),
    "bloom": Recipe("BloomConfig", "BloomForCausalLM", text, {"n_layer": 2, "n_head": 4}),
    "mpt": Recipe("MptConfig", "MptForCausalLM", text, {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "llama": Recipe("LlamaConfig", "LlamaForCausalLM", text, GROUPED),
    "mistral": Recipe("MistralConfig", "MistralForCausalLM", text, GROUPED),
    "qwen2": Recipe("Qwen2Config", "Qwen2ForCausalLM", text, GROUPED),
    "qwen3": Recipe("Qwen3Config", "Qwen3ForCausalLM", text, GROUPED),
    "gemma": Recipe("GemmaConfig", "GemmaForCausalLM", text, GROUPED),
    "gemma2": Recipe("Gemma2Config", "Gemma2ForCausalLM", text, GROUPED),
    "gemma3": Recipe("Gemma3TextConfig", "Gemma3ForCausalLM", text, GROUPED),
    "phi": Recipe("PhiConfig", "PhiForCausalLM", text),
    "phi3": Recipe("Phi3Config", "Phi3ForCausalLM", text, {"num_key_value_heads": 2}),
    "falcon": Recipe("FalconConfig", "FalconForCausalLM", text),
    "starcoder2": Recipe("Starcoder2Config", "Starcoder2ForCausalLM", text, {"num_key_value_heads": 2}),
    "cohere": Recipe("CohereConfig", "CohereForCausalLM", text, {"num_key_value_heads": 2}),
    "olmo": Recipe("OlmoConfig", "OlmoForCausalLM", text, {"num_key_value_heads": 2}),
    "olmo2": Recipe("Olmo2Config", "Olmo2ForCausalLM", text, {"num_key_value_heads": 2}),
    "stablelm": Recipe("StableLmConfig", "StableLmForCausalLM", text, {"num_key_value_heads": 2}),
    "persimmon": Recipe("PersimmonConfig", "PersimmonForCausalLM", text),
    "nemotron": Recipe("NemotronConfig", "NemotronForCausalLM", text, GROUPED),
    "granite": Recipe("GraniteConfig", "GraniteForCausalLM", text, {"num_key_value_heads": 2}),
    "glm": Recipe("GlmConfig", "GlmForCausalLM", text, GROUPED),
    "glm4": Recipe("Glm4Config", "Glm4ForCausalLM", text, GROUPED),
    "exaone4": Recipe("Exaone4Config", "Exaone4ForCausalLM", text, GROUPED),
    "smollm3": Recipe("SmolLM3Config", "SmolLM3ForCausalLM", text, {"num_key_value_heads": 2}),
    "helium": Recipe("HeliumConfig", "HeliumForCausalLM", text, GROUPED),
    "diffllama": Recipe("DiffLlamaConfig", "DiffLlamaForCausalLM", text, GROUPED),
    "modernbert_decoder": Recipe("ModernBertDecoderConfig", "ModernBertDecoderForCausalLM", text),
    "imagegpt": Recipe("ImageGPTConfig", "ImageGPTModel", text, SMALL_GPT),
    "mixtral": Recipe(
        "MixtralConfig", "MixtralForCausalLM", text, {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "qwen2_moe": Recipe(
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        text,
        {"num_key_value_heads": 2, **EXPERTS, "shared_expert_intermediate_size": 32},
    ),
    "qwen3_moe": Recipe("Qwen3MoeConfig", "Qwen3MoeForCausalLM", text, {**GROUPED, **EXPERTS}),
    "olmoe": Recipe("OlmoeConfig", "OlmoeForCausalLM", text, {"num_key_value_heads": 2, **EXPERTS}),
    "phimoe": Recipe(
        "PhimoeConfig",
        "PhimoeForCausalLM",
        text,
        {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "granitemoe": Recipe(
        "GraniteMoeConfig",
        "GraniteMoeForCausalLM",
        text,
        {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "gpt_oss": Recipe(
        "GptOssConfig", "GptOssForCausalLM", text, {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "deepseek_v3": Recipe(
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        text,
        {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 24,
            "kv_lora_rank": 8,
            "q_lora_rank": 12,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
    ),
    "dbrx": Recipe(
        "DbrxConfig",
        "DbrxForCausalLM",
        text,
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "vocab_size": 99,
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        },
        common=False,
    ),
    "jetmoe": Recipe(
        "JetMoeConfig",
        "JetMoeForCausalLM",
        text,
        {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "mamba": Recipe("MambaConfig", "MambaForCausalLM", text, {"state_size": 8, "use_mambapy": False}),
    "mamba2": Recipe(
        "Mamba2Config",
        "Mamba2ForCausalLM",
        text,
        {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    ),
    "falcon_mamba": Recipe("FalconMambaConfig", "FalconMambaForCausalLM", text, {"state_size": 8}),
    "rwkv": Recipe("RwkvConfig", "RwkvModel", text, {"attention_hidden_size": 32}),
    "xlstm": Recipe("xLSTMConfig", "xLSTMForCausalLM", text, {"num_heads": 4, "chunk_size": 16}),
    "recurrent_gemma": Recipe(
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        text,
        {"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 8},
    ),
    "jamba": Recipe(
        "JambaConfig",
        "JambaForCausalLM",
        text,
        {
            "num_key_value_heads": 2,
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
    "bamba": Recipe(
        "BambaConfig",
        "BambaForCausalLM",
        text,
        {
            "num_key_value_heads": 2,
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 2,
            "mamba_chunk_size": 4,
        },
    ),
    "zamba": Recipe(
        "ZambaConfig",
        "ZambaForCausalLM",
        text,
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
            "num_key_value_heads": 4,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
        },
    ),
    "lfm2": Recipe("Lfm2Config", "Lfm2ForCausalLM", text, {"num_key_value_heads": 2, "full_attn_idxs": [1]}),
    "nanochat": Recipe("NanoChatConfig", "NanoChatForCausalLM", text, {"num_key_value_heads": 2}),
}

PAIRS = {
    "t5": Recipe("T5Config", "T5Model", both(text, decoded), SMALL_T5),
    "mt5": Recipe("MT5Config", "MT5ForConditionalGeneration", both(text, decoded), SMALL_T5),
    "longt5": Recipe("LongT5Config", "LongT5Model", both(text, decoded), {**SMALL_T5, "local_radius": 3}),
    "switch_transformers": Recipe(
        "SwitchTransformersConfig",
        "SwitchTransformersModel",
        both(text, decoded),
        {**SMALL_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    "bart": Recipe("BartConfig", "BartModel", both(text, decoded), SMALL_PAIR),
    "mbart": Recipe("MBartConfig", "MBartModel", both(text, decoded), SMALL_PAIR),
    "pegasus": Recipe("PegasusConfig", "PegasusModel", both(text, decoded), SMALL_PAIR),
    "pegasus_x": Recipe("PegasusXConfig", "PegasusXModel", both(text, decoded), {**SMALL_PAIR, "block_size": 4}),
    "blenderbot": Recipe("BlenderbotConfig", "BlenderbotModel", both(text, decoded), SMALL_PAIR),
    "marian": Recipe("MarianConfig", "MarianModel", both(text, decoded), SMALL_PAIR),
    "m2m_100": Recipe("M2M100Config", "M2M100Model", both(text, decoded), SMALL_PAIR),
    "plbart": Recipe("PLBartConfig", "PLBartModel", both(text, decoded), SMALL_PAIR),
    "led": Recipe(
        "LEDConfig",
        "LEDModel",
        both(lambda: text(8), decoded),
        {
            **SMALL_PAIR,
            "attention_window": [4, 4],
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
        },
    ),
    "bigbird_pegasus": Recipe(
        "BigBirdPegasusConfig",
        "BigBirdPegasusModel",
        both(text, decoded),
        {**SMALL_PAIR, "attention_type": "original_full"},
    ),
    "prophetnet": Recipe(
        "ProphetNetConfig",
        "ProphetNetModel",
        both(text, decoded),
        {
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 40,
            "vocab_size": 99,
            "hidden_size": 32,
            "max_position_embeddings": 64,
            "relative_max_distance": 16,
            "num_buckets": 8,
        },
        common=False,
    ),
    "mvp": Recipe("MvpConfig", "MvpModel", both(text, decoded), SMALL_PAIR),
}
