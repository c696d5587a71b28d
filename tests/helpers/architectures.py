"""Configurations of small random models, one for each architecture."""

import transformers

REAL = ("stories260K-llama", "stories260K-mistral", "shakespeare-char-818K-gpt2", "shakespeare-char-818K-opt")


KIN = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
"""Sizes of the Llama-like families."""


OLDER = {"vocab_size": 50, "hidden_size": 16}


WINDOW = {"sliding_window": 4}


SOME = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}


CONFIGS = [
    transformers.MistralConfig(**KIN, **WINDOW),
    transformers.Qwen2Config(**KIN, **WINDOW, use_sliding_window=True, max_window_layers=1),
    transformers.Qwen3Config(**KIN, head_dim=8),
    transformers.Gemma2Config(**KIN, **WINDOW, head_dim=8),
    transformers.Gemma3TextConfig(**KIN | {"num_hidden_layers": 7}, **WINDOW, head_dim=8),
    transformers.Phi3Config(**KIN, pad_token_id=0),
    transformers.Olmo2Config(**KIN),
    transformers.StableLmConfig(**KIN),
    transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2),
    transformers.GPTNeoXConfig(**OLDER, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4),
    transformers.PhiConfig(**OLDER, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4),
    transformers.BloomConfig(**OLDER, n_layer=2, n_head=4),
    transformers.FalconConfig(**OLDER, num_hidden_layers=2, num_attention_heads=4),
    transformers.OPTConfig(
        **OLDER,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        pad_token_id=1,
    ),
    transformers.MixtralConfig(**KIN, num_local_experts=4),
    # Blocks with experts and without take turns.
    transformers.Qwen2MoeConfig(**KIN, **SOME, decoder_sparse_step=2, shared_expert_intermediate_size=20),
    transformers.Qwen3MoeConfig(**KIN, **SOME, head_dim=8, norm_topk_prob=True),
    transformers.OlmoeConfig(**KIN, num_experts=4, num_experts_per_tok=2, eos_token_id=1),
    # Stores its experts fused.
    transformers.GraniteMoeConfig(**KIN, num_local_experts=4, num_experts_per_tok=2),
    # Its routers are linear layers.
    transformers.PhimoeConfig(**KIN, num_local_experts=4, num_experts_per_tok=2),
    transformers.DeepseekV3Config(
        **KIN | {"num_key_value_heads": 4},
        n_routed_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=12,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
    ),
]
