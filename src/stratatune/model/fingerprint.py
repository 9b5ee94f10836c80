"""Hashes of weights: they identify the model of a cache's hidden states, and an adapter's base model."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stratatune.hashing import Part, fast_digest
from stratatune.methods.precision import HALVES
from stratatune.model.unread import Unread

if TYPE_CHECKING:
    from stratatune.model.backbone import Backbone

_NO_ARITHMETIC = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict"),
    *("num_labels", "id2label", "label2id", "problem_type", "output_attentions", "output_hidden_states"),
)
"""Config fields that do not affect the encoder's arithmetic."""

_OF_DROPOUT = ("dropout", "pdrop", "layerdrop")

_PIECE = 1 << 22  # values that are widened at a time


@dataclass(frozen=True)
class Fingerprint:
    """The identity of an encoder: what decides its hidden states.

    Attributes:
        weights: hash of its weights.
        settings: the fields of its config that may change its arithmetic, as JSON has them.
    """

    weights: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, backbone: Backbone) -> Fingerprint:
        """Fingerprint a live model, before anything is attached."""
        # Through JSON and back: tuples and integer keys change there, and saved settings are compared with these.
        return cls(_hash_of_encoder(backbone), json.loads(json.dumps(_settings(backbone), default=str)))

    @cached_property
    def digest(self) -> str:
        """One digest of both: identifies the model whose hidden states a cache holds."""
        said = json.dumps(self.settings, sort_keys=True)
        return fast_digest([self.weights, said])

    def differing(self, settings: Mapping[str, Any]) -> list[str]:
        """The settings that both have and that differ: later versions of transformers add fields.

        Probabilities of dropout may differ: a checkpoint that was loaded with others than its config's gives the same
        outputs.
        """
        compared = {name: was for name, was in settings.items() if not any(word in name for word in _OF_DROPOUT)}
        return [name for name, was in compared.items() if self.settings.get(name, was) != was]


def first_edition(backbone: Backbone) -> str:
    """The hash in artefacts of format 1, which had no separate hashes of weights and settings."""
    return hash_of(_encoder(backbone), str(_settings(backbone)))


def _settings(backbone: Backbone) -> dict[str, Any]:
    silent = (*_NO_ARITHMETIC, *backbone.family.silent_fields)
    return {k: v for k, v in sorted(backbone.model.config.to_dict().items()) if k not in silent}


def _encoder(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    # keep_vars: weights that are not in memory are looked up by the identity of their parameters. Shared blocks count
    # once.
    modules = (*backbone.body.embedding_modules(), *dict.fromkeys(backbone.blocks), *backbone.body.final_norms())
    return (named for module in modules for named in module.state_dict(keep_vars=True).items())


def _hash_of_encoder(backbone: Backbone) -> str:
    """The hash of its weights; unread ones are read from the checkpoint a piece at a time."""
    unread = Unread.of(backbone.model)

    def pieces(tensor: Tensor) -> Iterable[Tensor]:
        return _pieces(tensor) if unread is None or not tensor.is_meta else unread.pieces(tensor, _PIECE)

    return hash_of(_encoder(backbone), pieces=pieces)


def _pieces(tensor: Tensor) -> Iterable[Tensor]:
    # By pieces: widened as a whole, a half-precision word table would need twice its size again.
    return tensor.detach().cpu().reshape(-1).split(_PIECE)


def head_fingerprint(backbone: Backbone, trained: Collection[str] = ()) -> str:
    """Hash the frozen parameters outside the encoder: a head that is read, but not saved with the trained tensors.

    ``trained``: names of parameters that are saved, whether they require gradients now or not.
    """
    named, encoder = backbone.model.named_parameters(), backbone.encoder_ids()
    return hash_of(
        (name, one) for name, one in named if not one.requires_grad and name not in trained and id(one) not in encoder
    )


def hash_of(
    named: Iterable[tuple[str, Tensor]], settings: str = "", pieces: Callable[[Tensor], Iterable[Tensor]] = _pieces
) -> str:
    """Hash of ``settings`` and of tensors under their names: shape, dtype and every byte.

    bf16 and fp16 are hashed as fp32, which holds them exactly: a checkpoint is the same whatever it is loaded as.
    ``pieces`` gives the values of a tensor [n] in their order, some at a time.
    """

    def parts() -> Iterator[Part]:
        yield settings
        for name, tensor in named:
            dtype = torch.float32 if tensor.dtype in HALVES else tensor.dtype
            yield f"{name}{tuple(tensor.shape)}{dtype}"
            for piece in pieces(tensor):
                yield piece.to(dtype).view(torch.uint8).numpy().data

    return fast_digest(parts())
