"""Hashes of weights: whose hidden states a cache holds, which base model an adapter was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stratatune.hashing import Part, fast_digest

if TYPE_CHECKING:
    from stratatune.model.backbone import Backbone

_NO_ARITHMETIC = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict"),
    *("num_labels", "id2label", "label2id", "problem_type", "output_attentions", "output_hidden_states"),
)
"""Config fields that say nothing about what the encoder computes."""
_NO_DECODER_ARITHMETIC = ("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
"""Those that say nothing about what a decoder's blocks compute (padding is masked, and moves no position)."""


def fingerprint(backbone: Backbone) -> str:
    """Hash of what the encoder computes: its type, the settings that change its arithmetic, and its weights."""
    silent = (*_NO_ARITHMETIC, *(_NO_DECODER_ARITHMETIC if backbone.row.causal else ()))
    settings = {k: v for k, v in sorted(backbone.model.config.to_dict().items()) if k not in silent}
    modules = (*backbone.embedding_modules(), *dict.fromkeys(backbone.blocks), *backbone.final_norms())
    return hash_of((named for module in modules for named in module.state_dict().items()), str(settings))


def head_fingerprint(backbone: Backbone) -> str:
    """Hash of the frozen parameters outside the encoder: a head that is read, but not saved with what trained."""
    named = backbone.model.named_parameters()
    return hash_of((name, one) for name, one in named if not one.requires_grad and not backbone.in_encoder(one))


def hash_of(named: Iterable[tuple[str, Tensor]], settings: str = "") -> str:
    """Hash of ``settings`` and of tensors under their names: shape, dtype and every byte."""

    def parts() -> Iterator[Part]:
        yield settings
        for name, tensor in named:
            yield f"{name}{tuple(tensor.shape)}{tensor.dtype}"
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return fast_digest(parts())
