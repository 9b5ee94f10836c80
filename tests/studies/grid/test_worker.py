"""A worker pays for its imports once: a run in it finds every library there."""

import json
import subprocess
import sys

import gridding
from stratatune.studies.grid.expand import expand
from stratatune.studies.grid.recipe import load_recipe

IMPORTED = """
import json, sys
from stratatune.studies.grid.worker import preload, work
preload()
there = set(sys.modules)
outcome = work(json.loads(sys.stdin.read()))
print(json.dumps([outcome["status"], sorted(set(sys.modules) - there)]))
"""


def test_a_run_imports_its_model_s_code_alone(tmp_path):
    recipe = load_recipe(gridding.write_recipe(tmp_path))
    config = expand(recipe, tmp_path)[0].config.model_dump(mode="json")
    job = {"kind": "run", "name": "one", "config": {**config, "out": str(tmp_path / "run"), "cache": "off"}}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    status, new = json.loads(done.stdout.splitlines()[-1])
    assert status == "done", done.stderr
    heavy = {"sklearn", "pandas", "datasets", "accelerate"}
    assert sorted(name for name in new if name.partition(".")[0] in heavy) == []
    assert len([name for name in new if name.startswith("transformers.")]) < 20
