"""Load a transformers model from a checkpoint in the checkpoint's own precision.

``from_pretrained`` brings every tensor to one dtype, and with it the constants that a model computes while it is made.
So the model is made in fp32, and is given each tensor as stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from stratatune._compat import class_of_auto, save_by_own_names
from stratatune.errors import ModelError
from stratatune.methods.precision import HALVES
from stratatune.model.checkpoint import Checkpoint
from stratatune.model.stored import StoredTable, keep_stored
from stratatune.model.unread import Unread
from stratatune.shapes.table import architecture_of, is_known

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OF_THE_MODEL = (
    *("dtype", "attn_implementation", "experts_implementation"),
    *("use_safetensors", "ignore_mismatched_sizes", "key_mapping"),
)
"""Settings of ``from_pretrained`` that no config has."""
_NUMBERS = (torch.int64, torch.bool)
"""Dtypes of buffers such as a table of positions, which checkpoints of older models hold: they are read at once."""
_EIGHTS = (torch.float8_e4m3fn, torch.float8_e5m2)
_OF_THE_FILES = ("revision", "trust_remote_code")
Adjust = Callable[[Any], None]
"""Changes a model's config."""


@dataclass
class _Asked:
    """The stand-ins that transformers took for a checkpoint's tensors, by their names."""

    unread: bool
    given: dict[str, Tensor] = field(default_factory=dict)


class _Stored:
    """A tensor of a checkpoint, in the form in which transformers takes one: it is read when it is needed.

    It comes as it is stored, whatever dtype transformers requests.
    """

    def __init__(self, checkpoint: Checkpoint, key: str, asked: _Asked) -> None:
        self.checkpoint, self.key, self.asked = checkpoint, key, asked

    def __getitem__(self, part: Any) -> _Stored:
        return self

    def get_shape(self) -> list[int]:
        """The shape, as a safetensors slice returns it."""
        return list(self.checkpoint.entries[self.key].shape)

    def to(self, device: Any = None, dtype: Any = None) -> Tensor:
        """The tensor, or a stand-in of its shape that has no values."""
        entry = self.checkpoint.entries[self.key]
        if not self.asked.unread or entry.dtype in _NUMBERS:
            return self.checkpoint.read(self.key)
        return self.asked.given.setdefault(self.key, torch.empty(entry.shape, dtype=entry.dtype, device="meta"))


def load_model(
    loader: Any,
    name: str,
    settings: dict[str, Any],
    *,
    unread: bool = False,
    adjust: Adjust | None = None,
    part: Mapping[str, Any] | None = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Run ``loader.from_pretrained(name, **settings)``, with its loading info; half-precision weights stay as stored.

    Asked for in fp32, a model computes in it (``model/stored.py``). Where the model brings its own code, or its
    checkpoint is quantised or of a form of its own, transformers alone loads it.

    ``unread``: no weight that the checkpoint has is read (:class:`Unread` knows where they are). ``adjust`` changes the
    config before the model is made. ``part``: the config of the model, where the checkpoint holds others too; the
    settings' ``key_mapping`` then says which of its tensors belong to it.

    Raises:
        ModelError: the checkpoint cannot be read a tensor at a time, and ``unread`` requires it.
    """
    checkpoint = _as_stored(name, settings, whatever=unread)
    if checkpoint is None and unread:
        raise ModelError(
            f"the checkpoint {name!r} cannot be read a tensor at a time: it must be plain safetensors in fp32, bf16 or "
            "fp16, of a model without code of its own",
            "use --trunk resident",
        )
    if checkpoint is None and adjust is None and part is None:
        return loader.from_pretrained(name, output_loading_info=True, **settings)
    own = {key: settings[key] for key in settings if key not in _OF_THE_MODEL}
    # With a state dict from_pretrained reads no folder, so the config is read here, with the settings that belong to
    # it.
    if part is None:
        config = AutoConfig.from_pretrained(name, **own)
    else:
        config = AutoConfig.for_model(**{**part, **{key: own[key] for key in own if key not in _OF_THE_FILES}})
        config._name_or_path = name
    if checkpoint is not None and _is_mxfp4(config.to_dict()):
        delattr(config, "quantization_config")  # the checkpoint is unpacked as it is read
    if adjust is not None:
        adjust(config)
    if checkpoint is None:
        kept = {key: settings[key] for key in settings if key in (*_OF_THE_MODEL, *_OF_THE_FILES)}
        return loader.from_pretrained(name, config=config, output_loading_info=True, **kept)
    given = {key: settings[key] for key in _OF_THE_MODEL if key in settings and key != "use_safetensors"}
    if is_known(config.model_type) and architecture_of(config.model_type, config.to_dict()).experts is not None:
        checkpoint = checkpoint.with_experts_joined()
    asked = _Asked(unread)
    tensors: dict[str, Any] = {key: _Stored(checkpoint, key, asked) for key in checkpoint.entries}
    made = class_of_auto(loader, config)
    model, info = made.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True, **given)
    if checkpoint.joins_experts:
        save_by_own_names(model)
    # from_pretrained notes the name that it was given, here none; errors, cards and saved adapters name the base by it.
    model.config._name_or_path = model.name_or_path = name
    if model.can_generate():
        with contextlib.suppress(OSError):  # there is no such file: those that the config gives
            own = {key: settings[key] for key in ("revision", "local_files_only") if key in settings}
            model.generation_config = GenerationConfig.from_pretrained(name, **own)
    # A parameter is a new object over the stand-in's storage, so its tensor is found by the storage.
    places = {tensor.untyped_storage()._cdata: key for key, tensor in asked.given.items()}
    # Tied biases are created again; they have the checkpoint's own names.
    own_names = {id(one): name for name, one in model.named_parameters() if name in checkpoint.entries}
    unread_ones = [one for one in model.parameters() if one.is_meta]
    keys = {id(one): places.get(one.untyped_storage()._cdata, own_names.get(id(one), "")) for one in unread_ones}
    _read_buffers(model, checkpoint, places)
    # After the keys are noted: tensors that keep_stored widens get another storage.
    keep_stored(model)
    if unread:
        made_unread = Unread(model, checkpoint, {one: key for one, key in keys.items() if key})
        for module in model.modules():
            if isinstance(module, StoredTable):
                module.unread = made_unread
    return model, info


def _read_buffers(model: PreTrainedModel, checkpoint: Checkpoint, places: Mapping[int, str]) -> None:
    """Read the buffers that a checkpoint holds, such as Gemma 4's scale of a block: they are small, and no weights."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta and (key := places.get(buffer.untyped_storage()._cdata)):
                module._buffers[name] = checkpoint.read(key)


def check_plain(name: str, config: Mapping[str, Any], revision: str | None) -> None:
    """Refuse a checkpoint whose weights are packed, from its config and its files' headers.

    Raises:
        ModelError: it is quantised, or in fp8.
    """
    hint = "give the checkpoint that it was made from; `pack: nf4` holds the frozen part of the top in 4 bits"
    quantised = config.get("quantization_config")
    if quantised and not _is_mxfp4(config):
        method = quantised.get("quant_method", "") if isinstance(quantised, Mapping) else ""
        raise ModelError(f"the checkpoint {name!r} is quantised ({method or 'quantization_config'})", hint)
    if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
        return
    found = Checkpoint.of(name, revision)
    entries = {} if found is None else found.entries
    eighth = next((key for key, entry in entries.items() if entry.dtype in _EIGHTS), None)
    if eighth is not None:
        raise ModelError(f"the checkpoint {name!r} holds fp8 weights ({eighth})", hint)


def _is_mxfp4(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's experts are in MXFP4, in which gpt-oss is published."""
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    return str(getattr(method, "value", method)) == "mxfp4" and config.get("model_type") == "gpt_oss"


def _as_stored(name: str, settings: dict[str, Any], *, whatever: bool) -> Checkpoint | None:
    """The checkpoint, if it is to keep its own precision; None: as transformers loads it.

    ``whatever``: also one that has no half precision.
    """
    if settings["dtype"] != torch.float32 or settings.get("trust_remote_code"):
        return None
    # Without safetensors, transformers reports the missing files.
    if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
        return None
    checkpoint = Checkpoint.of(name, settings.get("revision"))
    checkpoint = None if checkpoint is None else checkpoint.unpacked()
    if checkpoint is None or not (whatever or any(entry.dtype in HALVES for entry in checkpoint.entries.values())):
        return None
    # Shorter integers and fp8 are a quantiser's, which only transformers can unpack.
    plain = all(entry.dtype in (*HALVES, torch.float32, *_NUMBERS) for entry in checkpoint.entries.values())
    return checkpoint if plain else None
