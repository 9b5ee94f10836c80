"""Configs of well-known models, so that a plan resolves against them with no network and no weights."""

from __future__ import annotations

from collections.abc import Mapping

from stratatune.shapes.builtin_decoders import DECODERS, decoder_config
from stratatune.shapes.builtin_encoder_decoders import ENCODER_DECODERS, encoder_decoder_config

# name: (organisation on the hub, model_type, L, D, heads, vocabulary, rows of the position table, token types)
_ROWS = {
    "roberta-base": ("FacebookAI", "roberta", 12, 768, 12, 50265, 514, 1),
    "roberta-large": ("FacebookAI", "roberta", 24, 1024, 16, 50265, 514, 1),
    "xlm-roberta-base": ("FacebookAI", "xlm-roberta", 12, 768, 12, 250002, 514, 1),
    "xlm-roberta-large": ("FacebookAI", "xlm-roberta", 24, 1024, 16, 250002, 514, 1),
    "bert-base-cased": ("google-bert", "bert", 12, 768, 12, 28996, 512, 2),
    "bert-base-uncased": ("google-bert", "bert", 12, 768, 12, 30522, 512, 2),
    "bert-large-cased": ("google-bert", "bert", 24, 1024, 16, 28996, 512, 2),
    "bert-large-uncased": ("google-bert", "bert", 24, 1024, 16, 30522, 512, 2),
}

_ELECTRA = {"model_type": "electra", "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
_DEBERTA_V3 = {
    **{"model_type": "deberta-v2", "vocab_size": 128100, "max_position_embeddings": 512, "type_vocab_size": 0},
    **{"relative_attention": True, "position_buckets": 256, "max_relative_positions": -1, "pos_att_type": "p2c|c2p"},
    **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
}
_MPNET = {
    **{"model_type": "mpnet", "vocab_size": 30527, "max_position_embeddings": 514},
    "relative_attention_num_buckets": 32,
}
_MODERNBERT = {
    **{"model_type": "modernbert", "vocab_size": 50368, "max_position_embeddings": 8192},
    "decoder_bias": True,
}
_ALBERT = {
    **{"model_type": "albert", "vocab_size": 30000, "max_position_embeddings": 512, "type_vocab_size": 2},
    **{"embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1},
}
_DISTILBERT = {
    **{"model_type": "distilbert", "vocab_size": 30522, "max_position_embeddings": 512},
    **{"n_layers": 6, "dim": 768, "hidden_dim": 3072, "n_heads": 12},
}


def _sized(
    kind: Mapping[str, object], blocks: int, hidden: int, heads: int, ffn: int, **more: int
) -> dict[str, object]:
    sizes = {"num_hidden_layers": blocks, "hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": ffn}
    return {**kind, **sizes, **more}


# name: (organisation on the hub, config)
_CONFIGS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "distilbert-base-uncased": ("distilbert", _DISTILBERT),
    "electra-small-discriminator": ("google", _sized(_ELECTRA, 12, 256, 4, 1024, embedding_size=128)),
    "electra-base-discriminator": ("google", _sized(_ELECTRA, 12, 768, 12, 3072, embedding_size=768)),
    "electra-large-discriminator": ("google", _sized(_ELECTRA, 24, 1024, 16, 4096, embedding_size=1024)),
    "deberta-v3-small": ("microsoft", _sized(_DEBERTA_V3, 6, 768, 12, 3072)),
    "deberta-v3-base": ("microsoft", _sized(_DEBERTA_V3, 12, 768, 12, 3072)),
    "deberta-v3-large": ("microsoft", _sized(_DEBERTA_V3, 24, 1024, 16, 4096)),
    "mpnet-base": ("microsoft", _sized(_MPNET, 12, 768, 12, 3072)),
    "ModernBERT-base": ("answerdotai", _sized(_MODERNBERT, 22, 768, 12, 1152)),
    "ModernBERT-large": ("answerdotai", _sized(_MODERNBERT, 28, 1024, 16, 2624)),
    "albert-base-v2": ("albert", _sized(_ALBERT, 12, 768, 12, 3072)),
}

BUILTIN: tuple[str, ...] = (*_ROWS, *_CONFIGS, *DECODERS, *ENCODER_DECODERS)
"""Names of the built-in shapes; each is also known under its organisation (``FacebookAI/roberta-large``)."""


def builtin_config(name: str) -> Mapping[str, object] | None:
    """The config of a built-in model, or None when ``name`` is not one."""
    organisation, _, model = name.rpartition("/")
    if model in _CONFIGS:
        owner, config = _CONFIGS[model]
        return config if organisation in ("", owner) else None
    row = _ROWS.get(model)
    if row is None or organisation not in ("", row[0]):
        return decoder_config(name) or encoder_decoder_config(name)
    _, model_type, blocks, hidden, heads, vocab, positions, types = row
    return {
        "model_type": model_type,
        "num_hidden_layers": blocks,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
    }
