"""The format of a source, given beside it: by keywords in Python, by options of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratatune.data.compressed import uncompressed
from stratatune.data.written import Written
from stratatune.errors import ConfigError, shown

NOT_DELIMITED = (".json", ".jsonl", ".parquet")
"""The suffixes of tables whose format has no separator."""


def check_delimiter(delimiter: str | None, file: str) -> None:
    """Refuse a separator for a file whose format has none.

    Raises:
        ConfigError: it names both.
    """
    if delimiter is not None and uncompressed(Path(file)).suffix.lower() in NOT_DELIMITED:
        said = f"delimiter: {shown(delimiter)}; only csv and tsv files have a delimiter, and the data are {file!r}"
        raise ConfigError([said], "leave it out")


def of_source(source: Any, usual: Written, **given: Any) -> Written:
    """The format of a source in Python: ``usual``, overridden by what is given by name and not None.

    Args:
        source: a path, a table, or a list of texts or of rows.
        usual: the format where nothing is given.
        given: ``bad_rows``, ``delimiter``, ``encoding``, and ``columns`` as {name: its name here}.

    Raises:
        DataError: a value that is none of the legal ones.
        ConfigError: an option that means nothing to such a source.
    """
    from stratatune.data.several import are_files  # brings in pydantic, and --help needs this module

    given = {name: value for name, value in given.items() if value is not None}
    asked = dict(given)
    if "columns" in given:
        given["columns"] = _pairs(given["columns"])
    if isinstance(source, str | Path):
        check_delimiter(given.get("delimiter"), str(source))
    elif not are_files(source):
        texts = isinstance(source, list | tuple) and bool(source) and not isinstance(source[0], Mapping)
        odd = {
            "delimiter": "only csv and tsv files have a delimiter, and the data are in memory",
            "encoding": "only files have an encoding, and the data are in memory",
        }
        odd |= {"columns": "only a table has columns of other names, and the data are a list of texts"} if texts else {}
        found = [name for name in odd if name in asked]
        if found:
            instead = "a table, rows or the path of a file" if found == ["columns"] else "the path of a file"
            errors = [f"{name}: {shown(asked[name])}; {odd[name]}" for name in found]
            raise ConfigError(errors, f"leave {'it' if len(found) == 1 else 'them'} out, or give {instead}")
    return replace(usual, **given)


def _pairs(columns: Any) -> tuple[tuple[str, str], ...]:
    """The columns that are called otherwise, as :attr:`Written.columns` has them.

    Raises:
        ConfigError: they are no mapping of names.
    """
    if isinstance(columns, Mapping) and all(isinstance(one, str) for pair in columns.items() for one in pair):
        return tuple(columns.items())
    raise ConfigError([f"columns: {shown(columns)}"], "give {NAME: ITS_NAME_HERE}, such as {'text': 'review'}")
