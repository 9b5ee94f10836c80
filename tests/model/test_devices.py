"""No tensor stays behind on the host when a model trains elsewhere; shown without an accelerator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.utils import backend_registration

import forked

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices made in Python",
)
def test_every_kind_of_plan_keeps_to_its_model_s_device(tmp_path):
    process = forked.start([str(TESTS / "pretended.py")], tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    found = json.loads(out.splitlines()[-1])
    # torch 2.11 has no error of its own for this.
    said = found["faults"].pop("control")
    assert said.startswith("FakeTensorDeviceMismatchError") or "two different devices" in said
    assert found["cases"] > 120 and found["faults"] == {}
