"""Configs of well-known models, so that a plan resolves against them with no network and no weights."""

from __future__ import annotations

from collections.abc import Mapping

from stratatune.plan.builtin_decoders import DECODERS, decoder_config

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

BUILTIN: tuple[str, ...] = (*_ROWS, *DECODERS)
"""Names of the built-in shapes; each is also known under its organisation (``FacebookAI/roberta-large``)."""


def builtin_config(name: str) -> Mapping[str, object] | None:
    """The config of a built-in model, or None when ``name`` is not one."""
    organisation, _, model = name.rpartition("/")
    row = _ROWS.get(model)
    if row is None or organisation not in ("", row[0]):
        return decoder_config(name)
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
