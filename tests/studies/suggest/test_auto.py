"""``--plan auto``: what is chosen, that the choice keeps its share, and that the winner is a run like any other."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import tiny
from runs import *  # noqa: F403  (pytest finds fixtures by their names here)
from runs import rows, write_csv
from stratatune.errors import ConfigError, DataError, ModelError, PlanError
from stratatune.plan import Plan, shape_of
from stratatune.progress import Reporter
from stratatune.shapes.builtin import BUILTIN
from stratatune.studies.suggest import auto, candidates, chosen
from stratatune.studies.suggest.auto import adds_below, choose, train
from stratatune.studies.suggest.candidates import deeper_than, epochs_for, proposals, top_depth
from stratatune.studies.suggest.course import SHARE, Course, Price, overhead, planned
from stratatune.studies.suggest.probing import Probe
from stratatune.training import run as plain
from stratatune.training.config import AUTO, validate
from stratatune.training.trials.race import Mark, ranked

QUIET = Reporter(quiet=True)


def prices(*given):
    return [Price(run, step, trunk, share) for run, step, trunk, share in given]


# --- the course: pure arithmetic -------------------------------------------------------------------------------------


def test_a_race_keeps_its_share_whoever_wins():
    plans = prices((1e6, 90, 40, "a"), (8e5, 60, 40, "a"), (2e6, 180, 30, "b"), (1e6, 90, 40, "a"))
    course = planned(plans, batches=400, spent=1e4)
    assert course.entrants > 1
    for winner in range(course.entrants):
        assert overhead(course, plans, winner, 1e4) <= SHARE * plans[winner].run


def test_what_a_race_costs_is_what_its_trials_do():
    plans = prices((1e6, 100, 50, "a"), (1e6, 60, 50, "a"), (1e6, 10, 20, "b"), (1e6, 8, 20, "b"))
    course = Course(4, steps=10, judged=4)
    assert course.heats == [4, 2]
    first = 10 * (60 + 10 + 8) + 4 * (30 + 5 + 4) + 4 * 50  # all others, and the winner's own scores
    second = 10 * 60 + 4 * 30 + 4 * 50  # the dearest of the others
    trunks = 20 * (4 + 10)  # of what stops behind the first heat, for its steps and for what is scored
    assert overhead(course, plans, 0, 7.0) == 7 + first + second + trunks


@pytest.mark.parametrize(
    ("batches", "spent", "plans"),
    [
        (3, 0, [(1e9, 90, 40, "a"), (1e9, 60, 40, "a")]),  # twenty examples
        (400, 1e6, [(1e6, 90, 40, "a"), (8e5, 60, 40, "a")]),  # the depths alone cost the share
        (400, 0, [(1e4, 90, 40, "a"), (1e4, 60, 40, "a")]),  # a run of a few steps
        (400, 0, [(1e6, 90, 40, "a")]),
    ],
)
def test_where_a_race_would_cost_too_much_there_is_none(batches, spent, plans):
    assert planned(prices(*plans), batches, spent) == Course(1)


def test_a_larger_run_affords_a_longer_race():
    plans = [(90, 40, "a"), (60, 40, "a")]
    steps = [planned(prices(*((run, *one) for one in plans)), 1000, 0).steps for run in (3e4, 5e4, 1e9)]
    assert steps == sorted(steps) and steps[0] < steps[-1] == 64


def test_a_heat_has_steps_of_the_optimiser_and_not_batches():
    """With 8 batches a step, 16 steps and what they are scored on take 132 batches; below that there is no race."""
    plans = prices((1e9, 90, 40, "a"), (1e9, 60, 40, "a"))
    assert planned(plans, 131, 0, accumulate=8) == Course(1) != planned(plans, 131, 0)
    found = planned(plans, 136, 0, accumulate=8)
    assert (found.entrants, found.steps, found.batches, found.judged) == (2, 16, 128, 8)
    once, eight = Course(2, steps=16, judged=8), Course(2, steps=16, judged=8, accumulate=8)
    further = 7 * 16 * 60
    assert overhead(eight, plans, 0, 0) == overhead(once, plans, 0, 0) + further


# --- the candidates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "depth"), [(1, 0), (2, 1), (4, 1), (6, 3), (12, 9), (18, 13), (24, 18), (48, 36)])
def test_the_topmost_quarter_trains_three_blocks_at_least(blocks, depth):
    assert top_depth(blocks) == depth
    assert depth == 0 or 0 <= deeper_than(depth, blocks, few=True) <= deeper_than(depth, blocks) <= depth


@pytest.mark.parametrize("name", sorted(BUILTIN))
@pytest.mark.parametrize("classes", [1, 2, 200])
def test_every_proposal_fits_its_model(name, classes):
    shape = shape_of(name)
    found = proposals(shape, classes, words=shape.family == "encoder")
    fits = []
    for one in found:
        try:
            Plan.parse(one.plan).resolve(shape)
            fits += [] if one.prompted else [one.name]
        except PlanError as error:  # SPAFIT without biases; blocks that share weights
            assert one.name == "SPAFIT" or name == "albert-base-v2", error
        assert 1e-5 <= one.lr <= 2e-3
    assert len({(one.plan, one.lr) for one in found}) == len(found)
    assert fits[0] == ("LoRA of every block" if name == "albert-base-v2" else found[0].name)


def test_what_is_raced_first_depends_on_the_model_and_on_the_probes():
    encoder = [one.plan for one in proposals(shape_of("roberta-base"))]
    assert encoder[:4] == ["9: full", "9: lora(rank=16, alpha=32, on=attn,ffn)", "9: full", "6: full"]
    assert proposals(shape_of("roberta-base"), deeper=True)[0].plan == "6: full"
    assert proposals(shape_of("roberta-base"), few=True)[0].plan == "4: full"
    assert proposals(shape_of("gpt2"))[0].plan == "4:9 lora(rank=16, alpha=32, on=attn,ffn)"
    assert proposals(shape_of("roberta-base"))[0].lr == 1e-4


@pytest.mark.parametrize(("rows", "epochs"), [(20, 10), (1700, 10), (5452, 3), (3000, 6), (1_000_000, 3)])
def test_few_rows_are_passed_over_more_often(rows, epochs):
    assert epochs_for(rows) == epochs


@pytest.mark.parametrize(
    ("rows", "hidden", "simple", "epochs"),
    [
        *((20, 768, True, 10), (320, 768, True, 10), (500, 768, True, 6), (1000, 768, True, 3), (3000, 1024, True, 3)),
        *((1000, 384, True, 5), (1000, 768, False, 5), (3000, 768, False, 3)),
    ],
)
def test_few_rows_of_an_encoder_make_fewer_steps(rows, hidden, simple, epochs):
    assert epochs_for(rows, hidden, few=True, simple=simple) == epochs


HARDER = (-0.05, 0.05, 0.0, -0.1, 0.1)  # some folds are harder than others, for every depth


def curve(*scores, own=0.01):
    """Probes of depths 0 on; ``own``: by how much a depth's fold differs from what is common to all depths."""
    signs = (1, -1, 0, 1, -1)
    found = []
    for depth, score in enumerate(scores):
        folds = tuple(score + hard + own * sign * (-1) ** depth for hard, sign in zip(HARDER, signs, strict=True))
        found.append(Probe(depth, "mean", score, 0.04, 0.5, 0.04, folds=folds))
    return found


def test_more_blocks_train_where_the_way_up_loses_what_is_needed():
    assert adds_below(curve(0.5, 0.6, 0.67, 0.6, 0.55), 3)
    assert not adds_below(curve(0.5, 0.6, 0.67, 0.66, 0.55), 3)
    assert not adds_below(curve(0.5, 0.6, 0.67, 0.7, 0.9), 3)
    assert not adds_below([], 3)


def test_depths_are_compared_fold_by_fold():
    """Their difference is clear although the folds differ more; what differs by chance on each fold is not."""
    assert adds_below(curve(0.5, 0.6, 0.65, 0.6, 0.55), 3)
    assert not adds_below(curve(0.5, 0.6, 0.65, 0.6, 0.55, own=0.05), 3)


# --- the marks -------------------------------------------------------------------------------------------------------


def test_scores_that_so_few_rows_cannot_tell_apart_are_told_by_the_loss():
    close = [Mark(16, 0.90, 0.5, 256), Mark(16, 0.91, 0.6, 256), Mark(16, 0.70, 0.1, 256)]
    assert ranked(close, smaller=False) == [0, 1, 2]
    many = [Mark(16, 0.90, 0.5, 10_000), Mark(16, 0.91, 0.6, 10_000)]
    assert ranked(many, smaller=False) == [1, 0]
    assert ranked([Mark(16, 2.0, 2.0, 99), Mark(16, 1.5, 1.5, 99)], smaller=True) == [1, 0]


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_heats(monkeypatch):
    """Races on tiny data: heats of two steps, whatever they cost."""
    course = Course(3, steps=2, judged=2)
    monkeypatch.setattr(auto, "planned", lambda *given, accumulate: replace(course, accumulate=accumulate))
    return course


@pytest.mark.parametrize("every", [1, 1 / 6], ids=["epoch", "step"])
def test_the_winner_is_a_run_of_its_plan_to_the_bit(settings, tmp_path, short_heats, every):
    """Where each step is evaluated, in the race too."""
    chosen = train(settings(plan=AUTO, precision="fp32", eval_every=every), reporter=QUIET)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["plan"] != AUTO and Plan.parse(written["plan"])
    alone = plain.train(validate({**written, "out": str(tmp_path / "alone")}), reporter=QUIET)
    assert (alone.plan, alone.best, alone.best_epoch) == (chosen.plan, chosen.best, chosen.best_epoch)
    for name in ("metrics.jsonl", "adapter/adapter.safetensors"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    record = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert [len(one["marks"]) for one in record["plans"][:3]].count(2) == 2
    assert sum(one["chosen"] for one in record["plans"]) == 1


def test_the_time_of_the_choice_leaves_out_what_the_run_counts_itself(settings, tmp_path, short_heats, monkeypatch):
    from stratatune.training import head_start

    fit, slept = head_start._fit, 1.0
    monkeypatch.setattr(head_start, "_fit", lambda *given: [time.sleep(slept), fit(*given)])
    started = time.perf_counter()
    result = train(settings(plan=AUTO, head_start="fitted", epochs=1), reporter=QUIET)
    whole = time.perf_counter() - started
    chosen = json.loads((tmp_path / "run" / "auto.json").read_text())["seconds"]
    assert result.seconds["train"] > slept and chosen > slept  # the winner's own start, and that of the others
    assert chosen + sum(result.seconds.values()) <= whole


def test_a_step_of_the_optimiser_is_several_batches(settings, tmp_path, short_heats, monkeypatch):
    from stratatune.training.trials import race

    judge, learnt = race._Runner.judge, []

    def judged(runner, batches):
        learnt.append(runner.turns.ask.position[1])
        judge(runner, batches)

    monkeypatch.setattr(race._Runner, "judge", judged)
    train(settings(plan=AUTO, accumulate=2, batch_size=4, epochs=1), reporter=QUIET)
    assert learnt == [4, 4, 4, 8, 8]
    record = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert {mark["steps"] for one in record["plans"] for mark in one.get("marks", ())} == {2, 4}


def test_a_run_without_trials_that_is_stopped_has_its_record(settings, tmp_path, monkeypatch):
    def stopped(*given, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(plain, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(settings(plan=AUTO, train_samples=20), reporter=QUIET)
    record = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert sum(one["chosen"] for one in record["plans"]) == 1


def test_a_race_under_a_cosine_is_its_run(settings, tmp_path, short_heats):
    chosen = train(settings(plan=AUTO, precision="fp32", schedule="cosine"), reporter=QUIET)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["schedule"] == "cosine"
    alone = plain.train(validate({**written, "out": str(tmp_path / "alone")}), reporter=QUIET)
    assert alone.best == chosen.best
    adapters = [(tmp_path / name / "adapter" / "adapter.safetensors").read_bytes() for name in ("run", "alone")]
    assert adapters[0] == adapters[1]


def test_what_is_given_stays(settings, short_heats):
    config = settings(plan=AUTO)
    assert {"lr", "epochs"} <= config.model_fields_set
    train(config, reporter=QUIET)
    written = yaml.safe_load(Path(config.out, "config.yaml").read_text())
    assert (written["lr"], written["epochs"], written["early_stopping"]) == (0.003, 2, 2)
    assert written["head_start"] == "fitted"


def test_evaluation_and_test_data_take_no_part(settings, files, tmp_path, short_heats):
    """The same is chosen whatever they hold."""
    turned = tmp_path / "turned.csv"
    lines = (files / "dev.csv").read_text().splitlines()
    swapped = [line.replace("positive", "x").replace("negative", "positive").replace("x", "negative") for line in lines]
    turned.write_text("\n".join([lines[0], *swapped[1:]]) + "\n")
    marks = []
    for number, source in enumerate((files / "dev.csv", turned)):
        out = tmp_path / f"{number}"
        config = settings(plan=AUTO, eval=str(source), test=str(source), out=str(out))
        train(config, reporter=QUIET)
        marks.append([(one["plan"], one["marks"]) for one in json.loads((out / "auto.json").read_text())["plans"][:3]])
    assert marks[0] == marks[1]


def test_a_run_that_is_resumed_keeps_what_was_chosen(settings, short_heats):
    config = settings(plan=AUTO)
    first = train(config, reporter=QUIET)
    again = train(config.model_copy(update={"resume": True}), reporter=QUIET)
    assert again == first
    with pytest.raises(ConfigError, match="holds a finished run"):
        train(config, reporter=QUIET)
    with pytest.raises(ConfigError, match="lr: was 0.003, is now 0.5"):
        train(settings(plan=AUTO, resume=True, lr=0.5), reporter=QUIET)


def refusing(monkeypatch, *plans):
    opened = plain.open_session

    def open_session(outline, *given):
        if outline.config.plan in plans:
            raise ModelError(f"no {outline.config.plan} here")
        return opened(outline, *given)

    monkeypatch.setattr(plain, "open_session", open_session)


def test_a_plan_that_cannot_take_part_is_passed_over(settings, tmp_path, short_heats, monkeypatch):
    refusing(monkeypatch, "1: full")
    train(settings(plan=AUTO), reporter=QUIET)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["plan"].startswith("1: lora")
    assert json.loads((tmp_path / "run" / "auto.json").read_text())["plans"][0]["refused"] == "no 1: full here"


@pytest.mark.parametrize("raced", [True, False])
def test_where_the_top_is_packed_a_plan_leaves_something_to_pack(raced, settings, request):
    """The first candidate trains whole blocks, of which no weight is frozen."""
    if raced:
        request.getfixturevalue("short_heats")
    result = train(settings(plan="auto", pack="int8", objective="classification", epochs=1), reporter=QUIET)
    assert "lora" in result.plan
    plans = json.loads((Path(result.out) / "auto.json").read_text())["plans"]
    assert not any("full" in one["plan"] or one["plan"] == "frozen" for one in plans)


def test_where_none_can_take_part_it_is_the_first_ones_error(settings, short_heats, monkeypatch):
    refusing(monkeypatch, *(one.plan for one in proposals(shape_of(settings().model))))
    with pytest.raises(ModelError, match="no 1: full here"):
        train(settings(plan=AUTO), reporter=QUIET)


SMALL = {
    "20 examples": {"train_samples": 20},
    "no evaluation data": {"eval": None},
    "held out": {"eval": None, "eval_split": 0.2},
    "three classes": {"train": "train3.csv", "eval": "dev3.csv"},
    "a prompt": {"objective": "mlm"},
    "numbers": {"label": "score", "objective": "regression"},
    "no cache": {"cache": "off"},
    "tokens": {"batch_size": None, "token_budget": 64},
    "roberta": {"family": "roberta"},
}


@pytest.mark.parametrize("case", SMALL)
def test_a_plan_comes_out_of_small_data(case, settings, files):
    changes = dict(SMALL[case])
    for name in ("train", "eval"):
        if changes.get(name):
            changes[name] = str(files / changes[name])
    config = settings(plan=AUTO, **changes)
    result = train(config, reporter=QUIET)
    written = yaml.safe_load(Path(config.out, "config.yaml").read_text())
    assert Plan.parse(result.plan) == Plan.parse(written["plan"])
    assert bool(written["early_stopping"]) == bool(result.best), "it needs scores to stop by"


@pytest.mark.parametrize("classes", [1, 200])
def test_classes(classes, settings, tmp_path):
    table = rows(240, 0)
    for number, row in enumerate(table):
        row["label"] = f"c{number % classes}"
    data = write_csv(tmp_path / "data.csv", table)
    config = settings(plan=AUTO, train=str(data), eval=str(data), epochs=1)
    if classes == 1:
        with pytest.raises(DataError, match="label"):
            train(config, reporter=QUIET)
    else:
        assert "lora" in train(config, reporter=QUIET).plan or "full" in train_plan(config)


def train_plan(config):
    return yaml.safe_load(Path(config.out, "config.yaml").read_text())["plan"]


def test_targets_that_never_differ_are_refused_in_one_line(settings, tmp_path):
    table = [{**row, "score": 1.0} for row in rows(48, 0)]
    data = write_csv(tmp_path / "data.csv", table)
    config = settings(plan=AUTO, train=str(data), eval=str(data), label="score", objective="regression")
    with pytest.raises(DataError, match="every label is 1"):
        train(config, reporter=QUIET)


def test_what_needs_a_plan_by_name_says_so(settings):
    from stratatune.training.build import build_cache

    with pytest.raises(ConfigError, match="'auto' is chosen by `stratatune train`"):
        build_cache(settings(plan=AUTO, cache="auto"), QUIET)


def test_the_plan_of_many_runs_is_chosen_without_trials(settings):
    choice = choose(settings(plan=AUTO), reporter=QUIET)
    assert choice.config.plan == "1: full" and len(choice.why) == 3
    assert not Path(choice.config.out).exists()


@pytest.mark.parametrize(("read", "depth"), [(True, "a probe of depth 5 scores"), (False, "no depth was read")])
def test_few_rows_train_from_a_third_of_the_way_up(read, depth, settings, tmp_path, monkeypatch):
    """Also where probes of the frozen model see no need for more blocks than the topmost."""
    folder = str(tiny.save_tiny(tmp_path / "eight", "bert", blocks=8))
    config = settings(plan=AUTO, model=folder, train=str(write_csv(tmp_path / "data.csv", rows(240, 0))))
    monkeypatch.setattr(auto, "adds_below", lambda probes, depth: False)
    monkeypatch.setattr(chosen, "adds_below", lambda probes, depth: False)
    monkeypatch.setattr(auto, "_PASS_SHARE", 100 if read else 0)
    found = choose(config, reporter=QUIET)
    assert found.config.plan == "2: full" and depth in found.why[1]
    assert "more blocks train than the topmost because rows are few (240; up to 3,000)" in found.why[1]
    monkeypatch.setattr(candidates, "FEW", 239)
    monkeypatch.setattr(chosen, "FEW", 239)
    found = choose(config, reporter=QUIET)
    assert found.config.plan == "5: full" and depth in found.why[1] and "more blocks" not in found.why[1]


@pytest.mark.parametrize(
    ("objective", "label", "simple"),
    [
        ("classification", lambda at: f"kind {at % 2}", True),
        ("classification", lambda at: f"kind {at % 9}", False),
        ("regression", lambda at: at / 7, True),
        ("multilabel", lambda at: [f"kind {at % 2}", f"kind {at % 3}"], False),
    ],
)
def test_one_of_a_few_classes_or_a_number_is_a_simple_task(objective, label, simple, settings, monkeypatch):
    seen = []
    monkeypatch.setattr(auto, "epochs_for", lambda rows, hidden, **how: seen.append(how) or 2)
    table = {"text": [f"a film {at}" for at in range(72)], "label": [label(at) for at in range(72)]}
    config = settings(plan=AUTO, train="in-memory", eval=None, objective=objective)
    assert choose(config, tables={"train": table}, reporter=QUIET).config.epochs == 2
    assert all(how == {"few": True, "simple": simple} for how in seen) and seen


def test_the_winner_is_tracked(settings, tmp_path, short_heats):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracker's own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        train(settings(plan=AUTO, loggers=("tensorboard",), epochs=1, eval_every=1 / 6), reporter=QUIET)
        found = {}
        for path in {file.parent for file in (tmp_path / "run").rglob("events.out.tfevents.*")}:
            events = EventAccumulator(str(path))
            events.Reload()
            for tag in events.Tags()["scalars"]:
                found[tag] = [(one.step, pytest.approx(one.value)) for one in events.Scalars(tag)]
    # Four of the six evaluations are made while it races.
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(history) == 6 and found["eval_accuracy"] == [(one["step"], one["eval_accuracy"]) for one in history]
    plans = json.loads((tmp_path / "run" / "auto.json").read_text())["plans"][:3]
    for number, one in enumerate(plans, start=1):
        for name, key in (("accuracy", "score"), ("loss", "loss")):
            assert found[f"race_{number}_{name}"] == [(mark["steps"], mark[key]) for mark in one["marks"]]
    parameters = next((tmp_path / "run").rglob("hparams.yml")).read_text()
    assert [one["plan"] in parameters for one in plans] == [True] * 3
