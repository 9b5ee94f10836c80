"""Sources of a model's config: a folder, the built-in table, or the hub."""

from __future__ import annotations

import shlex
from pathlib import Path

from stratatune.errors import ConfigError, ModelError, nearest, shown
from stratatune.hub import from_cache_if_unreachable
from stratatune.outside import Unreadable, path_exists, read_json, wrong_path
from stratatune.shapes.architectures import Config
from stratatune.shapes.builtin import BUILTIN, builtin_config
from stratatune.shapes.composite import language_part


def config_of(model: str, revision: str | None = None) -> Config:
    """The config that ``model`` names; of several models in one checkpoint, that of the language model."""
    return language_part(whole_config_of(model, revision))


def whole_config_of(model: str, revision: str | None = None) -> Config:
    """The config that ``model`` names: of a folder in transformers' format, else built in, else on the hub."""
    if wrong := wrong_path(model):
        raise ModelError(
            f"model {shown(model)}: {wrong}", "give a folder with config.json, a hub id or a built-in name"
        )
    folder = Path(model).expanduser()
    # Before config.json, which a folder of GGUF files may hold too: loading it would fail later, without its weights.
    if gguf := _gguf(folder):
        raise ModelError(
            f"{gguf} is a GGUF file, whose packed weights are not read",
            "give the folder of the model that it was made from, in safetensors",
        )
    if path_exists(folder / "config.json"):
        return _read(folder / "config.json")
    # Before the hub, so that plans of well-known models resolve without a network.
    built_in = builtin_config(model)
    if built_in is not None:
        return built_in
    # The user means a folder of that name; the hub's answer would only hide its fault.
    if folder.is_dir():
        raise ModelError(f"folder {model} holds no config.json", _about(folder))
    return _download(model, revision)


def _about(folder: Path) -> str:
    """What to do with a folder that holds no model: one of a run, or of an adapter, is often taken for its base."""
    named = shlex.quote(str(folder))
    whole = f"`stratatune export {named} --to merged --out DIR` makes a model of it"
    if any(path_exists(folder / name) for name in ("adapter.json", "adapter/adapter.json")):
        return f"it holds a trained adapter: `stratatune train --start-from {named}` goes on from it, and {whole}"
    if path_exists(folder / "adapter_config.json"):
        return f"it holds an adapter of peft: {whole}"
    return "name the folder of a saved transformers model"


def check_revision(model: str, revision: str | None) -> None:
    """Refuse a hub revision of a local folder, which would be ignored.

    Raises:
        ConfigError: names both.
    """
    if revision is not None and Path(model).expanduser().is_dir():
        raise ConfigError(
            [f"revision: {revision!r}; {model} is a local folder, which has no revisions"],
            "leave out --revision, or give a hub id",
        )


def _gguf(model: Path) -> Path | None:
    """The GGUF file that ``model`` is, or holds in place of safetensors."""
    if model.suffix == ".gguf":
        return model
    if not model.is_dir() or any(model.glob("*.safetensors")):
        return None
    return next(iter(sorted(model.glob("*.gguf"))), None)


def _read(path: Path) -> Config:
    try:
        config = read_json(path)
    except Unreadable as error:
        raise ModelError(f"{path} cannot be read: {error}", "it should be the JSON that transformers saves") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object", "it should be the JSON that transformers saves")
    return config


def _download(model: str, revision: str | None) -> Config:
    """config.json of a hub repository (or of the local hub cache, when offline)."""
    near = nearest(model, BUILTIN)
    hint = f"did you mean {near!r}? " if near else ""
    hint += "give a folder with config.json, a hub id, or a built-in name (`stratatune list backbones`)"
    try:
        from huggingface_hub import hf_hub_download

        with from_cache_if_unreachable():
            path = hf_hub_download(model, "config.json", revision=revision)
    except ImportError as error:
        raise ModelError(
            f"model {model!r} is not a local folder, and huggingface_hub is not installed", hint
        ) from error
    except (OSError, ValueError) as error:  # not found, no access, offline, not a legal id: the hub's errors are these
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"model {model!r}{at} is neither a local folder nor reachable on the hub ({type(error).__name__})", hint
        ) from error
    return _read(Path(path))
