"""Compressed text files: ``train.csv.gz`` is read as ``train.csv``.

Readers look at a file more than once and map it into memory, so a compressed one is unpacked into a temporary file for
as long as it is read, a piece at a time, whatever size it turns out to have.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stratatune.errors import DataError, ResourceError
from stratatune.units import readable_size

SUFFIXES = (".gz", ".zst")
_PIECE = 1 << 20
_SPARE = 1 << 28  # bytes that stay free on the disk


def uncompressed(path: Path) -> Path:
    """A file's name without the suffix of a compression, if it has one."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A file as it was before it was compressed: itself, or a temporary one whose errors name the file.

    Raises:
        DataError: it is not a whole compressed file, or the reader's own error.
        ResourceError: the folder for temporary files has no room for it.
    """
    if uncompressed(path) == path:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="stratatune-") as folder:
        plain = Path(folder) / uncompressed(path).name
        _unpack(path, plain)
        try:
            yield plain
        except DataError as error:
            said = (text.replace(str(plain), str(path)) for text in (error.message, error.hint))
            raise DataError(*said) from error


def _unpack(path: Path, plain: Path) -> None:
    done = 0
    with plain.open("wb") as target:
        try:
            with _opened(path) as source:
                while piece := source.read(_PIECE):
                    done += len(piece)
                    if shutil.disk_usage(plain.parent).free < _SPARE + len(piece):
                        raise ResourceError(
                            f"{path}: unpacked it takes {readable_size(done)} or more, "
                            f"and {plain.parent.parent} has no room for it",
                            "unpack it yourself, or set TMPDIR to a folder with more room",
                        )
                    target.write(piece)
        except (OSError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None):  # of the disk, not of the content
                raise
            said = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path}: is not a whole {path.suffix[1:]} file: {said}", "write it again") from error


def _opened(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")
