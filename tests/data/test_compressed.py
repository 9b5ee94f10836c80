"""A compressed file is the file that it was, and what is wrong with it is one line that names it."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest

from stratatune.data import compressed
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.data.sources import open_source
from stratatune.data.tagged import read_tagged
from stratatune.data.written import AS_USUAL
from stratatune.errors import DataError, ResourceError

FILES = {
    "x.csv": 'text,label\n"a film, long",good\n"two\nlines",bad\n',
    "x.tsv": 'text\tlabel\na "film\tgood\nthe book\tbad\n',
    "x.json": '[{"text": "a film", "label": "good"}, {"text": "a book", "label": "bad"}]',
    "x.jsonl": '{"text": "a film", "label": "good", "n": {"a": null}}\n{"text": "a book", "label": "bad"}\n',
    "x.txt": "a film\na book\n",
    "MR.train.all": "1 a film\n0 a caf\xe9\n",
}


def pack(path: Path, content: bytes, suffix: str) -> Path:
    """The content in a compressed file, in two parts one after the other."""
    packed, half = path.with_name(path.name + suffix), len(content) // 2
    codec = gzip.compress if suffix.lower() == ".gz" else lambda part: pyarrow.compress(part, "zstd", asbytes=True)
    packed.write_bytes(codec(content[:half]) + codec(content[half:]))
    return packed


def columns(source: Path) -> dict[str, list]:
    frame = open_source(str(source), None, None)
    assert frame.place == str(source)
    return {name: frame.get(name) for name in frame.names}


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".GZ"])
@pytest.mark.parametrize("name", FILES)
def test_it_is_the_plain_file(name, suffix, tmp_path):
    plain = tmp_path / name
    content = FILES[name].encode("latin-1" if name.endswith(".all") else "utf-8")
    plain.write_bytes(content)
    expected = columns(plain)
    packed = pack(plain, content, suffix)
    plain.unlink()
    assert columns(packed) == expected and len(next(iter(expected.values()))) == 2


def test_conll_and_folders(tmp_path):
    words = "Ada B-PER\nwrote O\n\nLondon B-LOC\n"
    for name in ("x.conll", "train.txt"):
        (tmp_path / name).write_text(words)
        expected = read_tagged(str(tmp_path / name), ReadOptions())
        found = read_tagged(str(pack(tmp_path / name, words.encode(), ".gz")), ReadOptions())
        assert (found.texts, found.labels) == (expected.texts, expected.labels)
        assert found.source == expected.source + ".gz"
    folder = tmp_path / "folder"
    folder.mkdir()
    pack(folder / "dev.csv", FILES["x.csv"].encode(), ".zst")
    assert len(read(str(folder), ReadOptions(split="dev"))) == 2


def test_temporary_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    columns(pack(tmp_path / "x.csv", FILES["x.csv"].encode(), ".gz"))
    with pytest.raises(DataError):
        columns(pack(tmp_path / "y.csv", b"text,label\na,b,c\n", ".gz"))
    assert not [*(tmp_path / "temporary").iterdir()]


WRONG = {
    "a row too long": ("x.csv.gz", gzip.compress(b"text,label\na,b\nc,d,e\n"), "x.csv.gz, line 3: row 2 has 3 fields"),
    "no JSON": ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n{"text"\n'), "x.jsonl.gz, line 2: is not valid JSON"),
    "not UTF-8": ("x.csv.gz", gzip.compress(b"text,label\n\xff,b\n"), "x.csv.gz: is not UTF-8"),
    "no bytes": ("x.csv.gz", b"", "x.csv.gz is empty"),
    "nothing in it": ("x.csv.gz", gzip.compress(b""), "x.csv.gz is empty"),
    "cut": ("x.csv.gz", gzip.compress(FILES["x.csv"].encode() * 9)[:-12], "x.csv.gz: is not a whole gz file: "),
    "plain": ("x.csv.gz", b"text,label\na,b\n", "x.csv.gz: is not a whole gz file: Not a gzipped file"),
    "damaged": ("x.csv.zst", b"nonsense", "x.csv.zst: is not a whole zst file: ZSTD"),
    "parquet": ("x.parquet.gz", b"x", "x.parquet.gz: a parquet file is compressed inside"),
    "another suffix": ("x.doc.gz", b"x", "x.doc.gz: cannot read .doc"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, tmp_path):
    name, content, said = WRONG[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        columns(tmp_path / name)
    assert said in caught.value.message and "\n" not in str(caught.value) and "stratatune-" not in str(caught.value)
    with pytest.raises(DataError, match="did you mean"):
        open_source(str(tmp_path / name.replace("x.", "z.")), None, None, AS_USUAL)


def test_a_file_that_grows_is_unpacked_in_pieces(tmp_path, monkeypatch):
    """64 MB of one character in 64 kB: neither memory nor the disk fills."""
    path = tmp_path / "x.txt.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(b"a" * (1 << 20))
    tracemalloc.start()
    compressed._unpack(path, tmp_path / "x.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size < 1 << 17 and (tmp_path / "x.txt").stat().st_size == 64 << 20 and peak < 16 << 20
    room = iter([300 << 20] * 10 + [255 << 20] * 99)
    monkeypatch.setattr(compressed.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(room)))
    with pytest.raises(
        ResourceError, match=r"x\.txt\.gz: unpacked it takes 11.* or more, and .* has no room"
    ) as caught:
        columns(path)
    assert "TMPDIR" in caught.value.hint
