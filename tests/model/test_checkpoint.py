"""A checkpoint read by rows: the same values as by whole tensors, and no bytes but theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stratatune.errors import ModelError
from stratatune.model.checkpoint import Checkpoint

SHAPES = {"table": (1001, 8), "matrix": (6, 4), "vector": (33,), "cube": (7, 2, 3)}


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn])
def folder(request, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator).to(request.param) for name, shape in SHAPES.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def bytes_read():
    """Bytes that this process has asked the kernel for."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.parametrize("values", [1, 64, 100, 8008, 1 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_pieces_are_the_tensor(folder, name, values):
    whole, checkpoint = load_file(folder / "model.safetensors")[name], Checkpoint.of(str(folder))
    pieces = list(checkpoint.pieces(name, values))
    assert all(one.dtype == whole.dtype and one.dim() == 1 for one in pieces)
    assert torch.equal(torch.cat([raw(one) for one in pieces]), raw(whole))
    assert torch.equal(raw(checkpoint.read(name)), raw(whole))


@pytest.mark.parametrize("rows", [[], [0], [1000], [0, 1, 3, 500, 502, 1000]])
def test_rows_are_those_of_the_table(folder, rows):
    whole, checkpoint = load_file(folder / "model.safetensors")["table"], Checkpoint.of(str(folder))
    found = checkpoint.read_rows("table", torch.tensor(rows, dtype=torch.long))
    assert found.dtype == whole.dtype
    assert found.shape == (len(rows), 8)
    assert torch.equal(raw(found), torch.cat([raw(whole[row]) for row in rows]) if rows else raw(found))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes by Linux' /proc/self/io")
def test_of_a_table_no_other_rows_are_read(tmp_path):
    save_file({"table": torch.zeros(4096, 256)}, tmp_path / "model.safetensors")
    checkpoint, before = Checkpoint.of(str(tmp_path)), bytes_read()
    checkpoint.read_rows("table", torch.tensor([5, 4000]))
    assert bytes_read() - before < 64 << 10, "two rows are 2 kB of 4 MB"
    before = bytes_read()
    for _ in checkpoint.pieces("table", 1 << 16):
        pass
    assert bytes_read() - before < (4 << 20) + (64 << 10), "every row once"


def test_a_file_that_became_shorter_is_one_line(tmp_path):
    save_file({"table": torch.zeros(4096, 256)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.of(str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(ModelError, match="table cannot be read: the file ends too early"):
        checkpoint.read_rows("table", torch.tensor([4095]))
    file.unlink()
    with pytest.raises(ModelError, match="table cannot be read"):
        checkpoint.read_rows("table", torch.tensor([0]))
