"""Configs of well-known decoders, beside those of ``builtin.py``."""

from __future__ import annotations

from collections.abc import Mapping

# name: (organisation on the hub, L, D, heads)
_GPT2 = {
    "gpt2": ("openai-community", 12, 768, 12),
    "gpt2-medium": ("openai-community", 24, 1024, 16),
    "gpt2-large": ("openai-community", 36, 1280, 20),
    "gpt2-xl": ("openai-community", 48, 1600, 25),
}
# name: (organisation, model_type, L, D, feed-forward, heads, key-value heads, head size, vocabulary, positions, tied)
_LLAMAS = {
    "Llama-3.2-1B": ("meta-llama", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, True),
    "Llama-3.2-3B": ("meta-llama", "llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072, True),
    "Llama-3.1-8B": ("meta-llama", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, False),
    "Mistral-7B-v0.3": ("mistralai", "mistral", 32, 4096, 14336, 32, 8, 128, 32768, 32768, False),
    "Qwen2.5-0.5B": ("Qwen", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, True),
    "Qwen2.5-1.5B": ("Qwen", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 131072, True),
    "Qwen3-0.6B": ("Qwen", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, True),
    "gemma-2b": ("google", "gemma", 18, 2048, 16384, 8, 1, 256, 256000, 8192, True),
    "gemma-2-2b": ("google", "gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 8192, True),
    "gemma-3-1b-pt": ("google", "gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144, 32768, True),
}

DECODERS: tuple[str, ...] = (*_GPT2, *_LLAMAS)
"""Names of the built-in decoders."""


def decoder_config(name: str) -> Mapping[str, object] | None:
    """The config of a built-in decoder, with or without its organisation; None when ``name`` is not one."""
    organisation, _, model = name.rpartition("/")
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
    row = _LLAMAS.get(model)
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
    return dict(zip(names, row[1:], strict=True))
