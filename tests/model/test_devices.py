"""No tensor stays behind on the host when a model trains elsewhere; shown without an accelerator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices made in Python",
)
def test_every_kind_of_plan_keeps_to_its_model_s_device():
    said = subprocess.run(
        [sys.executable, str(TESTS / "pretended.py")],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert said.returncode == 0, said.stderr[-2000:]
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["faults"].pop("control").startswith("FakeTensorDeviceMismatchError")
    assert found["cases"] > 120 and found["faults"] == {}
