"""Settings as text: YAML that reads ``off``, ``yes`` and ``1e-3`` as meant, overrides, and checks of paths."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer, ComposerError

from stratatune.data.several import files_in
from stratatune.errors import ConfigError, DataError, nearest, shown
from stratatune.outside import path_exists, regular_file, wrong_path

# YAML 1.1, PyYAML's dialect, reads `off`, `no` and `yes` as booleans, `5:10` as 310 and `1e-3` as text. These are the
# scalars of YAML 1.2 instead.
_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # A longer one is text: no setting is so large, and some labels are.
    "tag:yaml.org,2002:int": (r"[-+]?(?:0|[1-9][0-9]{0,17})", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


_CORE = "tag:yaml.org,2002:"
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 2**20, 20_000, 20
"""Limits of a file of settings. The largest recipe of both papers has some 2,000 values, seven deep."""


class _Refused(ComposerError):
    """Raised for YAML that a file of settings does not need."""


class _Bounded(Composer):
    """Refuses YAML that no file of settings needs and that can grow without end: aliases, tags, depth, many values."""

    _values = _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        parser: Any = self  # a loader is a parser too
        event = parser.peek_event()
        self._values, self._depth = self._values + 1, self._depth + 1
        if wrong := self._refused(event):
            raise _Refused(None, None, wrong, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refused(self, event: Any) -> str:
        if isinstance(event, yaml.AliasEvent):
            return f"the alias *{shown(event.anchor)[1:-1]} is not read: write the value out"
        if event.tag not in (None, "!", f"{_CORE}str"):
            return f"the tag {shown(event.tag.replace(_CORE, '!!'))} is not read: leave it out"
        if self._depth > _DEEPEST:
            return f"values nest more than {_DEEPEST} deep"
        return f"more than {_MOST_VALUES:,} values" if self._values > _MOST_VALUES else ""


class _Loader(_Bounded, yaml.SafeLoader):
    """A safe loader with YAML 1.2's scalars, in which a repeated key is an error."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise yaml.constructor.ConstructorError(None, None, "a name must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{shown(key)} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Raw(_Bounded, yaml.BaseLoader):
    """A loader that reads every scalar as text."""


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either dialect would read as something else; writes no aliases, which are never read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def dump(data: Mapping[str, Any]) -> str:
    """``data`` as YAML, in its own order."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def load_config(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, as they are written there.

    Raises:
        ConfigError: there is no such file, or it is not YAML, or not a mapping of names to values.
    """
    path = Path(path).expanduser()
    if wrong := regular_file(path):
        missing = wrong if path_exists(path) or wrong_path(str(path)) else f"no such file{_near_file(path)}"
        raise ConfigError([f"{shown(str(path))[1:-1]}: {missing}"], "`stratatune init` writes one")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError([f"{path}: larger than {_MOST_BYTES:,} bytes"], "`stratatune init` writes an example")
        text = path.read_text(encoding="utf-8-sig")
        data = yaml.load(text, Loader=_Loader)
        if isinstance(data, dict) and isinstance(data.get("label_words"), dict):
            # Labels and words are text, whatever they look like: true, 1, null.
            data["label_words"] = yaml.load(text, Loader=_Raw)["label_words"]
    except UnicodeDecodeError as error:
        said = f"{path}: is not UTF-8: {error.reason} at byte {error.start:,}"
        raise ConfigError([said], "save it as UTF-8") from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    except yaml.YAMLError as error:
        hint = "`stratatune init` writes an example of such a file"
        if not isinstance(error, _Refused):
            tab = "'\\t'" in _yaml_problem(error)  # a tab cannot begin a value, so one is named only where it indents
            hint = "indent with spaces" if tab else "quote a text that holds ': ', ' #' or [ ]"
        raise ConfigError([f"{path}: {_yaml_problem(error)}"], hint) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            [f"{path}: {shown(data)}; expected lines of `name: value`"], "`stratatune init` writes an example"
        )
    return {str(name): value for name, value in data.items()}


def merge(base: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``base`` with ``a.b=c`` put over it, in order; each value is read as a YAML scalar or a flow list.

    Raises:
        ConfigError: names every override that is not ``name=value`` or that names a field of a plain value.
    """
    merged = copy.deepcopy(dict(base))
    errors: list[str] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys):
            errors.append(f"--set {override}: no value; write name=value, as in --set lr=1e-3")
            continue
        inner: Any = merged
        for depth, key in enumerate(keys[:-1], start=1):
            if inner.get(key) is None:
                inner[key] = {}
            inner = inner[key]
            if not isinstance(inner, dict):
                errors.append(f"--set {override}: {'.'.join(keys[:depth])} is {shown(inner)} and has no fields")
                break
        else:
            inner[keys[-1]] = text.strip() if keys[0] == "label_words" and len(keys) > 1 else _scalar(text)
    if errors:
        raise ConfigError(errors)
    return merged


def _scalar(text: str) -> Any:
    """Parse a value of the command line; other than YAML scalars and flow collections it is text: `[MASK] .`"""
    text = text.strip()
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    if isinstance(value, (dict, list)) and text[:1] not in ("{", "["):
        return text
    return value


def looks_like_path(value: str, *, files: bool) -> bool:
    """Whether ``value`` can only be a path: ``org/name`` may be a hub id; ``a/b/c``, ``./a`` and ``a.csv`` are not.

    Args:
        value: the user's text.
        files: whether a suffix such as ``.csv`` marks a file; names of models may contain dots.
    """
    path = Path(value).expanduser()
    if value.startswith((".", "~")) or path.is_absolute() or len(path.parts) > 2 or "\\" in value:
        return True
    if len(path.parts) == 2 and path.parent.is_dir():
        return True
    return files and re.fullmatch(r"\.[A-Za-z]{2,7}", path.suffix) is not None


def check_source(key: str, value: str, *, files: bool) -> str:
    """An error line when ``value`` is a path at which nothing is, with the nearest name there; empty otherwise."""
    try:
        if files and files_in(value):
            return ""
    except DataError as error:
        return f"{key}: {error.message}"
    if wrong := wrong_path(value):
        return f"{key}: {shown(value)}; {wrong}"
    path = Path(value).expanduser()
    if path.exists() or not looks_like_path(value, files=files):
        return ""
    return f"{key}: {value!r}; no such file or folder{_near_file(path)}"


def check_folder(key: str, value: str) -> str:
    """An error line when the folder ``value`` could not be made or written to; empty otherwise. Makes nothing."""
    if wrong := wrong_path(value):
        return f"{key}: {shown(value)}; {wrong}"
    path = Path(value).expanduser()
    if path.exists() and not path.is_dir():
        return f"{key}: {value!r}; is a file, and a folder is needed"
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        return f"{key}: {value!r}; {existing} is a file, so no folder can be made in it"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{key}: {value!r}; {existing} cannot be written to; choose another folder"
    return ""


def _near_file(path: Path) -> str:
    """``; did you mean ...?`` with the file in the same folder whose name is nearest."""
    if wrong_path(str(path)):
        return ""
    if not path.parent.is_dir():
        return f"; there is no folder {str(path.parent)!r} either"
    try:
        near = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        return ""
    return f"; did you mean {str(path.with_name(near))!r}?" if near else ""


def _yaml_problem(error: yaml.YAMLError) -> str:
    """The mistake and its line number, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    line = f" on line {error.problem_mark.line + 1}" if error.problem_mark else ""
    return f"{error.problem or error.context}{line}"
