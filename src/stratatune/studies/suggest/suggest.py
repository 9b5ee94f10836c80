"""``stratatune suggest``: propose a plan for this model and these data, by probes of every depth and the cost model.

One pass over a sample reads every depth, probes say where the task's information is
(``studies/suggest/probing.py``), the rule of ``studies/suggest/choosing.py`` names a depth,
``studies/suggest/pricing.py`` gives the cost of each candidate on this
machine, and budgets leave some of them out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.costs.time import fitted
from stratatune.errors import ConfigError, ModelError, PlanError
from stratatune.hashing import digest_of_json
from stratatune.shapes.shape import LM_HEADS
from stratatune.studies.suggest.candidates import rate_of, rows_are_few, scaled
from stratatune.studies.suggest.choosing import FEWEST_BLOCKS, WHOLE, beside, find, texts
from stratatune.studies.suggest.pricing import Candidate, Paces, RunSize, nearest_kept, price, within
from stratatune.studies.suggest.probing import paired, probe, read_depths
from stratatune.studies.suggest.reasons import reasons
from stratatune.studies.suggest.refine import check_search, digest_of, refine
from stratatune.studies.suggest.suggestion import FAMILIES, Asked, Suggestion
from stratatune.studies.suggest.view import View

if TYPE_CHECKING:
    from stratatune.plan import Shape
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.top_speed import LoadedSample
    from stratatune.training.config import RunConfig
    from stratatune.training.prepare import Outline, Tables

_READ_AS = {"bft": "bft-adapter", "spafit": "lora", "full": "-1: full", "lora": "lora"}
"""A plan of each family, by which the objective is settled as in a run."""
_PASS_BATCH = 32


def suggest(
    config: RunConfig,
    asked: Asked,
    *,
    tables: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> Suggestion:
    """Propose a plan for a run.

    Args:
        config: the settings of the run; its plan is ignored, since a plan is proposed.
        asked: family, size of the sample and budgets.
        tables: data in memory that takes the place of a path, by ``train``.
        folder: where the search of ``refine`` is kept, so that it can go on.
        reporter: prints progress; on standard error by default.

    Raises:
        ConfigError: a setting that makes no sense, or budgets that no candidate keeps.
        DataError: data that cannot be read, without labels, or too few.
        ModelError: an encoder-decoder.
        ResourceError: ``refine`` without Optuna.
    """
    from stratatune.progress import Reporter
    from stratatune.training.prepare import Outline, Tables, drawn, fewest_rows, read_tables

    asked.check()
    if asked.refine:
        check_search()
    reporter = reporter or Reporter()
    outlines = {
        family: Outline(config.model_copy(update={"plan": _READ_AS[family]})) for family in FAMILIES[asked.family]
    }
    first = next(iter(outlines.values()))
    outlines = _of_enough_blocks(_of_own_blocks(outlines, first.shape), first.shape.blocks)
    for outline in outlines.values():
        _refuse_what_cannot_be_probed(outline)
    read = read_tables(config, tables or {}, first.kind)
    rows = replace(read.train, corpus=None)  # probes search nothing
    classes = fewest_rows(rows, config, first.kind)
    least = classes + 1  # a column of which each value differs would not be taken for one of classes
    if asked.refine and asked.samples < least:
        raise ConfigError(
            [f"samples: {asked.samples}; a trial trains on so many rows at most, and there are {classes} classes"],
            f"--samples {least} or more",
        )
    few = Tables(rows.select(drawn(rows, asked.samples, config.seed, first.kind, first.asked.options)), (), None)
    views = [_view(family, one, asked, few, len(rows), reporter) for family, one in outlines.items()]
    views = _ranked(views)
    best = views[0]
    if best.chosen is None:
        raise nothing_left(views, asked)
    settings = config.model_copy(update={"plan": best.chosen.plan, **_rate(best, config, first.kind.rates)})
    found = Suggestion(
        model=config.model,
        plan=best.chosen.plan,
        family=best.family,
        depth=best.chosen.depth,
        why=tuple(reasons(views)),
        blocks=first.shape.blocks,
        samples=len(few.train),
        rows=len(rows),
        views=tuple(views),
        config=settings,
    )
    if not asked.refine:
        return found
    data = digest_of((read.train, *read.eval, *read.corpora))
    return refine(found, asked, least=least, data=data, folder=folder, tables=tables or {}, reporter=reporter)


def _rate(view: View, config: RunConfig, factor: float) -> dict[str, float]:
    """The rate for whole blocks, ``factor`` times the usual one, unless one is given; others use the papers'."""
    if view.family not in WHOLE or "lr" in config.model_fields_set:
        return {}
    return {"lr": scaled(rate_of(view.family, view.hidden), factor)}


def _of_own_blocks(outlines: dict[str, Outline], shape: Shape) -> dict[str, Outline]:
    """The families whose plans a model can have: where blocks share weights, none that trains some of the blocks."""
    found = {family: one for family, one in outlines.items() if not shape.distinct or family == "bft"}
    if not found:
        (family,) = outlines
        raise ModelError(
            f"family: {family!r} trains the blocks above a depth, and in this {shape.model_type} blocks share weights",
            "take --family bft",
        )
    return found


def _of_enough_blocks(outlines: dict[str, Outline], blocks: int) -> dict[str, Outline]:
    """The families whose plans a model of so many blocks can have."""
    found = {family: one for family, one in outlines.items() if blocks >= FEWEST_BLOCKS.get(family, 1)}
    if not found:
        (family,) = outlines
        raise ModelError(
            f"family: {family!r} needs {FEWEST_BLOCKS[family]} blocks or more; this model has {blocks}",
            "take --family full, lora or bft",
        )
    return found


def _refuse_what_cannot_be_probed(outline: Outline) -> None:
    if not outline.kind.place or len(outline.shape.stacks) > 1:
        raise ModelError(
            "suggest probes encoders and decoders for classes or numbers; this is an encoder-decoder, or free text",
            "choose its plan by hand (`stratatune list presets`)",
        )


def _view(family: str, outline: Outline, asked: Asked, tables: Tables, rows: int, reporter: Reporter) -> View:
    """Read, probe, find, calibrate and price for one family."""
    from stratatune.data.batching import pad_id
    from stratatune.model.backbone import Backbone
    from stratatune.model.fingerprint import Fingerprint
    from stratatune.model.tokenizers import reading_of
    from stratatune.studies.suggest.top_speed import pass_flops, top_pace

    setting, config = _setting(outline, tables, reporter), outline.config
    backbone, objective, encoded = Backbone(setting.base.model), setting.prepared.objective, setting.prepared.train
    shape, classes = backbone.shape, objective.outputs
    base = digest_of_json([Fingerprint.of(backbone).digest, reading_of(setting.base.tokenizer)], size=8)
    stored = list(backbone.model.parameters())  # before a plan is attached, of which what trains is fp32
    weight_bytes = sum(one.nbytes for one in stored) / sum(one.numel() for one in stored)
    sample = objective.for_probes(encoded, config.seed)
    read = read_depths(
        backbone,
        sample,
        pad_id(setting.base.tokenizer),
        batch_size=_PASS_BATCH,
        device=setting.device,
        autocast=setting.autocast,
        reporter=reporter,
    )
    started = time.perf_counter()
    assert sample.labels is not None
    probes = tuple(probe(paired(read, sample), sample.labels, seed=config.seed, reporter=reporter))
    found = find(probes, family, few=rows_are_few(shape, rows))
    probed = time.perf_counter()
    plans = texts(family, found, shape.hidden, shape.blocks, classes, experts=bool(shape.routed))
    flops = pass_flops(shape, encoded, _PASS_BATCH)
    paces = Paces(fitted([flops], [read.seconds]), top_pace(setting, plans[found.depth]))
    work = RunSize(
        lengths=encoded.example_lengths,
        rows=rows,
        epochs=config.epochs,
        batch_size=config.batch_size or max(1, int((config.token_budget or 0) / encoded.lengths.mean())),
        objective=objective.name,
        head=objective.head,
        dtype="fp32" if setting.autocast is None else "bf16",
        classes=classes,
        device=setting.device.type,
        positions=objective.positions,
        weight_bytes=weight_bytes,
    )
    priced = [price(text, depth, shape, work, paces) for depth, text in plans.items()]
    priced = [within(one, asked.budget_seconds, asked.budget_memory) for one in priced]
    others: list[Candidate] = []
    for text in beside(shape.blocks, lm_head=objective.head in LM_HEADS):
        with contextlib.suppress(PlanError):  # a model may not be cut, or share the weights of its blocks
            others.append(price(text, None, shape, work, paces))
    seconds = {"pass": read.seconds, "probes": probed - started, "calibration": time.perf_counter() - probed}
    return View(
        family=family,
        experts=bool(shape.routed),
        objective=objective.name,
        position=objective.position,
        probed=objective.probed,
        metric=objective.metric,
        value=sample.labels.dtype.kind == "f",
        classes=classes,
        hidden=shape.hidden,
        probes=probes,
        found=found,
        candidates=tuple(priced),
        chosen=nearest_kept(priced, found.depth),
        spent={**seconds, "flops": flops},
        feature_bytes=read.features.nbytes,
        base=base,
        beside=tuple(within(one, asked.budget_seconds, asked.budget_memory) for one in others),
    )


def _setting(outline: Outline, tables: Tables, reporter: Reporter) -> LoadedSample:
    """Load the model and encode the sample, as a run of this family would."""
    import torch

    from stratatune._compat import accelerator_for
    from stratatune.model.base import load_base
    from stratatune.studies.suggest.top_speed import LoadedSample
    from stratatune.training.machine import in_bf16
    from stratatune.training.prepare import settle

    config = outline.config
    device = accelerator_for(config.device, (), config.out).device  # pyright: ignore[reportArgumentType]
    prepared = settle(outline, tables)
    base = load_base(**prepared.base)
    for notice in (*base.about_new(), *base.notices, *prepared.notices):
        reporter.notice(notice)
    base.model.to(device)  # pyright: ignore[reportArgumentType]
    autocast = torch.bfloat16 if in_bf16(config.precision, device) else None
    return LoadedSample(base, prepared, device, autocast)


def _ranked(views: list[View]) -> list[View]:
    """Order the families: those with a plan left, the better by more than a standard error, the cheaper."""
    if len(views) < 2:
        return views
    first, second = views
    gap = second.found.best.score - first.found.best.score
    if first.chosen is None or second.chosen is None:
        return [second, first] if first.chosen is None else views
    if abs(gap) > max(first.found.best.error, second.found.best.error):
        return [second, first] if gap > 0 else views
    return sorted(views, key=lambda view: view.chosen.flops if view.chosen else 0.0)


def nothing_left(views: Sequence[View], asked: Asked) -> ConfigError:
    """The error where no plan keeps to the budgets: it names the one of each family that comes nearest to them."""

    def beyond(one: Candidate) -> float:
        """How many times the candidate takes what is allowed."""
        taken = ((one.seconds, asked.budget_seconds), (one.memory_bytes, asked.budget_memory))
        return max(value / budget for value, budget in taken if budget is not None)

    lines = []
    for view in views:
        least = min((one for one in view.candidates if one.over), key=beyond)
        lines.append(f"budget: {view.family}: even {least.plan} takes {least.over}")
    return ConfigError(lines, "give more time or memory, fewer --epochs, or a smaller --batch-size")
