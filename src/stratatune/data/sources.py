"""Open the source that the user names: a file, a folder or a hub id, as a `Frame` of columns.

csv, tsv and parquet files, saved sets and the hub are read by the `datasets` library; files are streamed, so that no
copy of them is written to its cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratatune.data.compressed import SUFFIXES as COMPRESSED
from stratatune.data.compressed import uncompressed, unpacked
from stratatune.data.delimited import open_table
from stratatune.data.frames import (
    Frame,
    SeveralSplits,
    called,
    of_arrow,
    of_columns,
    of_datasets,
    of_pandas,
    of_polars,
    of_texts,
)
from stratatune.data.json_rows import open_json
from stratatune.data.labels import listed
from stratatune.data.lines import decode, lines_of
from stratatune.data.loading import line_of, load_parquet, quiet
from stratatune.data.several import files_in, joined
from stratatune.data.tasks import TASKS, Task
from stratatune.data.written import AS_USUAL, Written
from stratatune.errors import DataError, nearest, shown
from stratatune.hub import from_cache_if_unreachable
from stratatune.outside import read_json, wrong_path

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".all", ".txt")
"""The suffixes of the files that can be read, in small letters or capitals; text files may be compressed too."""

_BESIDE_TOKENS = ("label", "labels")
"""Columns of tokenized data that may hold texts, the names of classes."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def open_source(source: Any, task: Task | None, split: str | None, written: Written = AS_USUAL) -> Frame:
    """Open ``source``; see `readers.read` for the legal kinds. DataError says in one line why it cannot be opened."""
    if isinstance(source, Frame):  # which was opened before
        return source
    frame = _opened(source, task, split, written).renamed(written.columns)
    _refuse_tokens(frame)
    return frame


def _refuse_tokens(frame: Frame) -> None:
    """Refuse rows that hold no texts but their tokens, as they are prepared for ``Trainer``."""
    tokens = next((name for name in frame.names if name.endswith("input_ids")), None)
    if tokens is None or not len(frame.rows) or isinstance(frame.get(tokens)[0], str):
        return
    others = (frame.get(name)[0] for name in frame.names if name not in _BESIDE_TOKENS)
    if not any(_holds_text(value) for value in others):
        raise DataError(
            f"{frame.place}: the data are tokenized already, and texts are needed; columns: {listed(frame.names)}",
            "give the texts, which a run tokenizes itself; st.apply and st.cached train on tokens",
        )


def _holds_text(value: Any) -> bool:
    value = value.tolist() if hasattr(value, "tolist") else value
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, str | Mapping)


def _opened(source: Any, task: Task | None, split: str | None, written: Written) -> Frame:
    if isinstance(source, str | Path):
        return _open_named(str(source), task, split, written)
    # Asked by name: none of these libraries is imported for data that is not of it.
    library = type(source).__module__.partition(".")[0]
    if library == "datasets":
        return of_datasets(source, "the data set given", split)
    if library == "pandas" and hasattr(source, "columns"):
        return of_pandas(source)
    if library == "polars" and hasattr(source, "to_pandas"):  # not a lazy one
        return of_polars(source) if hasattr(source, "columns") else of_texts(source.to_list())
    if library == "pyarrow" and hasattr(source, "to_pylist"):
        return of_arrow(source) if hasattr(source, "schema") else of_texts(source.to_pylist())
    if hasattr(source, "tolist"):  # a numpy array, a pandas Series
        return of_texts(source.tolist())
    if isinstance(source, Mapping):
        return of_columns(source)
    if isinstance(source, Sequence):
        return of_texts(source)
    raise DataError(
        f"cannot read texts from a {type(source).__name__}",
        "legal: a file, folder or hub id, a Dataset or DatasetDict, a DataFrame, a dict of columns, a list of texts",
    )


def _open_named(name: str, task: Task | None, split: str | None, written: Written) -> Frame:
    if files := files_in(name):
        for file in files:
            _check_split(file, None, split)
        return joined([_open_file(file, task, None, written) for file in files], name)
    if wrong := wrong_path(name):
        raise DataError(f"no file {shown(name)}: {wrong}", "check the path")
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, task, split, written)
    if path.is_file():
        _check_split(path, task, split)
        return _open_file(path, task, split, written)
    if _is_hub_id(name):
        return _open_hub(name, split)
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"no file {name!r}", f"there is no folder {str(folder)!r}")
    there = sorted(entry.name for entry in folder.iterdir())
    near = nearest(path.name, there)
    raise DataError(f"no file {name!r}", f"did you mean {str(folder / near)!r}?" if near else "check the path")


def _is_hub_id(name: str) -> bool:
    """Whether a name at which no file or folder is names a data set on the hub."""
    path = Path(name).expanduser()
    # Where the folder is there, a slip in a path is likelier than a hub id, and the hub takes long to say no.
    local = path.parent != Path() and path.parent.is_dir()
    return uncompressed(path).suffix.lower() not in SUFFIXES and _HUB_ID.fullmatch(name) is not None and not local


def splits_of(source: Any) -> list[str]:
    """The names of the splits of a ``DatasetDict``, of its folder on the disk, of a folder of files, or of a hub id.

    In a folder of files they are the names of those in the format of the one called train. None of anything else.

    Raises:
        DataError: the hub gives no such data set.
    """
    if isinstance(source, dict) and type(source).__module__.partition(".")[0] == "datasets":
        return list(source)
    if not isinstance(source, str | Path) or wrong_path(str(source)):
        return []
    folder = Path(source).expanduser()
    if (listed := folder / "dataset_dict.json").is_file():
        return list(read_json(listed).get("splits", ()))
    if not folder.is_dir():
        named = str(source)
        data = _load_hub(named)[0] if not (folder.exists() or files_in(named)) and _is_hub_id(named) else None
        return list(data) if isinstance(data, dict) else []
    files = sorted(
        uncompressed(one) for one in folder.iterdir() if one.is_file() and uncompressed(one).suffix.lower() != ".all"
    )
    formats = {one.suffix for one in files if one.stem in called("train")}
    return [one.stem for one in files if one.suffix in formats]


# --- files -----------------------------------------------------------------------------------------------------------


def _open_file(path: Path, task: Task | None, split: str | None, written: Written) -> Frame:
    suffix = uncompressed(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: cannot read {uncompressed(path).suffix or 'a file without an extension'}",
            f"{_legal_files()}; --objective tags reads any ending, a word and its tag on each line",
        )
    if not path.stat().st_size:
        raise DataError(f"{path} is empty", "give a file with at least one example")
    if uncompressed(path) != path:
        if suffix == ".parquet":
            raise DataError(f"{path}: a parquet file is compressed inside", f"unpack it: {uncompressed(path)}")
        with unpacked(path) as plain:
            return replace(_open_file(plain, task, split, written), place=str(path))
    if suffix == ".all":
        frame = _open_all(path, written)
        return _cut(frame, task, split) if task and split in task.cuts else frame
    if suffix in (".csv", ".tsv"):
        return open_table(path, task, written)
    if suffix in (".json", ".jsonl"):
        return open_json(path, written)
    if suffix == ".txt":
        lines = _lines(path, written)
        return Frame(str(path), ["text"], lambda _: list(lines), range(1, len(lines) + 1))
    return _open_parquet(path)


def _check_split(path: Path, task: Task | None, split: str | None) -> None:
    """Refuse a split of a file that has none: it would be read whole, and scored under a split's name."""
    legal = task.cuts if task and uncompressed(path).suffix.lower() == ".all" else ()
    if split is None or split in legal:
        return
    hint = f"its splits: {', '.join(legal)}" if legal else "leave the split out; a folder, or a hub id, has splits"
    raise DataError(f"{path} is one file and has no split {split!r}", hint)


def _legal_files() -> str:
    return f"legal: {', '.join(SUFFIXES)}; text files also with {' or '.join(COMPRESSED)} behind it"


def _lines(path: Path, written: Written, encoding: str | None = None) -> list[str]:
    return lines_of(decode(path.read_bytes(), str(path), written.encoding or encoding))


def _cut(frame: Frame, task: Task, split: str) -> Frame:
    """Cut the task's own ``split`` from its one file, with a notice."""
    rows = task.cut(len(frame.rows), split)
    return frame.keep(rows).noting(
        f"{len(rows):,} of {len(frame.rows):,} rows are the split {split!r}, which is drawn for the task {task.name}"
    )


def _open_parquet(path: Path) -> Frame:
    data, left = load_parquet(path)
    frame = of_datasets(data, str(path))
    if not left:
        return frame
    said = "columns of types that are not read are" if len(left) > 1 else "a column of a type that is not read is"
    return frame.noting(f"{said} left out: {', '.join(left)}")


def _open_all(path: Path, written: Written) -> Frame:
    """Read `<int> <text>` a line, latin-1: the format in which MR, Subj, MPQA and TREC are published."""
    lines = [line for line in _lines(path, written, "latin-1") if line.strip()]
    if not lines:
        raise DataError(f"{path}: there are no rows", "give at least one example")
    columns: dict[str, list[Any]] = {"label": [], "text": []}
    for row, line in enumerate(lines, start=1):
        label, _, text = line.strip().partition(" ")
        if not label.isdecimal():
            raise DataError(
                f"{path}, row {row}: no class number in front: {line[:40]!r}", "write `<int> <text>` a line"
            )
        columns["label"].append(label)
        columns["text"].append(text)
    return Frame(str(path), list(columns), columns.__getitem__, range(1, len(lines) + 1))


# --- folders and the hub ---------------------------------------------------------------------------------------------


def _open_folder(path: Path, task: Task | None, split: str | None, written: Written) -> Frame:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import load_from_disk

        try:
            return of_datasets(load_from_disk(str(path)), str(path), split)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path}: cannot be read as a saved data set: {line_of(error)}", "save it again") from error
    if split is None:
        raise SeveralSplits(str(path), "is a folder", (), "name a split (train, dev, test) or a file in it")
    named = task or TASKS.get(re.sub(r"[-_ ]", "", path.resolve().name.lower()))
    frame = _open_file(_file_of(path, named, split), named, split, written)
    return (
        frame
        if task or not named
        else replace(frame, task=named).noting(f"read as the task {named.name}, after the folder's name")
    )


def _file_of(folder: Path, task: Task | None, split: str) -> Path:
    """`train.tsv` for train; among `.all` files `X.test.all` for test, else the one that the split is cut from."""
    files = sorted(entry for entry in folder.iterdir() if uncompressed(entry).suffix.lower() in SUFFIXES)
    for name in called(split):
        for file in files:
            if uncompressed(file).stem == name and uncompressed(file).suffix.lower() != ".all":
                return file
    lines = [file for file in files if uncompressed(file).suffix.lower() == ".all"]
    by_split = {Path(uncompressed(file).stem).suffix[1:].lower() or "all": file for file in lines}
    if split in by_split:
        return by_split[split]
    if task and split in task.cuts and (source := by_split.get("all") or by_split.get("train")):
        return source
    there = ", ".join(file.name for file in files) or "nothing that can be read"
    raise DataError(f"{folder} has no file for the split {split!r}", f"there is: {there}")


def _open_hub(name: str, split: str | None) -> Frame:
    data, task = _load_hub(name)
    frame = of_datasets(data, name, split)
    return replace(frame, task=task) if task else frame


def _load_hub(name: str) -> tuple[Any, Task | None]:
    """A data set of the hub, usually with its splits by their names, and the task that its name says."""
    from datasets import load_dataset

    repository, _, config = name.partition(":")
    task = TASKS.get(repository.removeprefix("glue/")) if repository.startswith("glue/") else None
    address, settings = task.hub if task else (repository, config)
    try:
        with quiet(), from_cache_if_unreachable():
            return load_dataset(address, settings or None), task
    except PermissionError as error:
        fix = "data sets of the hub are kept in $HF_HOME: name a folder that you can write to"
        raise DataError(f"{name}: {line_of(error)}", fix) from error
    except Exception as error:
        raise DataError(
            f"no file or folder {name!r}, and the hub gives no such data set: {line_of(error)}",
            "check the path or hub id",
        ) from error
