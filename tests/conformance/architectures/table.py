"""The architectures that are swept: tiny, with random weights, each with what sets it apart."""

from typing import Any, NamedTuple

VOCABULARY = 439
"""The size of the byte-level tokenizer; the byte-fallback one has more and says so."""
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 768,
    "initializer_range": 0.12,
}
MOE: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
}
GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 768,
                       "initializer_range": 0.12}  # fmt: skip
MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128,
                         "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2,
                         "mamba_chunk_size": 32}  # fmt: skip
MLA: dict[str, Any] = {"num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16,
                       "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
                       "head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1,
                       "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1,
                       "topk_group": 1, "moe_intermediate_size": 48}  # fmt: skip


class Architecture(NamedTuple):
    """One row: `kind` is what transformers calls the config; `quick` ones are in every test run."""

    name: str
    kind: str
    sizes: dict[str, Any]
    quick: bool = False
    fallback: bool = False
    whole: bool = False
    """Whether `sizes` is all that is said, without `BASE`."""


def of(name: str, kind: str, *, quick: bool = False, fallback: bool = False, **sizes: Any
) -> Architecture:  # fmt: skip
    """A row whose sizes are `BASE` and what is said."""
    return Architecture(name, kind, sizes, quick, fallback)


def alone(name: str, kind: str, *, quick: bool = False, **sizes: Any) -> Architecture:
    """A row whose sizes are those that are said."""
    return Architecture(name, kind, sizes, quick, whole=True)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
        "rope_theta": 10000.0}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 128,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10000.0}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
            "original_max_position_embeddings": 128, "rope_theta": 10000.0}  # fmt: skip

ARCHITECTURES = [
    of("Llama", "Llama", fallback=True),
    of("Llama, rope yarn", "Llama", rope_parameters=YARN),
    of("Llama, rope llama3", "Llama", rope_parameters=LLAMA3),
    of("Llama, rope dynamic", "Llama", rope_parameters=DYNAMIC, max_position_embeddings=256),
    of("Llama, rope linear", "Llama",
       rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
    of("Llama, biases, no groups", "Llama", attention_bias=True, mlp_bias=True,
       num_key_value_heads=4),
    of("Mistral, window 64", "Mistral", sliding_window=64, head_dim=16),
    of("Ministral", "Ministral", sliding_window=64, head_dim=16),
    of("Mixtral", "Mixtral", **MOE, head_dim=16),
    of("Qwen2", "Qwen2"),
    of("Qwen2, window 64", "Qwen2", use_sliding_window=True, sliding_window=64,
       max_window_layers=1),
    of("Qwen2 MoE", "Qwen2Moe", **MOE),
    of("Qwen3", "Qwen3", head_dim=16, quick=True),
    of("Qwen3 MoE", "Qwen3Moe", **MOE, head_dim=16),
    of("Qwen3-Next", "Qwen3Next", **MOE, head_dim=16, linear_num_value_heads=4,
       linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
       layer_types=["linear_attention", "full_attention"]),
    of("Qwen3.5", "Qwen3_5Text", head_dim=16, linear_num_value_heads=4, linear_num_key_heads=2,
       linear_key_head_dim=16, linear_value_head_dim=16,
       layer_types=["linear_attention", "full_attention"]),
    of("Gemma", "Gemma", head_dim=16),
    of("Gemma 2", "Gemma2", head_dim=16, sliding_window=64, query_pre_attn_scalar=16),
    of("Gemma 3", "Gemma3Text", head_dim=16, sliding_window=64, query_pre_attn_scalar=16,
       layer_types=["sliding_attention", "full_attention"]),
    of("Gemma 3n", "Gemma3nText", head_dim=16, sliding_window=64, num_hidden_layers=4,
       layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2,
       vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8,
       laurel_rank=8, activation_sparsity_pattern=[0.0] * 4, intermediate_size=[96] * 4),
    of("Gemma 4", "Gemma4Text", head_dim=16, global_head_dim=16, sliding_window=64,
       layer_types=["sliding_attention", "full_attention"], num_kv_shared_layers=0,
       vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8),
    of("VaultGemma", "VaultGemma", head_dim=16, sliding_window=64, query_pre_attn_scalar=16),
    of("RecurrentGemma", "RecurrentGemma", num_hidden_layers=3, attention_window_size=64,
       lru_width=64, head_dim=16, w_init_variance_scale=0.5),
    of("Phi", "Phi", partial_rotary_factor=0.5),
    of("Phi-3", "Phi3", pad_token_id=0, sliding_window=None),
    of("Phi-3, window 64", "Phi3", pad_token_id=0, sliding_window=64),
    of("Phi-3, longrope", "Phi3", pad_token_id=0, rope_parameters=LONGROPE,
       original_max_position_embeddings=128),
    of("Phi-MoE", "Phimoe", **MOE),
    alone("GPT-2", "GPT2", **GPT),
    alone("GPT-J", "GPTJ", **GPT, rotary_dim=8),
    alone("GPT-Neo, window 32", "GPTNeo", hidden_size=64, num_layers=2, num_heads=4,
          attention_types=[[["global", "local"], 1]], window_size=32, initializer_range=0.12,
          max_position_embeddings=768),
    of("GPT-NeoX", "GPTNeoX"),
    of("GPT-NeoX-Japanese", "GPTNeoXJapanese", intermediate_multiple_size=2),
    alone("GPT-BigCode", "GPTBigCode", **GPT, multi_query=True),
    of("GPT-OSS", "GptOss", **MOE, head_dim=16, sliding_window=64,
       layer_types=["sliding_attention", "full_attention"]),
    alone("CodeGen", "CodeGen", **GPT, rotary_dim=8),
    alone("OPT", "OPT", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=96,
          word_embed_proj_dim=64, max_position_embeddings=768, init_std=0.12),
    alone("BLOOM", "Bloom", hidden_size=64, n_layer=2, n_head=4, initializer_range=0.12,
          seq_length=768),
    alone("MPT", "Mpt", d_model=64, n_layers=2, n_heads=4, max_seq_len=768,
          initializer_range=0.12, quick=True),
    alone("Falcon", "Falcon", hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
          initializer_range=0.12, max_position_embeddings=768, new_decoder_architecture=True,
          num_kv_heads=2),
    alone("Falcon, multi-query", "Falcon", hidden_size=64, num_hidden_layers=2,
          num_attention_heads=4, initializer_range=0.12, max_position_embeddings=768),
    alone("Falcon, ALiBi", "Falcon", hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
          initializer_range=0.12, max_position_embeddings=768, alibi=True,
          new_decoder_architecture=False),
    of("Falcon-H1", "FalconH1", **MAMBA),
    alone("Falcon-Mamba", "FalconMamba", hidden_size=64, num_hidden_layers=2, state_size=8,
          initializer_range=0.12),
    alone("Mamba", "Mamba", hidden_size=64, num_hidden_layers=2, state_size=8,
          initializer_range=0.12),
    alone("Mamba 2", "Mamba2", hidden_size=64, num_hidden_layers=2, state_size=16, num_heads=8,
          head_dim=16, n_groups=1, expand=2, chunk_size=32, initializer_range=0.12),
    alone("RWKV", "Rwkv", hidden_size=64, num_hidden_layers=2, attention_hidden_size=64,
          context_length=768),
    alone("xLSTM", "xLSTM", hidden_size=64, num_hidden_layers=2, num_blocks=2, num_heads=4,
          qk_dim_factor=1.0, chunk_size=32, return_last_states=True, mode="inference"),
    of("Bamba", "Bamba", **MAMBA, attn_layer_indices=[1]),
    of("Jamba", "Jamba", **MOE, mamba_d_state=8, mamba_dt_rank=8, attn_layer_period=2,
       attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
       use_mamba_kernels=False),
    of("Zamba", "Zamba", attn_layer_period=2, attn_layer_offset=1, num_hidden_layers=5,
       mamba_dt_rank=8, n_mamba_heads=2, num_key_value_heads=4, attention_head_dim=32,
       use_mamba_kernels=False),
    of("Zamba2", "Zamba2", num_hidden_layers=4, num_key_value_heads=4, n_mamba_heads=8,
       mamba_d_state=16, mamba_ngroups=1, mamba_headdim=16, chunk_size=32,
       layers_block_type=["mamba", "hybrid"] * 2, num_mem_blocks=1, use_mem_rope=True),
    of("Granite", "Granite"),
    of("Granite MoE", "GraniteMoe", **MOE),
    of("Granite MoE shared", "GraniteMoeShared", **MOE, shared_intermediate_size=48),
    of("Granite hybrid", "GraniteMoeHybrid", **MAMBA, **MOE, shared_intermediate_size=48,
       layer_types=["mamba", "attention"]),
    of("Nemotron", "Nemotron"),
    of("Nemotron-H", "NemotronH", layers_block_type=["mamba", "attention"], mamba_num_heads=8,
       mamba_head_dim=16, ssm_state_size=16, n_groups=1, chunk_size=32, head_dim=16,
       attention_head_dim=16, moe_intermediate_size=48),
    of("LFM2", "Lfm2", layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    of("LFM2 MoE", "Lfm2Moe", **MOE, layer_types=["conv", "full_attention"], num_dense_layers=1),
    of("MiniMax", "MiniMax", **MOE, head_dim=16, block_size=32,
       layer_types=["linear_attention", "full_attention"]),
    of("MiniMax-M2", "MiniMaxM2", **MOE, head_dim=16),
    of("OLMo", "Olmo"),
    of("OLMo 2", "Olmo2"),
    of("OLMo 3", "Olmo3", sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
    of("OLMo hybrid", "OlmoHybrid", layer_types=["linear_attention", "full_attention"],
       linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16,
       linear_value_head_dim=16),
    of("OLMoE", "Olmoe", **MOE),
    of("FlexOLMo", "FlexOlmo", **MOE),
    of("Cohere", "Cohere"),
    of("Cohere 2", "Cohere2", sliding_window=64, head_dim=16,
       layer_types=["sliding_attention", "full_attention"]),
    of("DeepSeek V2", "DeepseekV2", **MLA),
    of("DeepSeek V3", "DeepseekV3", **MLA),
    of("Llama 4", "Llama4Text", **MOE, head_dim=16, attention_chunk_size=64, no_rope_layers=[1, 0],
       intermediate_size_mlp=96, layer_types=["chunked_attention", "full_attention"]),
    of("GLM", "Glm", head_dim=16, pad_token_id=0),
    of("GLM-4", "Glm4", head_dim=16, pad_token_id=0),
    of("GLM-4 MoE", "Glm4Moe", **MLA | {"head_dim": 16, "num_key_value_heads": 2}),
    of("ERNIE 4.5", "Ernie4_5", head_dim=16),
    of("EXAONE 4", "Exaone4", sliding_window=64, sliding_window_pattern=2,
       layer_types=["sliding_attention", "full_attention"]),
    of("HunYuan", "HunYuanDenseV1", head_dim=16),
    of("Helium", "Helium", head_dim=16),
    of("JetMoE", "JetMoe", kv_channels=16, num_local_experts=4, num_experts_per_tok=2),
    of("Apertus", "Apertus"),
    of("Arcee", "Arcee"),
    of("Seed-OSS", "SeedOss", head_dim=16),
    of("SmolLM3", "SmolLM3", pad_token_id=0),
    of("StableLM", "StableLm"),
    of("StarCoder2", "Starcoder2", sliding_window=None),
    of("Persimmon", "Persimmon"),
    of("DiffLlama", "DiffLlama", pad_token_id=0),
    of("Doge", "Doge"),
    of("dots1", "Dots1", **MLA | {"head_dim": 16, "num_key_value_heads": 2}),
    of("BioGPT", "BioGpt"),
    alone("DBRX", "Dbrx", initializer_range=0.12, d_model=64, n_heads=4, n_layers=2,
          max_seq_len=768, ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2,
                      "hidden_size": 64},
          attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}),
    of("NanoChat", "NanoChat"),
    of("Youtu", "Youtu", **{k: v for k, v in MLA.items() if "expert" not in k}),
    alone("XGLM", "XGLM", d_model=64, num_layers=2, attention_heads=4, ffn_dim=96,
          max_position_embeddings=768, init_std=0.12),
    alone("CTRL", "CTRL", n_embd=64, n_layer=2, n_head=4, dff=96, n_positions=768,
          initializer_range=0.12),
    alone("GPT (the first)", "OpenAIGPT", **GPT),
]  # fmt: skip
