"""Read a file with the `datasets` library, with its failures in one line."""

from __future__ import annotations

import glob
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import DataError
from stratatune.outside import regular_file

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_A_TIME = 10_000


def load(builder: str, path: Path, **options: Any) -> Dataset:
    """Load the whole file as one Dataset; it is streamed, so that no copy of it is written to the library's cache.

    Raises:
        DataError: it cannot be read, or has no rows.
    """
    import pyarrow
    from datasets import Dataset, load_dataset

    try:
        with quiet(), _empty_cache() as folder:
            # Escaped, or brackets in a file's name would be read as a pattern.
            stream = load_dataset(
                builder,
                data_files=glob.escape(str(path)),
                split="train",
                streaming=True,
                cache_dir=folder,
                **options,
            ).with_format("arrow")
            tables = list(stream.iter(batch_size=_ROWS_AT_A_TIME))
    except Exception as error:  # whatever the parser underneath raises is about this file
        raise unreadable(path, error) from error
    if not tables:
        raise DataError(f"{path}: there are no rows", "give at least one example")
    return Dataset(pyarrow.concat_tables(tables, promote_options="permissive"))


@contextmanager
def _empty_cache() -> Iterator[str | None]:
    """A cache for the library, which stays empty: it would make the usual one, and a home folder may be read-only.

    None, which stands for the usual one, where there is no folder for temporary files either.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stratatune-"))
        except OSError:
            folder = None
        yield folder


def load_parquet(path: Path) -> tuple[Dataset, list[str]]:
    """Load a parquet file, and name the columns that are left out: `datasets` has no type for a map, say.

    Raises:
        DataError: it cannot be read, has no rows, or no column that is read.
    """
    import pyarrow
    import pyarrow.parquet
    from datasets import Features

    if wrong := regular_file(path):
        raise DataError(f"{path} cannot be read: {wrong}", "choose a file that you can read")
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    if twice := sorted(name for name, times in Counter(schema.names).items() if times > 1):
        raise DataError(f"{path}: two columns are called {twice[0]!r}", "rename one of them")
    kept, left = list[Any](), list[str]()
    for one in schema:
        try:
            Features.from_arrow_schema(pyarrow.schema([one]))
        except (ValueError, TypeError, NotImplementedError):
            left.append(f"{one.name!r} ({one.type})")
        else:
            kept.append(one)
    if not left:
        return load("parquet", path), []
    if not kept:
        raise DataError(f"{path}: the types of its columns are not read: {', '.join(left)}", "write texts or numbers")
    features = Features.from_arrow_schema(pyarrow.schema(kept, metadata=schema.metadata))
    return load("parquet", path, columns=list(features), features=features), left


def line_of(error: BaseException) -> str:
    """An error's message, in one line that is not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def unreadable(path: Path, error: BaseException) -> DataError:
    """The failure to read ``path``, in one line."""
    if path.suffix.lower() == ".parquet":
        return DataError(
            f"{path} is not a whole parquet file: {line_of(error)}", "write it again, or give the data as csv or jsonl"
        )
    fix = "fix the file"
    if isinstance(error, UnicodeDecodeError):
        fix = "save the file as UTF-8, or name its encoding (--encoding latin-1)"
    elif isinstance(error, PermissionError):
        fix = "change the permissions of what the message names"
    return DataError(f"{path}: cannot be read as {path.suffix[1:]}: {line_of(error)}", fix)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' log lines: the DataError has their content."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
