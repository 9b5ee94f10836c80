"""What is worked out of a model and a plan is worked out once, and handed on: counted in whole runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stratatune.model.backbone import Backbone
from stratatune.plan.resolved import Resolved
from stratatune.progress import Reporter
from stratatune.shapes import sizes
from stratatune.training.build import build_cache
from stratatune.training.predict import Predictor


@pytest.fixture
def made(monkeypatch):
    """How often each was made since it was last cleared."""
    found = Counter()

    def counted(owner, name, key):
        own = getattr(owner, name)

        def count(*args, **kwargs):
            found[key] += 1
            return own(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)

    counted(Backbone, "__init__", "backbone")
    counted(Resolved, "__init__", "resolved")
    counted(sizes, "_from_config", "shape")
    return found


ONCE = {"backbone": 1, "resolved": 1, "shape": 1}


@pytest.mark.parametrize("more", [{}, {"plan": "lora", "objective": "classification"}, {"plan": "cut(3) | 2: full"}])
def test_a_run_makes_each_once(run, made, more):
    run(**more)
    assert made == ONCE


def test_so_does_building_a_cache(settings, made):
    build_cache(settings(cache="auto"), Reporter(quiet=True))
    assert made == ONCE


@pytest.mark.parametrize("trunk", ["resident", "auto", "streamed"])
def test_a_saved_adapter_is_put_into_one_backbone(run, files, made, trunk):
    """Where a trunk may be streamed, that is decided from the config alone, before the base is loaded.

    So shape and resolved plan are then made a second time; a streamed base is resolved as it is loaded, too.
    """
    out = Path(run().out)
    made.clear()
    predictor = Predictor(out, trunk=trunk)
    again = {"resident": 0, "auto": 1, "streamed": 2}[trunk]
    assert made == {"backbone": 1, "resolved": 1 + again, "shape": 1 + again}
    made.clear()
    predictor.predict(str(files / "dev.csv"))
    predictor.score(str(files / "dev.csv"))
    assert not made
