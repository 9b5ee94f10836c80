"""docs/objectives.md names the objectives that there are, and its own one works as it stands."""

import re

from docs.objectives_table import PAGE, START, page
from stratatune.objectives.registry import OBJECTIVES
from stratatune.training.predict import Predictor

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_up_to_date():
    assert START in TEXT
    assert page(TEXT) == TEXT, "run: PYTHONPATH=tests python tests/docs/objectives_table.py"


def test_the_example_is_learnt(run, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    try:
        exec(compile(code, PAGE.name, "exec"), {"__name__": "example"})
        result = run(objective="length", plan="2: bitfit", label=None, out=str(tmp_path / "run"))
        assert result.objective == "length" and result.best.keys() == {"off_by"}
        assert list(Predictor(tmp_path / "run", device="cpu").predict(["a story"]).columns) == ["words"]
    finally:
        OBJECTIVES.pop("length", None)
