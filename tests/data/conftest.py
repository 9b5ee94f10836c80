"""Small files of any name and content."""

from __future__ import annotations

import pytest


@pytest.fixture
def write(tmp_path):
    """``write("x.csv", text, encoding)``: a file, its folders made."""

    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write
