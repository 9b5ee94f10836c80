"""Save a model whose trunk is only in its checkpoint, shard by shard: one shard and the top are in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stratatune._compat import as_saved
from stratatune.methods.experts import holds_experts
from stratatune.model.unread import Unread

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHARD_BYTES = 1 << 30


def write_model(model: PreTrainedModel, unread: Unread | None, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a model in ``dtype`` (None: as it is), by :func:`write_shards` where its trunk is ``unread``.

    Raises:
        ModelError: the checkpoint cannot be read any more.
    """
    if unread is not None:
        write_shards(model, unread, folder, dtype)
        return
    if dtype is not None:
        model.to(dtype)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(folder)


def write_shards(model: PreTrainedModel, unread: Unread, folder: Path, dtype: torch.dtype | None) -> None:
    """Write what ``model.save_pretrained(folder)`` would: the config, and the weights in ``dtype`` (None: as they are).

    Raises:
        ModelError: the checkpoint cannot be read any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = model.config
    config.architectures = [type(model).__name__]
    if dtype is not None:
        config.dtype = dtype
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)  # pyright: ignore[reportOptionalMemberAccess]
    shards: list[list[str]] = []
    total = 0
    for number, shard in enumerate(_shards(_tensors(model, unread, dtype)), start=1):
        # A shard's final name has the number of shards in it, which is known only at the end.
        save_file(shard, folder / f"part-{number}.safetensors", metadata={"format": "pt"})
        total += sum(one.nbytes for one in shard.values())
        shards.append(list(shard))
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        (folder / f"part-{number}.safetensors").rename(folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensors(model: PreTrainedModel, unread: Unread, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight once, by its first name."""
    seen: set[int] = set()
    experts = any(map(holds_experts, model.modules()))
    for name, one in model.state_dict(keep_vars=True).items():
        # Tied weights are saved once, as save_pretrained does; from_pretrained ties them again.
        if id(one) in seen:
            continue
        seen.add(id(one))
        value = unread.read_again(one) if one.is_meta else one.detach()
        wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
        value = value.to("cpu", wanted)
        for own, part in (as_saved(model, name, value) if experts else {name: value}).items():
            yield own, part.contiguous()


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, value in tensors:
        if shard and held + value.nbytes > _SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name] = value
        held += value.nbytes
    if shard:
        yield shard
