"""Every line that depends on a library's version, and our own version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> str:
    """The installed version of ``package``, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


VERSION = installed("stratatune") or "0.0.0"

#: Libraries whose version may change what a trunk computes; they are part of a trunk cache's key.
NUMERIC_LIBRARIES = ("torch", "transformers")


def numeric_versions() -> tuple[tuple[str, str], ...]:
    """``(library, version)`` of what decides the numbers."""
    return tuple((name, installed(name)) for name in NUMERIC_LIBRARIES)
