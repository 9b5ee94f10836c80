"""Where a line ends: for files and standard input alike."""

import pytest

from stratatune.data.lines import decode, lines_of
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.written import Written
from stratatune.errors import DataError

ODD = ["a\u2028b", "c\x85d", "e\x0cf\x0bg", "h\x1ci\x1dj\x1ek", "l\u2029m", "n\ro"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_only_line_feeds_end_lines(end, last):
    assert lines_of(end.join(ODD) + (end if last else "")) == ODD


def test_blank_lines_count_and_old_files_end_otherwise():
    assert lines_of("a\n\nb\n") == ["a", "", "b"]
    assert lines_of("a\rb\r") == ["a", "b"]
    assert lines_of("") == []


def test_a_text_file_has_as_many_rows_as_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\n".join(ODD).encode())
    assert read(path, ReadOptions(need_labels=False)).texts[0] == ODD
    path.write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8.*byte 3.*encoding="):
        read(path, ReadOptions(need_labels=False))
    assert read(path, ReadOptions(need_labels=False, written=Written(encoding="latin-1"))).texts[0] == ["caf\xe9"]


def test_a_byte_order_mark_is_no_text():
    assert decode("x".encode("utf-8-sig"), "here") == decode("x".encode("utf-16"), "here") == "x"
