"""Configs of well-known encoder-decoders, in addition to those of ``builtin.py``."""

from __future__ import annotations

from collections.abc import Mapping

# name: (organisation on the hub, L of each stack, D, feed-forward, heads)
_T5 = {
    "t5-small": ("google-t5", 6, 512, 2048, 8),
    "t5-base": ("google-t5", 12, 768, 3072, 12),
    "t5-large": ("google-t5", 24, 1024, 4096, 16),
}
_BART = {"bart-base": ("facebook", 6, 768, 3072, 12), "bart-large": ("facebook", 12, 1024, 4096, 16)}

ENCODER_DECODERS: tuple[str, ...] = (*_T5, *_BART)
"""Names of the built-in encoder-decoders."""


def encoder_decoder_config(name: str) -> Mapping[str, object] | None:
    """The config of a built-in one, with or without its organisation; None when ``name`` is not one."""
    organisation, _, model = name.rpartition("/")
    row = (_T5 | _BART).get(model)
    if row is None or organisation not in ("", row[0]):
        return None
    _, blocks, width, ffn, heads = row
    if model in _T5:
        sizes = {"num_layers": blocks, "num_decoder_layers": blocks, "d_ff": ffn, "num_heads": heads, "d_kv": 64}
        fixed = {"relative_attention_num_buckets": 32, "feed_forward_proj": "relu", "vocab_size": 32128}
        return {"model_type": "t5", "d_model": width, **sizes, **fixed, "tie_word_embeddings": True}
    sizes = {f"{stack}_{size}": value for stack in ("encoder", "decoder") for size, value in _sizes(blocks, ffn, heads)}
    fixed = {"vocab_size": 50265, "max_position_embeddings": 1024, "tie_word_embeddings": True}
    return {"model_type": "bart", "d_model": width, **sizes, **fixed}


def _sizes(blocks: int, ffn: int, heads: int) -> tuple[tuple[str, int], ...]:
    return ("layers", blocks), ("ffn_dim", ffn), ("attention_heads", heads)
