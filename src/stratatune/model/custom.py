"""Architectures that the table does not know, added by the names of their modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stratatune.errors import ModelError, did_you_mean
from stratatune.model.backbone import Backbone
from stratatune.model.names import check_names
from stratatune.plan.methods import ROLES
from stratatune.shapes.architectures import (
    Architecture,
    Config,
    DecoderArchitecture,
    EncoderArchitecture,
    EncoderDecoderArchitecture,
    Fields,
)
from stratatune.shapes.encoder_decoders import BART_FIELDS, T5_FIELDS
from stratatune.shapes.table import forget_architecture, register

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
    decoder_blocks: str | None = None,
    decoder_roles: Mapping[str, str] | None = None,
    behind_encoder: Sequence[str] = (),
    position_bias: str | None = None,
    position_norm: str | None = None,
) -> Architecture:
    """Deprecated: build a row and give it to :func:`add_architecture`, which this does.

    ``lm_head`` makes the row a decoder's, ``decoder_blocks`` an encoder-decoder's. Paths are dotted attributes. Sizes
    are read off the live model. Of an encoder-decoder every weight must have a name.

    Args:
        model: a model of the architecture, whose modules the names are checked against; or its ``config.model_type``
            alone, and they are checked when the first such model is tuned.
        blocks: the ``nn.ModuleList`` of blocks, below the encoder (``model.base_model``).
        embeddings: the module, below the encoder, whose output is the hidden state before block 0.
        roles: role to path inside a block: of q, k, v, o, up, gate, down those that are an ``nn.Linear`` there, and
            norm_attn, norm_ffn.
        final_norm: the norm after the last block, below the encoder.
        mlm_head: dense, norm and decoder of the masked-LM head, from the ``...ForMaskedLM`` model.
        mlm_activation: between dense and norm; None: the config's ``hidden_act``.
        pooler: a pretrained pooler, from the ``...ForSequenceClassification`` model.
        classifier: the new head of that model: by default ``classifier``, in a decoder ``score``.
        classifier_before: a new dense layer outside it.
        beside: modules below the encoder that feed the blocks besides the embeddings, such as a table of relative
            positions; for an encoder-decoder, in both stacks (tables of positions, norms after them).
        projection: the module below the encoder, after the embeddings, that widens them to the hidden size.
        fused: path inside a block of a linear that plays several roles to these roles, in the order of its outputs.
        fields: the config's names for blocks, hidden, ffn, heads, vocab, positions, where that is not BERT's name; of
            an encoder-decoder also decoder_blocks and decoder_ffn, where that is not T5's (with a ``position_bias``) or
            BART's.
        token_types: whether the tokenizer's token types distinguish segments.
        tuple_blocks: whether a block returns a tuple that the hidden state leads.
        lm_head: the output matrix of the ``...ForCausalLM`` model; the architecture is then a decoder, which also needs
            a ``final_norm``. Of an encoder-decoder: that of its language-model head; needed too.
        rotary: a decoder's module, below ``model.base_model``, that makes rotary angles for its blocks.
        position_table: the table of positions of a decoder, or of an encoder-decoder's encoder, below
            ``model.base_model``, where it has one.
        decoder_blocks: the ``nn.ModuleList`` of an encoder-decoder's second stack; ``blocks`` are then its encoder's,
            and ``final_norm`` follows them. The two stacks are ``encoder`` and ``decoder`` of ``model.base_model``.
        decoder_roles: role to path inside a block of the second stack, cross_q, cross_k, cross_v, cross_o and
            norm_cross among them.
        behind_encoder: the modules that the encoder's output goes through after its last block, in order (T5: norm and
            dropout).
        position_bias: the module inside the encoder's first block whose ``compute_bias`` makes the bias of relative
            positions that all its blocks are given (T5).
        position_norm: the norm after the encoder's words and positions (BART).

    Returns:
        The row that the backbone table now has.

    Raises:
        ModelError: a role that does not exist, a path that the model does not have, with the nearest that it has, or a
            decoder that does more around its blocks than this.
    """
    warnings.warn("backbone_from_names: build a row and give it to add_architecture", DeprecationWarning, stacklevel=2)
    for wrong in (role for role in (*roles, *(decoder_roles or {})) if role not in ROLES):
        raise ModelError(f"roles: {wrong!r} is not a role", did_you_mean(wrong, ROLES))
    model_type = model if isinstance(model, str) else model.config.model_type
    common: dict[str, Any] = {
        "name": model_type,
        "model_types": (model_type,),
        "base": "",
        "embeddings": embeddings,
        "blocks": blocks,
        "final_norm": final_norm,
        "roles": dict(roles),
        "classifier_before": classifier_before,
        "pooler": pooler,
        "embedding_tables": ("vocab",),
        "fused": dict(fused or {}),
        "token_types": token_types,
        "tuple_blocks": tuple_blocks,
        "measured": True,
    }
    widened: Mapping[str, Callable[[Config], int]] = dict.fromkeys(
        (*beside, *([projection] if projection else [])), _unknown
    )
    row: Architecture
    if decoder_blocks is not None:
        if lm_head is None:
            raise ModelError("lm_head: an encoder-decoder needs one", "name the output matrix of its LM head")
        row = EncoderDecoderArchitecture(
            **common,
            lm_head=lm_head,
            classifier=classifier or "classification_head",
            # transformers' classification heads of BART and T5 are a dense layer and a projection.
            classifier_dense=True,
            fields=replace(T5_FIELDS if position_bias else BART_FIELDS, **(fields or {})),
            decoder_blocks=decoder_blocks,
            decoder_roles=dict(decoder_roles or {}),
            more_embeddings=tuple(dict.fromkeys((*beside, *behind_encoder))),
            behind_blocks=tuple(behind_encoder),
            relative_bias=position_bias,
            position_table=position_table,
            position_norm=position_norm,
        )
    elif lm_head is not None:
        if final_norm is None:
            raise ModelError("final_norm: a decoder needs one", "name the norm after its last block")
        row = DecoderArchitecture(
            **common,
            lm_head=lm_head,
            classifier=classifier or "score",
            # transformers' classification head of a decoder is a linear without bias.
            classifier_bias=False,
            fields=Fields(**{"types": None, **(fields or {})}),
            beside=widened,
            more_embeddings=() if position_table is None else (position_table,),
            rotary=rotary,
            position_table=position_table,
        )
    else:
        row = EncoderArchitecture(
            **common,
            mlm_head=dict(mlm_head or {}),
            mlm_activation=mlm_activation,
            classifier=classifier or "classifier",
            fields=Fields(**{"types": None, **(fields or {})}),
            beside=widened,
            projection=projection,
        )
    if isinstance(model, str):
        register(row)
    else:
        add_architecture(row, model)
    return row


def add_architecture(row: Architecture, model: PreTrainedModel | None = None) -> None:
    """Register an architecture for the rest of the process, without changing the package.

    How masks and positions reach an encoder's block is recorded from the model's own forward, so a row needs only
    names; the model must take ``inputs_embeds``. A decoder calls its blocks as Llama does, an encoder-decoder those of
    its encoder as BART or T5 does; a few tokens show whether that equals the model's own forward.

    Args:
        row: an ``EncoderArchitecture``, a ``DecoderArchitecture`` or an ``EncoderDecoderArchitecture``. With
            ``measured=True`` sizes are read off the live model; else its config must hold them.
        model: a live model of it, against which the row is checked; None: it is checked when one is tuned.

    Raises:
        ModelError: a role that does not exist, a path that the model does not have, with the nearest that it has, or a
            model that does more around its blocks than this.
    """
    for wrong in (role for stack in row.stacks for role in stack.roles if role not in ROLES):
        raise ModelError(f"roles: {wrong!r} is not a role", did_you_mean(wrong, ROLES))
    if model is None:
        register(row)
        return
    check_names(row, model, "" if model.base_model is model else f"{model.base_model_prefix}.")
    register(row)
    _try(model, row.model_types)


def _try(model: PreTrainedModel, model_types: Sequence[str]) -> None:
    """Try the new row on the model; remove it if it does not fit."""
    try:
        Backbone(model)
    except ModelError:
        for model_type in model_types:
            forget_architecture(model_type)
        raise


def _unknown(config: Config) -> int:
    """A placeholder for a size that the config lacks; the live model supplies it."""
    return 0
