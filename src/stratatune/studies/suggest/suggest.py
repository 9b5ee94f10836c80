"""``stratatune suggest``: which plan for this model and these data, by probes of every depth and the cost model.

One pass over a sample reads every depth, probes say where the task's information is
(``studies/suggest/probing.py``), the rule of ``studies/suggest/choosing.py`` names a depth,
``studies/suggest/pricing.py`` says what each candidate takes on this
machine, and budgets leave some of them out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratatune.errors import ConfigError, ModelError
from stratatune.plan import Plan, shape_of
from stratatune.shapes.shape import LM_OBJECTIVES
from stratatune.studies.suggest.choosing import find, texts
from stratatune.studies.suggest.pricing import Rates, Work, nearest_kept, price, within
from stratatune.studies.suggest.probing import probe, read_depths
from stratatune.studies.suggest.reasons import reasons
from stratatune.studies.suggest.refine import check_search, refine
from stratatune.studies.suggest.suggestion import FAMILIES, Asked, Suggestion, View

if TYPE_CHECKING:
    from stratatune.data.readers import Table
    from stratatune.progress import Reporter
    from stratatune.studies.suggest.calibrate import Setting
    from stratatune.training.config import RunConfig

_READ_AS = {"bft": "bft-adapter", "spafit": "lora"}
"""A plan of each family, by which the objective is settled as a run would settle it."""
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
        config: the settings of the run; its plan is what is asked for, so what stands there counts for nothing.
        asked: family, size of the sample and budgets.
        tables: data in memory that takes the place of a path, by ``train``.
        folder: where the search of ``refine`` is kept, so that it can go on.
        reporter: says what happens; on standard error by default.

    Raises:
        ConfigError: a setting that makes no sense, or budgets that no candidate keeps.
        DataError: data that cannot be read, without labels, or too few.
        ModelError: an encoder-decoder.
        ResourceError: ``refine`` without Optuna.
    """
    from stratatune.data.encode import sample
    from stratatune.progress import Reporter
    from stratatune.training.prepare import read_tables

    asked.check()
    if asked.refine:
        check_search()
    shape, reporter = shape_of(config.model, config.revision), reporter or Reporter()
    _refuse_free_text(config, shape.decoder is not None)
    rows = read_tables(config, tables or {}).train
    drawn = rows.select(sample(rows.labels or [0] * len(rows), asked.samples, config.seed))
    views = [_view(family, config, asked, drawn, len(rows), reporter) for family in FAMILIES[asked.family]]
    views = _ranked(views)
    best = views[0]
    if best.chosen is None:
        raise _nothing_left(views)
    settings = config.model_copy(update={"plan": best.chosen.plan})
    found = Suggestion(
        model=config.model,
        plan=best.chosen.plan,
        family=best.family,
        depth=best.chosen.depth,
        why=tuple(reasons(views)),
        blocks=shape.blocks,
        samples=len(drawn),
        rows=len(rows),
        views=tuple(views),
        config=settings,
    )
    if not asked.refine:
        return found
    return refine(found, trials=asked.trials, folder=folder, tables=tables or {}, reporter=reporter)


def _refuse_free_text(config: RunConfig, two_stacks: bool) -> None:
    if two_stacks or config.objective in ("completion", "seq2seq"):
        raise ModelError(
            "suggest probes encoders and decoders for classes or numbers; this is an encoder-decoder, or free text",
            "choose its plan by hand (`stratatune list presets`)",
        )


def _view(family: str, config: RunConfig, asked: Asked, drawn: Table, rows: int, reporter: Reporter) -> View:
    """Read, probe, find, calibrate and price for one family."""
    from stratatune.model.backbone import Backbone
    from stratatune.objectives.spec import pad_id
    from stratatune.studies.suggest.calibrate import pass_flops, top_rate

    setting = _setting(family, config, drawn, reporter)
    backbone, reading = Backbone(setting.base.model), setting.reading
    shape, classes = backbone.shape, max(1, len(reading.labels))
    read = read_depths(
        backbone,
        setting.encoded,
        pad_id(setting.base.tokenizer),
        batch_size=_PASS_BATCH,
        device=setting.device,
        autocast=setting.autocast,
        reporter=reporter,
    )
    started = time.perf_counter()
    assert setting.encoded.labels is not None
    probes = tuple(probe(read, setting.encoded.labels, seed=config.seed, reporter=reporter))
    found = find(probes)
    probed = time.perf_counter()
    plans = texts(family, found, shape.hidden, shape.blocks, classes)
    flops = pass_flops(shape, setting.encoded, _PASS_BATCH)
    rates = Rates(flops / read.seconds, top_rate(setting, plans[found.depth]))
    work = Work(
        lengths=setting.encoded.lengths,
        rows=rows,
        epochs=config.epochs,
        batch_size=config.batch_size or max(1, int((config.token_budget or 0) / setting.encoded.lengths.mean())),
        objective=reading.objective if reading.objective in LM_OBJECTIVES else "classification",
        dtype="fp32" if setting.autocast is None else "bf16",
        classes=classes,
    )
    priced = [price(text, depth, shape, work, rates) for depth, text in plans.items()]
    priced = [within(one, asked.budget_seconds, asked.budget_memory) for one in priced]
    seconds = {"pass": read.seconds, "probes": probed - started, "calibration": time.perf_counter() - probed}
    return View(
        family=family,
        objective=reading.objective,
        decoder=reading.decoder,
        metric=reading.metric,
        value=reading.value_range is not None,
        classes=classes,
        hidden=shape.hidden,
        probes=probes,
        found=found,
        candidates=tuple(priced),
        chosen=nearest_kept(priced, found.depth),
        spent={**seconds, "flops": flops},
        feature_bytes=read.features.nbytes,
    )


def _setting(family: str, config: RunConfig, drawn: Table, reporter: Reporter) -> Setting:
    """The model loaded and the sample encoded, as a run of this family would have them."""
    import torch

    from stratatune._compat import accelerator_for
    from stratatune.model.base import load_base
    from stratatune.objectives.spec import encode
    from stratatune.studies.suggest.calibrate import Setting
    from stratatune.training.prepare import base_settings, class_names, settle_objective, settle_reading
    from stratatune.training.run import in_bf16

    shape = shape_of(config.model, config.revision)
    device = accelerator_for(config.device, (), config.out).device  # pyright: ignore[reportArgumentType]
    objective = settle_objective(config, Plan.parse(_READ_AS[family]), decoder=shape.causal)
    labels = class_names(config, objective, drawn)
    base = load_base(
        config.model,
        objective,
        **base_settings(config, labels),
    )
    reading, notices = settle_reading(config, objective, drawn, base.tokenizer, shape.max_tokens, decoder=shape.causal)
    encoded = encode(drawn, reading, base.tokenizer)
    for notice in (*base.notices, *notices, *encoded.notices):
        reporter.notice(notice)
    base.model.to(device)  # pyright: ignore[reportArgumentType]
    autocast = torch.bfloat16 if in_bf16(config.precision, device) else None
    return Setting(base, reading, encoded, config, device, autocast)


def _ranked(views: list[View]) -> list[View]:
    """The family to propose first: one with a plan left; the better told by more than a standard error; the cheaper."""
    if len(views) < 2:
        return views
    first, second = views
    gap = second.found.best.score - first.found.best.score
    if first.chosen is None or second.chosen is None:
        return [second, first] if first.chosen is None else views
    if abs(gap) > max(first.found.best.error, second.found.best.error):
        return [second, first] if gap > 0 else views
    return sorted(views, key=lambda view: view.chosen.flops if view.chosen else 0.0)


def _nothing_left(views: Sequence[View]) -> ConfigError:
    lines = []
    for view in views:
        least = min(view.candidates, key=lambda one: (one.memory_bytes, one.seconds))
        lines.append(f"budget: {view.family}: even {least.plan} takes {least.over}")
    return ConfigError(lines, "give more time or memory, fewer --epochs, or a smaller --batch-size")
