"""Two processes that train over ``st.cached`` come to what one comes to with the same batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import forked

SCRIPT = Path(__file__).with_name("cached_together.py")
HANGS = 1800  # seconds after which a process is given up, however slow the machine


def went(out, model, batch, *more, processes=1, rows=24):
    """What each of the processes said, and the tensors that it has in the end."""
    out.mkdir()
    line = [str(SCRIPT), str(model), str(out), str(rows), str(batch), *more]
    ranks = forked.together(line, out, processes)
    for one in ranks:
        _, err = one.communicate(timeout=HANGS)
        assert one.returncode == 0, err[-3000:]
    said = [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]
    ways = ("trainer", "accelerate")
    return said, [{way: load_file(out / f"{way}-{rank}.safetensors") for way in ways} for rank in range(processes)]


@pytest.fixture
def model(tiny_folder):
    return tiny_folder("bert", "mlm", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def test_two_processes_give_the_numbers_of_one(model, tmp_path):
    """Trainer shuffles, Accelerate goes in order; a batch of four is two batches of two beside each other."""
    (alone,), (wanted,) = went(tmp_path / "alone", model, 4, "plain")
    said, found = went(tmp_path / "together", model, 2, processes=2)
    for way, tensors in wanted.items():
        assert alone[way]["trained"] > 0  # without a cache the first block runs in each step
        assert alone[way]["losses"][0] != alone[way]["losses"][-1]
        for rank in (0, 1):
            assert said[rank][way]["trained"] == 0
            assert said[rank][way]["losses"] == pytest.approx(alone[way]["losses"], abs=1e-4)
            assert found[rank][way].keys() == tensors.keys()
            for name, tensor in tensors.items():
                torch.testing.assert_close(found[rank][way][name], tensor, atol=1e-5, rtol=1e-4)
    # In a folder one process runs the trunk and the other reads what it wrote; in memory each has its own.
    assert sorted(one["accelerate"]["filled"] for one in said) == [0, 1]
    assert [one["trainer"]["filled"] for one in said] == [1, 1]
