"""Time common baselines and chosen plans in turn, on a user's own machine and data, next to predictions."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stratatune._compat import installed
from stratatune.costs.cost import ARMS, Cost, cost
from stratatune.errors import ConfigError, ModelError
from stratatune.objectives.asked import Asked
from stratatune.objectives.registry import AUTO, choose, written
from stratatune.plan import Plan, Resolved, shape_of
from stratatune.shapes.shape import Shape, top_depth
from stratatune.shapes.table import architecture_of
from stratatune.studies.bench.arms import BenchSetting, Floor, Ours, Stock
from stratatune.studies.bench.block_times import Machine

EPOCHS = 10
FLOOR = "floor"
"""The frozen model run once, and ridge regression on the mean of its last hidden states."""


@dataclass(frozen=True)
class ArmTimes:
    """One way to train, measured.

    Attributes:
        name: A, B, C, F, floor or a plan.
        what: a description.
        seconds: an epoch of all the data, by the mean step of the batches that were run; the best round.
        predicted: the same, predicted from the machine's speed on three blocks.
        first, predicted_first: a plan's first epoch, which runs the trunk too; of A, B, C and F as every epoch.
        flops: the work of an epoch, by the cost model.
        saved_bytes: kept for backward in a step, measured on fake tensors (``model/kept.py``).
        cache_bytes: the bytes of the trunk cache.
    """

    name: str
    what: str
    seconds: float
    predicted: float
    first: float
    predicted_first: float
    flops: float
    saved_bytes: float
    cache_bytes: int = 0

    def epochs(self, number: int, *, predicted: bool = False) -> float:
        """Seconds of the first epoch and those after it; the floor always has one pass."""
        if self.name == FLOOR:
            return self.predicted_first if predicted else self.first
        first, other = (self.predicted_first, self.predicted) if predicted else (self.first, self.seconds)
        return first + (number - 1) * other


@dataclass(frozen=True)
class BenchReport:
    """The result of a bench."""

    model: str
    examples: int
    tokens: float
    """Mean tokens of an example."""
    padding: dict[str, float]
    """The ratio of computed tokens to tokens of text: random batches, and batches cut by length."""
    settings: dict[str, Any]
    ways: tuple[ArmTimes, ...]

    def way(self, name: str) -> ArmTimes:
        """The arm of this name."""
        return next(way for way in self.ways if way.name == name)

    def ratio(self, name: str, arm: str, epochs: int = 0, *, predicted: bool = False) -> float:
        """The time of ``arm`` over that of the plan ``name``: for an epoch from the cache, or ``epochs`` epochs."""
        one, other = self.way(name), self.way(arm)
        if epochs:
            return other.epochs(epochs, predicted=predicted) / one.epochs(epochs, predicted=predicted)
        return other.predicted / one.predicted if predicted else other.seconds / one.seconds

    def to_data(self) -> dict[str, Any]:
        """The report as data for ``--json``."""
        data = asdict(self)
        for way in data["ways"]:
            way["epoch_vs"] = {arm: self.ratio(way["name"], arm) for arm in ARMS}
            way["ten_epochs_vs"] = {arm: self.ratio(way["name"], arm, EPOCHS) for arm in ARMS}
        return data


def bench(
    setting: BenchSetting, plans: Sequence[str], *, rounds: int = 3, say: Callable[[str], object] = lambda line: None
) -> BenchReport:
    """Measure A, B, C, F, the floor and the plans.

    Args:
        setting: the model, the data, the precision, and how many batches of an epoch are run.
        plans: names or texts of plans.
        rounds: how often each way has its turn; the best counts.
        say: gets a line about each measurement.

    Raises:
        ResourceError: peft is not installed.
        ModelError: the model is an encoder-decoder, or the objective does not work on it.
        ConfigError: no plan, a plan twice, or an objective that is not known or has no made-up data.
        PlanError: a plan does not fit the model.
    """
    resolved = _checked(setting, plans)
    setting = replace(setting, objective=objective_of(setting.config, plans, setting.objective))
    machine = Machine(setting)
    say("timing three blocks on this machine")
    _predict(machine, resolved)
    with tempfile.TemporaryDirectory() as folder:
        measured = _measure(machine, resolved, rounds, Path(folder), say)
    costs = {name: _cost(plan, setting) for name, plan in resolved.items()}
    predicted = _predict(machine, resolved)
    ways = [_stock_arm(arm, setting, measured, predicted, next(iter(costs.values()))) for arm in ARMS]
    ways += [_floor_arm(setting, measured, predicted, next(iter(costs.values())))]
    ways += [_plan_arm(name, plan, setting, measured, predicted, costs[name]) for name, plan in resolved.items()]
    one = next(iter(costs.values())).epochs
    return BenchReport(
        model=machine.shape.name,
        examples=setting.examples.examples,
        tokens=float(setting.examples.lengths.mean()),
        padding={"random": one["A"].padding, "cut by length": one["B"].padding},
        settings=_settings(setting, rounds),
        ways=tuple(ways),
    )


def _checked(setting: BenchSetting, plans: Sequence[str]) -> dict[str, Resolved]:
    row = architecture_of(setting.config["model_type"], setting.config)
    if len(row.stacks) > 1:
        raise ModelError(
            f"{row.name} is an encoder-decoder, which bench cannot measure",
            "use an encoder such as BERT, or a decoder such as GPT-2 or Llama",
        )
    if not plans or len(set(plans)) < len(plans):
        raise ConfigError([f"plans: {', '.join(plans) or 'none'}"], "give one or more plans, each once")
    shape = shape_of(setting.config)
    if shape.cuts is not None:
        raise ModelError(
            f"bench times three blocks alone, and those of a {row.name} do not run without certain others",
            "`stratatune plan` predicts what its plans cost",
        )
    return {name: Plan.parse(name).resolve(shape) for name in plans}


def objective_of(config: Mapping[str, Any], plans: Sequence[str], wanted: str | None = None) -> str | None:
    """The name of the objective of all arms: ``wanted``, else, for a decoder, that of the first plan.

    None, for an encoder: each plan learns its paper's objective.

    Raises:
        ConfigError: no objective is called ``wanted``.
        ModelError: it does not work on models of this family.
    """
    plan, shape = Plan.parse(plans[0]), shape_of(dict(config))
    name, options = written(wanted or AUTO)
    if name == AUTO:
        if shape.family != "decoder":
            return None
        words = plan.objective == "mlm" and not shape.sees_ahead and not shape.carries_state
        return "causal" if words else "classification"
    return choose(Asked.on(shape, plan, objective=name, options=options)).name


def _cost(plan: Resolved, setting: BenchSetting) -> Cost:
    kind = setting.objective or plan.plan.objective
    data = setting.examples
    return cost(
        plan,
        None,
        data.lengths,
        objective=kind,
        batch_size=setting.batch_size,
        dtype=_dtype(setting),
        labels=setting.learnt(kind)[0].outputs,
        groups=data.groups,
        places=setting.places(kind),
        device=setting.device,
    )


def _predict(machine: Machine, plans: dict[str, Resolved]) -> dict[str, float]:
    """Predicted seconds of the timed batches by arm, with the names of :func:`_measure`."""
    setting = machine.setting
    found = {"A": machine.stock("lora", setting.random), "B": machine.stock("lora", setting.bucketed)}
    found["F"] = machine.stock("full", setting.random)
    found["C"] = machine.topmost(_topmost(machine.shape), setting.bucketed)
    found[FLOOR] = machine.topmost(machine.shape.blocks, setting.bucketed)
    for name, plan in plans.items():
        found[name] = machine.plan(plan, setting.bucketed, trunk=False)
        found[f"{name}, first"] = machine.plan(plan, setting.bucketed, trunk=True)
    return found


def _topmost(shape: Shape) -> int:
    """The first block that arm C trains; where blocks share weights, it trains all of them."""
    return 0 if shape.distinct else top_depth(shape.blocks)


def _measure(
    machine: Machine, plans: dict[str, Resolved], rounds: int, folder: Path, say: Callable[[str], object]
) -> dict[str, float]:
    """Measured seconds of the timed batches by arm; ``NAME, first``: with an empty cache. A and B share one model."""
    setting = machine.setting
    lora = Stock(setting, lora=True, bucketed=False)
    topmost = Stock(setting, lora=False, bucketed=True, depth=_topmost(machine.shape))
    stock = {"A": lora, "B": lora.cut_by_length(), "C": topmost, "F": Stock(setting, lora=False, bucketed=False)}
    floor = Floor(setting)
    ours = {name: Ours(setting, str(plan.plan), folder) for name, plan in plans.items()}
    best: dict[str, float] = {}
    warming = "warming up, "

    def time(name: str, epoch: Callable[[], float]) -> None:
        seconds = epoch()
        say(f"{warming}{name}: {seconds:.3f} s")
        best[name] = min(best.get(name, seconds), seconds)

    for number in range(rounds + 1):
        if number == 1:
            best.clear()
            warming = ""
        for name, arm in ours.items():
            arm.feed = arm.fresh_feed()
            time(f"{name}, first", arm.epoch)
            time(name, arm.epoch)
        for name, arm in {**stock, FLOOR: floor}.items():
            time(name, arm.epoch)
        machine.again()
    return best


Seconds = dict[str, float]


def _stock_arm(arm: str, setting: BenchSetting, measured: Seconds, predicted: Seconds, costs: Cost) -> ArmTimes:
    scale, epoch = _scale(setting), costs.epochs[arm]
    seconds, thought = scale * measured[arm], scale * predicted[arm]
    return ArmTimes(arm, ARMS[arm], seconds, thought, seconds, thought, epoch.flops, epoch.saved_bytes)


def _floor_arm(setting: BenchSetting, measured: Seconds, predicted: Seconds, costs: Cost) -> ArmTimes:
    """The time of an arm that takes one pass, however many epochs the others make; a second epoch takes nothing."""
    scale, flops = _scale(setting), costs.epochs["trunk"].flops
    once, thought = scale * measured[FLOOR], scale * predicted[FLOOR]
    return ArmTimes(FLOOR, "the frozen model once, ridge on its mean states", once, thought, once, thought, flops, 0.0)


def _plan_arm(
    name: str, plan: Resolved, setting: BenchSetting, measured: Seconds, predicted: Seconds, costs: Cost
) -> ArmTimes:
    depth, blocks = plan.frozen_depth, plan.shape.blocks
    what = f"from the trunk cache at depth {depth} of {blocks}" if depth else "trains from block 0, so nothing to cache"
    scale, cached = _scale(setting), costs.epochs["cached"]
    first = f"{name}, first"
    return ArmTimes(
        name,
        what,
        seconds=scale * measured[name],
        predicted=scale * predicted[name],
        first=scale * measured[first],
        predicted_first=scale * predicted[first],
        flops=cached.flops,
        saved_bytes=cached.saved_bytes,
        cache_bytes=costs.cache_bytes,
    )


def _scale(setting: BenchSetting) -> float:
    """The factor from the timed batches to an epoch."""
    return -(-setting.examples.examples // setting.batch_size) / len(setting.bucketed)


def _dtype(setting: BenchSetting) -> str:
    return "bf16" if setting.bf16 else "fp32"


def _settings(setting: BenchSetting, rounds: int) -> dict[str, Any]:
    return {
        "batch_size": setting.batch_size,
        "precision": _dtype(setting),
        **({"objective": setting.objective} if setting.objective else {}),
        "timed_batches": len(setting.bucketed),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if setting.device == "cuda"
        else platform.processor() or platform.machine(),
        **{library: installed(library) for library in ("stratatune", "torch", "transformers", "peft")},
    }
