"""Configs of well-known decoders, in addition to those of ``builtin.py``."""

from __future__ import annotations

from collections.abc import Mapping

# name: (organisation on the hub, L, D, heads)
_GPT2 = {
    "gpt2": ("openai-community", 12, 768, 12),
    "gpt2-medium": ("openai-community", 24, 1024, 16),
    "gpt2-large": ("openai-community", 36, 1280, 20),
    "gpt2-xl": ("openai-community", 48, 1600, 25),
}
# name: (organisation, model_type, L, D, feed-forward, heads, key-value heads, head size, vocabulary, positions, tied);
# of Gemma 3's from 4 B on, the language model alone; of Phi's with LongRoPE, the positions up to which all texts are
# turned by the same angles (sizes.py)
_LLAMAS = {
    "Llama-2-7b-hf": ("meta-llama", "llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096, False),
    "Llama-2-13b-hf": ("meta-llama", "llama", 40, 5120, 13824, 40, 40, 128, 32000, 4096, False),
    "Llama-2-70b-hf": ("meta-llama", "llama", 80, 8192, 28672, 64, 8, 128, 32000, 4096, False),
    "Meta-Llama-3-8B": ("meta-llama", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 8192, False),
    "Meta-Llama-3-70B": ("meta-llama", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 8192, False),
    "Llama-3.1-8B": ("meta-llama", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, False),
    "Llama-3.1-70B": ("meta-llama", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, False),
    "Llama-3.2-1B": ("meta-llama", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, True),
    "Llama-3.2-3B": ("meta-llama", "llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072, True),
    "Llama-3.3-70B-Instruct": ("meta-llama", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072, False),
    "SmolLM2-135M": ("HuggingFaceTB", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, True),
    "SmolLM2-360M": ("HuggingFaceTB", "llama", 32, 960, 2560, 15, 5, 64, 49152, 8192, True),
    "SmolLM2-1.7B": ("HuggingFaceTB", "llama", 24, 2048, 8192, 32, 32, 64, 49152, 8192, True),
    "SmolLM3-3B": ("HuggingFaceTB", "smollm3", 36, 2048, 11008, 16, 4, 128, 128256, 65536, True),
    "Mistral-7B-v0.1": ("mistralai", "mistral", 32, 4096, 14336, 32, 8, 128, 32000, 32768, False),
    "Mistral-7B-v0.3": ("mistralai", "mistral", 32, 4096, 14336, 32, 8, 128, 32768, 32768, False),
    "Mistral-Small-24B-Base-2501": ("mistralai", "mistral", 40, 5120, 32768, 32, 8, 128, 131072, 32768, False),
    "Qwen2.5-0.5B": ("Qwen", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, True),
    "Qwen2.5-1.5B": ("Qwen", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 131072, True),
    "Qwen2.5-3B": ("Qwen", "qwen2", 36, 2048, 11008, 16, 2, 128, 151936, 32768, True),
    "Qwen2.5-7B": ("Qwen", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 131072, False),
    "Qwen2.5-14B": ("Qwen", "qwen2", 48, 5120, 13824, 40, 8, 128, 152064, 131072, False),
    "Qwen2.5-32B": ("Qwen", "qwen2", 64, 5120, 27648, 40, 8, 128, 152064, 131072, False),
    "Qwen2.5-72B": ("Qwen", "qwen2", 80, 8192, 29568, 64, 8, 128, 152064, 131072, False),
    "Qwen3-0.6B": ("Qwen", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, True),
    "Qwen3-1.7B": ("Qwen", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, 40960, True),
    "Qwen3-4B": ("Qwen", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, 40960, True),
    "Qwen3-8B": ("Qwen", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, False),
    "Qwen3-14B": ("Qwen", "qwen3", 40, 5120, 17408, 40, 8, 128, 151936, 40960, False),
    "Qwen3-32B": ("Qwen", "qwen3", 64, 5120, 25600, 64, 8, 128, 151936, 40960, False),
    "OLMo-2-0425-1B": ("allenai", "olmo2", 16, 2048, 8192, 16, 16, 128, 100352, 4096, False),
    "OLMo-2-1124-7B": ("allenai", "olmo2", 32, 4096, 11008, 32, 32, 128, 100352, 4096, False),
    "OLMo-2-1124-13B": ("allenai", "olmo2", 40, 5120, 13824, 40, 40, 128, 100352, 4096, False),
    "OLMo-2-0325-32B": ("allenai", "olmo2", 64, 5120, 27648, 40, 8, 128, 100352, 4096, False),
    "Olmo-3-1025-7B": ("allenai", "olmo3", 32, 4096, 11008, 32, 32, 128, 100278, 65536, False),
    "Olmo-3-1125-32B": ("allenai", "olmo3", 64, 5120, 27648, 40, 8, 128, 100278, 65536, False),
    "phi-1_5": ("microsoft", "phi", 24, 2048, 8192, 32, 32, 64, 51200, 2048, False),
    "phi-2": ("microsoft", "phi", 32, 2560, 10240, 32, 32, 80, 51200, 2048, False),
    "Phi-3-mini-4k-instruct": ("microsoft", "phi3", 32, 3072, 8192, 32, 32, 96, 32064, 4096, False),
    "Phi-3-medium-4k-instruct": ("microsoft", "phi3", 40, 5120, 17920, 40, 10, 128, 32064, 4096, False),
    "Phi-3.5-mini-instruct": ("microsoft", "phi3", 32, 3072, 8192, 32, 32, 96, 32064, 4096, False),
    "phi-4": ("microsoft", "phi3", 40, 5120, 17920, 40, 10, 128, 100352, 16384, False),
    "Phi-4-mini-instruct": ("microsoft", "phi3", 32, 3072, 8192, 24, 8, 128, 200064, 4096, True),
    "gemma-2b": ("google", "gemma", 18, 2048, 16384, 8, 1, 256, 256000, 8192, True),
    "gemma-7b": ("google", "gemma", 28, 3072, 24576, 16, 16, 256, 256000, 8192, True),
    "gemma-2-2b": ("google", "gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 8192, True),
    "gemma-2-9b": ("google", "gemma2", 42, 3584, 14336, 16, 8, 256, 256000, 8192, True),
    "gemma-2-27b": ("google", "gemma2", 46, 4608, 36864, 32, 16, 128, 256000, 8192, True),
    "gemma-3-270m": ("google", "gemma3_text", 18, 640, 2048, 4, 1, 256, 262144, 32768, True),
    "gemma-3-1b-pt": ("google", "gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144, 32768, True),
    "gemma-3-4b-pt": ("google", "gemma3_text", 34, 2560, 10240, 8, 4, 256, 262208, 131072, True),
    "gemma-3-12b-pt": ("google", "gemma3_text", 48, 3840, 15360, 16, 8, 256, 262208, 131072, True),
    "gemma-3-27b-pt": ("google", "gemma3_text", 62, 5376, 21504, 32, 16, 128, 262208, 131072, True),
}

# Rows as above, and the experts: their number, how many compute a token, and the inner width of one
_MIXTURES: dict[str, tuple[tuple[str, str, int, int, int, int, int, int, int, int, bool], tuple[int, int, int]]] = {
    "Qwen3-30B-A3B": (
        ("Qwen", "qwen3_moe", 48, 2048, 6144, 32, 4, 128, 151936, 40960, False),
        (128, 8, 768),
    ),
    "Qwen3-30B-A3B-Instruct-2507": (
        ("Qwen", "qwen3_moe", 48, 2048, 6144, 32, 4, 128, 151936, 262144, False),
        (128, 8, 768),
    ),
    "Qwen3-235B-A22B": (
        ("Qwen", "qwen3_moe", 94, 4096, 12288, 64, 4, 128, 151936, 40960, False),
        (128, 8, 1536),
    ),
    "Mixtral-8x7B-v0.1": (
        ("mistralai", "mixtral", 32, 4096, 14336, 32, 8, 128, 32000, 32768, False),
        (8, 2, 14336),
    ),
    "OLMoE-1B-7B-0924": (
        ("allenai", "olmoe", 16, 2048, 1024, 16, 16, 128, 50304, 4096, False),
        (64, 8, 1024),
    ),
    "gpt-oss-20b": (
        ("openai", "gpt_oss", 24, 2880, 2880, 64, 8, 64, 201088, 131072, False),
        (32, 4, 2880),
    ),
    "gpt-oss-120b": (
        ("openai", "gpt_oss", 36, 2880, 2880, 64, 8, 64, 201088, 131072, False),
        (128, 4, 2880),
    ),
}

_ALIASES = {
    "llama-3-8b": "Meta-Llama-3-8B",
    "llama-3-70b": "Meta-Llama-3-70B",
    "olmo-2-1b": "OLMo-2-0425-1B",
    "olmo-2-7b": "OLMo-2-1124-7B",
    "olmo-2-13b": "OLMo-2-1124-13B",
    "olmo-2-32b": "OLMo-2-0325-32B",
    "olmo-3-7b": "Olmo-3-1025-7B",
    "olmo-3-32b": "Olmo-3-1125-32B",
    "phi-3-mini": "Phi-3-mini-4k-instruct",
    "phi-3.5-mini": "Phi-3.5-mini-instruct",
    "phi-4-mini": "Phi-4-mini-instruct",
}

DECODERS: tuple[str, ...] = (*_GPT2, *_LLAMAS, *_MIXTURES, *_ALIASES)
"""Names of the built-in decoders."""


def decoder_config(name: str) -> Mapping[str, object] | None:
    """The config of a built-in decoder, with or without its organisation; None when ``name`` is not one."""
    organisation, _, model = _ALIASES.get(name, name).rpartition("/")
    if model in _GPT2 and organisation in ("", _GPT2[model][0]):
        _, blocks, hidden, heads = _GPT2[model]
        return {
            "model_type": "gpt2",
            "n_layer": blocks,
            "n_embd": hidden,
            "n_head": heads,
            "n_positions": 1024,
            "vocab_size": 50257,
            "tie_word_embeddings": True,
        }
    row, experts = _MIXTURES.get(model, (_LLAMAS.get(model), None))
    if row is None or organisation not in ("", row[0]):
        return None
    names = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "tie_word_embeddings",
    )
    found: dict[str, object] = dict(zip(names, row[1:], strict=True))
    if experts is not None:
        count = "num_experts" if row[1] in ("qwen3_moe", "olmoe") else "num_local_experts"
        found |= dict(zip((count, "num_experts_per_tok", "moe_intermediate_size"), experts, strict=True))
    if row[1] == "gpt_oss":
        found["sliding_window"] = 128  # in every other block
    return found
