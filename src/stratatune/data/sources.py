"""Opening what the user names: a file, a folder or a hub id, as a `Frame` of columns.

Reading is done by the `datasets` library; files are streamed, so that no copy of them is written to its cache.
"""

from __future__ import annotations

import csv
import glob
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.data.frames import Frame, called, of_datasets, of_pandas, of_texts
from stratatune.data.tasks import TASKS, Task
from stratatune.errors import DataError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
BUILDERS |= {".all": "text", ".txt": "text"}

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_ROWS_AT_A_TIME = 10_000


def open_source(source: Any, task: Task | None, split: str | None) -> Frame:
    """Open ``source``; see `readers.read` for what it may be. DataError says in one line why it cannot be opened."""
    if isinstance(source, str | Path):
        return _open_named(str(source), task, split)
    # Asked by name: neither library is imported for data that is not of it.
    library = type(source).__module__.partition(".")[0]
    if library == "datasets":
        return of_datasets(source, "the data set given", split)
    if library == "pandas" and hasattr(source, "columns"):
        return of_pandas(source)
    if hasattr(source, "tolist"):  # a numpy array, a pandas Series
        return of_texts(source.tolist())
    if isinstance(source, Sequence):
        return of_texts(source)
    raise DataError(
        f"cannot read texts from a {type(source).__name__}",
        "legal: a file, folder or hub id, a Dataset or DatasetDict, a DataFrame, a list of texts",
    )


def _open_named(name: str, task: Task | None, split: str | None) -> Frame:
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, task, split)
    if path.is_file():
        return _open_file(path, task, split)
    folder = path.parent
    # Where the folder is there, a slip in a path is likelier than a hub id, and the hub takes long to say no.
    local = folder != Path() and folder.is_dir()
    if path.suffix not in BUILDERS and _HUB_ID.fullmatch(name) and not local:
        return _open_hub(name, split)
    if not folder.is_dir():
        raise DataError(f"no file {name!r}", f"there is no folder {str(folder)!r}")
    there = sorted(entry.name for entry in folder.iterdir())
    near = nearest(path.name, there)
    raise DataError(f"no file {name!r}", f"did you mean {str(folder / near)!r}?" if near else "check the path")


# --- files -----------------------------------------------------------------------------------------------------------


def _open_file(path: Path, task: Task | None, split: str | None) -> Frame:
    if path.suffix not in BUILDERS:
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without an extension'}", _legal_files())
    if not path.stat().st_size:
        raise DataError(f"{path} is empty", "give a file with at least one example")
    if path.suffix == ".all":
        frame = _open_all(path)
        return frame.keep(_cut(task, frame, split)) if task and split in task.cuts else frame
    if path.suffix in (".csv", ".tsv"):
        return of_datasets(_load_table(path, task), str(path))
    return of_datasets(_load("text" if path.suffix == ".txt" else BUILDERS[path.suffix], path), str(path))


def _legal_files() -> str:
    return f"legal: {', '.join(BUILDERS)}"


def _cut(task: Task, frame: Frame, split: str | None) -> list[int]:
    return task.cut(len(frame.rows), split or "train")


def _load_table(path: Path, task: Task | None) -> Dataset:
    """A csv by the usual quoting; a tsv as GLUE writes it, tabs and no quoting. Every cell stays the text it is."""
    from datasets import Features, Value

    tabs = path.suffix == ".tsv"
    layout = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"delimiter": ",", "quoting": csv.QUOTE_MINIMAL}
    )
    names = _header(path, layout)
    options: dict[str, Any] = {"header": 0}
    if tabs and task and task.tsv_header and not set(task.text) <= set(names):
        names = list(task.tsv_header)
        options = {"header": None}
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are called {twice!r}", "rename one of them")
    return _load(
        "csv",
        path,
        sep=layout["delimiter"],
        quoting=layout["quoting"],
        names=names,
        features=Features({name: Value("string") for name in names}),
        keep_default_na=False,  # "None", "NA" and "null" are words, and "01" is not 1
        encoding="utf-8-sig",  # MRPC begins with a byte-order mark, as do files saved by Excel
        **options,
    )


def _header(path: Path, layout: dict[str, Any]) -> list[str]:
    """The first line's fields; refuses a second line that has more, which pandas would shift without a word."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = (line for line in csv.reader(file, **layout) if line)
            header, first = next(lines, []), next(lines, [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    if len(first) > len(header):
        raise DataError(
            f"{path}, row 1 has {len(first)} fields, the header {len(header)}",
            "put quotes around texts with a separator",
        )
    return header


def _open_all(path: Path) -> Frame:
    """`<int> <text>` a line, latin-1: how MR, Subj, MPQA and TREC are published."""
    lines = [line for line in _load("text", path, encoding="latin-1")["text"] if line.strip()]
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


def _load(builder: str, path: Path, **options: Any) -> Dataset:
    import pyarrow
    from datasets import Dataset, load_dataset

    try:
        with _quiet():
            # Escaped, or brackets in a file's name would be read as a pattern.
            stream = load_dataset(
                builder, data_files=glob.escape(str(path)), split="train", streaming=True, **options
            ).with_format("arrow")
            tables = list(stream.iter(batch_size=_ROWS_AT_A_TIME))
    except Exception as error:  # whatever the parser underneath raises is about this file
        raise _unreadable(path, error) from error
    if not tables:
        raise DataError(f"{path} has no rows", "give a file with at least one example")
    return Dataset(pyarrow.concat_tables(tables, promote_options="permissive"))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unreadable(path: Path, error: BaseException) -> DataError:
    fix = "save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else "mend the file"
    return DataError(f"{path}: cannot be read as {path.suffix[1:]}: {_line(error)}", fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of the libraries: what they say is in the DataError."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- folders and the hub ---------------------------------------------------------------------------------------------


def _open_folder(path: Path, task: Task | None, split: str | None) -> Frame:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import load_from_disk

        try:
            return of_datasets(load_from_disk(str(path)), str(path), split)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path}: cannot be read as a saved data set: {_line(error)}", "save it again") from error
    if split is None:
        raise DataError(f"{path} is a folder", "name a split (train, dev, test) or a file in it")
    named = task or TASKS.get(re.sub(r"[-_ ]", "", path.resolve().name.lower()))
    frame = _open_file(_file_of(path, named, split), named, split)
    return (
        frame
        if task or not named
        else replace(frame, task=named).noting(f"read as the task {named.name}, after the folder's name")
    )


def _file_of(folder: Path, task: Task | None, split: str) -> Path:
    """`train.tsv` for train; among `.all` files `X.test.all` for test, else the one that the split is cut from."""
    files = sorted(entry for entry in folder.iterdir() if entry.suffix in BUILDERS)
    for name in called(split):
        for file in files:
            if file.stem == name and file.suffix != ".all":
                return file
    lines = [file for file in files if file.suffix == ".all"]
    by_split = {Path(file.stem).suffix[1:].lower() or "all": file for file in lines}
    if split in by_split:
        return by_split[split]
    if task and split in task.cuts and (source := by_split.get("all") or by_split.get("train")):
        return source
    there = ", ".join(file.name for file in files) or "nothing that can be read"
    raise DataError(f"{folder} has no file for the split {split!r}", f"there is: {there}")


def _open_hub(name: str, split: str | None) -> Frame:
    from datasets import load_dataset

    repository, _, config = name.partition(":")
    task = TASKS.get(repository.removeprefix("glue/")) if repository.startswith("glue/") else None
    address, settings = task.hub if task else (repository, config)
    try:
        with _quiet():
            data = load_dataset(address, settings or None)
    except Exception as error:
        raise DataError(
            f"no file or folder {name!r}, and the hub gives no such data set: {_line(error)}",
            "check the path or hub id",
        ) from error
    frame = of_datasets(data, name, split)
    return replace(frame, task=task) if task else frame
