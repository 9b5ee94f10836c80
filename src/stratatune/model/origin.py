"""The origin of a base model: the facts that an artefact records, and how to find the model again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stratatune.errors import ModelError
from stratatune.methods.precision import HALVES
from stratatune.model.stored import computes_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WHERE = "give its new place: --base FOLDER"


@dataclass(frozen=True)
class Origin:
    """A base model as it was given.

    Attributes:
        name: the hub id or the folder, as written.
        path: the folder, absolute; empty for a hub id.
        revision: the hub commit, or the requested revision; empty where there is none.
        dtype: the dtype in which it computes without autocast, such as ``float32``.
        model_class: the transformers class, such as ``BertForQuestionAnswering``.
    """

    name: str
    path: str
    revision: str
    dtype: str
    model_class: str

    @classmethod
    def of(cls, model: PreTrainedModel, revision: str | None = None) -> Origin:
        """The origin of a live model; read it before anything is attached, and before the working folder changes."""
        name = str(model.config._name_or_path)
        path = _absolute(name)
        dtype = str(computes_in(model)).removeprefix("torch.")
        return cls(name, path, "" if path else commit_of(name, revision), dtype, type(model).__name__)

    def named(self, name: str) -> Origin:
        """The origin under another name, where the model was given one since."""
        return self if name == self.name else replace(self, name=name, path=_absolute(name), revision="")

    def config(self) -> dict[str, Any]:
        """The config of the checkpoint; empty where it cannot be found."""
        file = Path(self.path) / "config.json" if self.path else _cached(self.name, self.revision)
        try:
            read = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

    def checkpoint_dtype(self) -> torch.dtype | None:
        """The half precision that the checkpoint's config names; None: it names none, or cannot be read."""
        config = self.config()
        found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
        return found if found in HALVES else None

    def to_data(self, folder: Path) -> dict[str, str]:
        """The data for the record in ``folder``: the absolute path, and the relative one in case both move."""
        data = {"name": self.name, "dtype": self.dtype, "class": self.model_class}
        if self.path:
            data |= {"path": self.path, "beside": os.path.relpath(self.path, folder.resolve())}
        if self.revision:
            data["revision"] = self.revision
        return data


def _absolute(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name and folder.is_dir() else ""


def commit_of(name: str, revision: str | None) -> str:
    """The hub commit of the model ``name`` just loaded, or ``revision`` where the hub's cache does not know.

    transformers no longer notes it in the config; the cache keeps a folder for each commit.
    """
    found = _cached(name, revision)
    return revision or "" if found is None else found.parent.name


def _cached(name: str, revision: str | None) -> Path | None:
    """The config in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except HFValidationError:  # no hub id
        return None
    # Neither None nor a path: huggingface_hub returns a special object where it remembers that the file does not
    # exist.
    return Path(found) if isinstance(found, str) else None


def find(record: dict[str, Any], folder: Path) -> tuple[str, str | None]:
    """The base model of an artefact in ``folder``: (name or path, hub revision).

    A folder is looked for where it was, then as far from the artefact as it was, then by the name as written.

    Raises:
        ModelError: it has no name, or it was a folder, and none of these places holds one.
    """
    path, name = record.get("path"), record["name"]
    if not name:
        raise ModelError(f"{folder} does not say what its base model is", f"{_WHERE}, or load(..., base=MODEL)")
    if not path:
        return name, record.get("revision")
    places = [Path(path), folder / record["beside"] if record.get("beside") else Path(name), Path(name).expanduser()]
    there = next((place for place in places if (place / "config.json").is_file()), None)
    if there is None:
        raise ModelError(
            f"the base model {name!r} is no longer at {path}",
            _WHERE,
        )
    return str(there.resolve()), None
