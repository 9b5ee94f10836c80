"""An architecture that the table does not know, added by the names of its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stratatune.errors import ModelError, did_you_mean
from stratatune.model.backbones import Backbone
from stratatune.model.measure import check_names
from stratatune.plan.architectures import Architecture, Config, Fields
from stratatune.plan.table import add_architecture, forget_architecture
from stratatune.plan.treatments import ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def backbone_from_names(
    model: PreTrainedModel | str,
    *,
    blocks: str,
    embeddings: str,
    roles: Mapping[str, str],
    final_norm: str | None = None,
    mlm_head: Mapping[str, str] | None = None,
    mlm_activation: str | None = None,
    pooler: str | None = None,
    classifier: str | None = None,
    classifier_before: str | None = None,
    beside: Sequence[str] = (),
    projection: str | None = None,
    fused: Mapping[str, tuple[str, ...]] | None = None,
    fields: Mapping[str, str] | None = None,
    token_types: bool = False,
    tuple_blocks: bool = False,
    lm_head: str | None = None,
    rotary: str | None = None,
    position_table: str | None = None,
) -> Architecture:
    """Make an architecture known for the rest of the process, without touching the package.

    Paths are dotted attributes. Sizes are read off the live model. How masks and positions reach an encoder's block is
    asked of the model's own forward, so the names are all that is needed; the model must take ``inputs_embeds``. A
    decoder (``lm_head`` makes it one) calls its blocks as Llama does; whether that gives what the model's own forward
    gives is tried on a few tokens. Encoder-decoders cannot be added by names.

    Args:
        model: a model of the architecture, whose modules the names are checked against; or its ``config.model_type``
            alone, and they are checked when the first such model is tuned.
        blocks: the ``nn.ModuleList`` of blocks, below the encoder (``model.base_model``).
        embeddings: the module, below the encoder, whose output is the hidden state in front of block 0.
        roles: role to path inside a block: of q, k, v, o, up, gate, down those that are an ``nn.Linear`` there, and
            norm_attn, norm_ffn.
        final_norm: the norm behind the last block, below the encoder.
        mlm_head: dense, norm and decoder of the masked-LM head, from the ``...ForMaskedLM`` model.
        mlm_activation: between dense and norm; None: the config's ``hidden_act``.
        pooler: a pretrained pooler, from the ``...ForSequenceClassification`` model.
        classifier: the new head of that model: ``classifier`` where nothing is said, of a decoder ``score``.
        classifier_before: a new dense layer that stands outside it.
        beside: modules below the encoder that feed the blocks beside the embeddings, as a table of relative positions.
        projection: the module below the encoder, behind the embeddings, that widens them to the hidden size.
        fused: path inside a block of a linear that plays several roles to these roles, in the order of its outputs.
        fields: what the config calls blocks, hidden, ffn, heads, vocab, positions, where that is not BERT's name.
        token_types: whether the tokenizer's token types tell segments apart.
        tuple_blocks: whether a block returns a tuple that the hidden state leads.
        lm_head: the output matrix of the ``...ForCausalLM`` model; the architecture is then a decoder, which also needs
            a ``final_norm``.
        rotary: a decoder's module, below ``model.base_model``, that makes rotary angles for its blocks.
        position_table: a decoder's table of positions, below ``model.base_model``, where it has one.

    Returns:
        The row that the backbone table now has.

    Raises:
        ModelError: a role that does not exist, a path that the model does not have, with the nearest that it has, or a
            decoder that does more around its blocks than this.
    """
    for wrong in (role for role in roles if role not in ROLES):
        raise ModelError(f"roles: {wrong!r} is not a role", did_you_mean(wrong, ROLES))
    if lm_head is not None and final_norm is None:
        raise ModelError("final_norm: a decoder needs one", "name the norm behind its last block")
    model_type = model if isinstance(model, str) else model.config.model_type
    classifier = classifier or ("classifier" if lm_head is None else "score")
    row = Architecture(
        name=model_type,
        model_types=(model_type,),
        base="",
        embeddings=embeddings,
        blocks=blocks,
        final_norm=final_norm,
        roles=dict(roles),
        mlm_head=dict(mlm_head or {}) if lm_head is None else {"norm": str(final_norm), "decoder": lm_head},
        mlm_module="",
        mlm_activation=mlm_activation,
        pooler=pooler,
        classifier=classifier,
        classifier_before=classifier_before,
        classifier_dense=False,
        classifier_output=classifier,
        embedding_tables=("vocab",),
        projection=projection,
        beside=dict.fromkeys((*beside, *([projection] if projection else [])), _unknown),
        fused=dict(fused or {}),
        fields=Fields(**{"types": None, **(fields or {})}),
        token_types=token_types,
        tuple_blocks=tuple_blocks,
        measured=True,
        **({} if lm_head is None else _decoder(rotary, position_table)),
    )
    if not isinstance(model, str):
        check_names(row, model, "" if model.base_model is model else f"{model.base_model_prefix}.")
    add_architecture(row)
    if not isinstance(model, str) and row.causal:
        _try(model, model_type)
    return row


def _decoder(rotary: str | None, position_table: str | None) -> dict[str, Any]:
    """What else the row of a decoder says."""
    return {
        "kind": "decoder",
        "rotary": rotary,
        "position_table": position_table,
        "more_embeddings": () if position_table is None else (position_table,),
        "classifier_bias": False,
    }


def _try(model: PreTrainedModel, model_type: str) -> None:
    """Look at the model through its new row, which goes again where it does not fit."""
    try:
        Backbone(model)
    except ModelError:
        forget_architecture(model_type)
        raise


def _unknown(config: Config) -> int:
    """The config does not tell how large it is; the live model will."""
    return 0
