"""Where a base model came from: what of it an artefact remembers, and how it is found again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Origin:
    """A base model as it was given.

    Attributes:
        name: the hub id or the folder, as written.
        path: the folder, absolute; empty for a hub id.
        revision: the hub commit, or the revision that was asked for; empty where there is none.
        dtype: what its weights were loaded as, such as ``float32``.
        model_class: the transformers class, such as ``BertForQuestionAnswering``.
    """

    name: str
    path: str
    revision: str
    dtype: str
    model_class: str

    @classmethod
    def of(cls, model: PreTrainedModel, revision: str | None = None) -> Origin:
        """That of a live model; ask before anything is attached, and before the working folder changes."""
        name = str(model.config._name_or_path)
        folder = Path(name).expanduser()
        path = str(folder.resolve()) if name and folder.is_dir() else ""
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        return cls(name, path, "" if path else commit_of(name, revision), dtype, type(model).__name__)

    def to_data(self, folder: Path) -> dict[str, str]:
        """As the record in ``folder`` holds it: beside the absolute path the way from there, in case both move."""
        data = {"name": self.name, "dtype": self.dtype, "class": self.model_class}
        if self.path:
            data |= {"path": self.path, "beside": os.path.relpath(self.path, folder.resolve())}
        if self.revision:
            data["revision"] = self.revision
        return data


def commit_of(name: str, revision: str | None) -> str:
    """The hub commit at which ``name`` was just loaded, or ``revision`` where the hub's cache does not tell.

    transformers no longer notes it in the config; the cache keeps a folder for each commit.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no hub id
        return revision or ""
    return Path(found).parent.name if isinstance(found, str) else revision or ""


def find(record: dict[str, Any], folder: Path) -> tuple[str, str | None]:
    """The base model of an artefact in ``folder``: (name or path, hub revision).

    A folder is looked for where it was, then as far from the artefact as it was, then by the name as written.

    Raises:
        ModelError: it was a folder, and none of these places holds one.
    """
    path, name = record.get("path"), record["name"]
    if not path:
        return name, record.get("revision")
    places = [Path(path), folder / record["beside"] if record.get("beside") else Path(name), Path(name).expanduser()]
    there = next((place for place in places if (place / "config.json").is_file()), None)
    if there is None:
        raise ModelError(
            f"the base model {name!r} is no longer at {path}",
            "say where it is now: --base FOLDER, or load(..., base=FOLDER)",
        )
    return str(there.resolve()), None
