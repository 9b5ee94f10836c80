"""The time that a step of each arm should take, from this machine's speed on three blocks of a model.

A pass over three blocks (more than a processor's own memory holds of the weights) is timed at a few lengths and fitted,
for each block, as a fixed part (casts of weights, the optimiser, calls) and a rate (FLOP/s). Nothing is taken from the
arms that the prediction is compared with: the whole model is never run here. The formulas of ``costs/flops.py`` then
give the part of each pass that an arm's step takes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stratatune.costs.block_flops import block_work
from stratatune.costs.flops import reads_one
from stratatune.costs.time import Pace, Stopwatch
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.base import attention_for_training
from stratatune.model.precision import cast_frozen
from stratatune.model.question import Question
from stratatune.objectives.registry import OBJECTIVES
from stratatune.objectives.words import PRETENDED_WORDS
from stratatune.plan import MethodConfig, Plan, Resolved, shape_of
from stratatune.plan.methods import Adapter
from stratatune.plan.schema import Stratum
from stratatune.shapes.shape import LM_HEADS
from stratatune.shapes.table import architecture_of
from stratatune.studies.bench.arms import BenchSetting, Ours, with_peft
from stratatune.training.optimiser import ClippingAdamW, clip_and_step, gradients_of
from stratatune.training.working import WorkingCopies

BLOCKS = 3
Methods = tuple[MethodConfig, ...]


class Machine:
    """The probes of one setting, made when they are first needed, and the predictions that follow from them."""

    def __init__(self, setting: BenchSetting) -> None:
        self.setting = setting
        self.row = architecture_of(setting.config["model_type"], setting.config)
        fields = self.row.fields
        config = {**setting.config, fields.blocks: BLOCKS, **({fields.distinct: BLOCKS} if fields.distinct else {})}
        if isinstance(types := config.get("layer_types"), list):
            config["layer_types"] = types[:BLOCKS]
        self.short = replace(setting, config=config)
        self.shape, self.blocks = shape_of(setting.config), range(BLOCKS)
        texts, longest = zip(*map(setting.padded, (*setting.bucketed, *setting.random)), strict=True)
        self.size = max(texts)
        self.lengths = sorted({int(np.quantile(longest, q)) for q in (0.1, 0.5, 1.0)})
        self.probes: dict[Hashable, Stopwatch] = {}

    def again(self) -> None:
        """Time every requested probe once more."""
        for probe in self.probes.values():
            probe.go()

    def stock(self, preset: str, batches: list[np.ndarray]) -> float:
        """Seconds of the batches under full tuning or stock LoRA (``full``, ``lora``)."""
        rate, embeddings = (self._rate((preset, part)) for part in ("blocks", "embeddings"))
        methods = Plan.parse(preset).resolve(self.shape).blocks[0]
        passes = sum(rate.seconds(self._flops(methods, index)) for index in batches)
        parts = [embeddings, *([self._rate((preset, "head"))] if OBJECTIVES[self.setting.today].head == "lm" else [])]
        rest = sum(part.seconds(self._tokens(index)) for index in batches for part in parts)
        return self.shape.blocks * passes + rest

    def topmost(self, depth: int, batches: list[np.ndarray]) -> float:
        """Seconds of the batches where blocks from ``depth`` on train whole and those below run forward."""
        forward, rate = self._rate(("trunk",)), self._rate(("full", "blocks"))
        embeddings = self._rate(("lora", "embeddings"))
        methods = Plan.parse("full").resolve(self.shape).blocks[0]
        total = 0.0
        for index in batches:
            total += depth * forward.seconds(self._flops((), index, backward=False))
            total += (self.shape.blocks - depth) * rate.seconds(self._flops(methods, index))
            total += embeddings.seconds(self._tokens(index))
        return total

    def plan(self, plan: Resolved, batches: list[np.ndarray], *, trunk: bool) -> float:
        """Seconds of the batches under our loop, from the cache or after a pass of the trunk."""
        objective = self.setting.objective or plan.plan.objective
        read_last = reads_one(self.shape, objective)
        end = len(plan.blocks)  # fewer than the model's where the plan cuts it
        last = end - read_last  # the blocks below it run in full
        total = len(batches) * self._rate(("rest", plan.plan.head, objective)).seconds(1)
        for index in batches:
            if trunk and plan.frozen_depth:
                forward = self._rate(("trunk",)).seconds(self._flops((), index, backward=False))
                total += plan.frozen_depth * forward + self._rate(("lora", "embeddings")).seconds(self._tokens(index))
            for number in range(plan.frozen_depth, last):
                rate = self._rate(("ours", plan.blocks[number]))
                total += rate.seconds(self._of_plan(plan, number, index))
            if read_last and plan.frozen_depth <= last:
                rate = self._rate(("last", plan.blocks[last]))
                total += rate.seconds(self._of_plan(plan, last, index, queries=1))
            if plan.insertions and plan.frozen_depth < end:
                total += self._inserted(plan, index) / self._rate(("ours", plan.blocks[-1])).per_second
        return total

    def _inserted(self, plan: Resolved, index: np.ndarray) -> float:
        """FLOPs of the insertions."""
        count, length = self.setting.padded(index)
        again = len(plan.blocks) * self._flops((), index, backward=False)
        each = (
            6.0 * count * one.multiplications_at(self.shape, length) + one.rereads * again for _, one in plan.insertions
        )
        return sum(each)

    def _of_plan(self, plan: Resolved, number: int, index: np.ndarray, *, queries: int = 0) -> float:
        """FLOPs of a batch in block ``number`` of a plan, prompts included; the first needs no input gradient."""
        count, length = self.setting.padded(index)
        length += _prompts(plan, number)
        inserted = any(depth <= number for depth, _ in plan.insertions)
        arrives = number > plan.frozen_depth or inserted or plan.trains_embeddings
        work = block_work(self.shape, plan.blocks[number], length, queries or length, arrives=arrives)
        return count * work.flops

    def _flops(self, methods: Methods, index: np.ndarray, *, backward: bool = True) -> float:
        """The FLOPs of a batch in one block that gradients pass: all, or forward alone."""
        count, length = self.setting.padded(index)
        return count * self._work(methods, length, length, backward)

    def _work(self, methods: Methods, length: int, queries: int, backward: bool) -> float:
        work = block_work(self.shape, methods, length, queries)
        return work.flops if backward else work.forward

    def _tokens(self, index: np.ndarray) -> float:
        return float(np.prod(self.setting.padded(index)))

    def _rate(self, name: tuple[Any, ...]) -> Pace:
        """The pace of one block, or of a part without blocks."""
        if name not in self.probes:
            self.probes[name] = probe = Stopwatch(self.setting.waited)
            self._fill(probe, *name)
            probe.go()
        rate = self.probes[name].rate
        whole = name[0] == "rest" or name[1:] in (("embeddings",), ("head",))
        return rate if whole else Pace(rate.fixed / BLOCKS, rate.per_second)

    def _fill(self, probe: Stopwatch, kind: str, *about: Any) -> None:
        """Add the points of a probe, by its name."""
        if kind == "rest":
            self._rest(probe, *about)
        elif about == ("embeddings",):
            self._embeddings(probe, full=kind == "full")
        elif about == ("head",):
            self._language_head(probe, full=kind == "full")
        elif about == ("blocks",):
            model: Any = self.short.model("classification")
            model = with_peft(model).base_model.model if kind == "lora" else model.requires_grad_(True)  # pyright: ignore
            methods = Plan.parse(kind).resolve(self.shape).blocks[0]
            self._blocks(probe, Backbone(model.train()), methods, torch.float32)
        elif kind == "trunk":
            self._blocks(probe, self._own(()).eval().attached.backbone, (), torch.float32, backward=False)
        else:
            dtype = torch.bfloat16 if self.setting.bf16 else torch.float32
            (methods,) = about
            backbone = self._own(methods).train().attached.backbone
            backbone.blocks.train()  # also where nothing in them trains: gradients pass them
            self._blocks(probe, backbone, methods, dtype, last=kind == "last")

    def _own(self, methods: Methods) -> Any:
        plan = Plan(strata=(Stratum(layers=":", methods=methods),) if methods else ())  # pyright: ignore
        attention = attention_for_training(self.setting.device)
        model = apply(self.short.model("classification", attention), plan)  # pyright: ignore
        if self.setting.bf16:
            cast_frozen(model.attached, torch.bfloat16)
        return model

    def _blocks(
        self,
        probe: Stopwatch,
        backbone: Backbone,
        methods: Methods,
        dtype: torch.dtype,
        *,
        last: bool = False,
        backward: bool = True,
    ) -> None:
        """Time passes over the blocks in a row, with the optimiser's step; ``last``: over each at one position."""
        device, size = self.setting.device, self.size
        ours = dtype == torch.bfloat16 and device == "cpu"
        step = _optimiser_step(backbone.blocks, dtype if ours else None) if backward else lambda: None
        for length in self.lengths:
            hidden = torch.randn(size, length, self.shape.hidden, device=device, dtype=dtype)
            mask = torch.ones(size, length, dtype=torch.bool, device=device)
            mask[: size // 2, max(1, length - 1) :] = False  # some padding, as always
            read = torch.zeros(size, dtype=torch.long, device=device)
            calls = backbone.calls(hidden, mask)

            def run(hidden: Tensor = hidden, calls: Any = calls, read: Tensor = read) -> None:
                given = out = hidden.detach().requires_grad_(backward)
                with self.setting.mixed(), torch.set_grad_enabled(backward):
                    outputs = []
                    for number in self.blocks:
                        if last:
                            outputs.append(backbone.run_block_at(number, given, calls[number], read))
                        else:
                            out = backbone.run_block(number, out, calls[number])
                outputs = outputs or [out]
                if backward:
                    torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])
                step()

            queries = 1 if last else length
            probe.add(BLOCKS * size * self._work(methods, length, queries, backward), run)

    def _embeddings(self, probe: Stopwatch, *, full: bool) -> None:
        """Time the embeddings forward; under full tuning also backward and with the optimiser's step."""
        model: Any = self.short.model("classification").train().requires_grad_(full)
        embeddings = Backbone(model).embeddings
        step = _optimiser_step(embeddings) if full else lambda: None
        for length in self.lengths:
            ids = torch.randint(10, self.shape.vocab - 10, (self.size, length), device=self.setting.device)

            def run(ids: Tensor = ids) -> None:
                out = embeddings(ids)
                if full:
                    out.backward(torch.ones_like(out))
                step()

            probe.add(ids.numel(), run)

    def _language_head(self, probe: Stopwatch, *, full: bool) -> None:
        """Time a stock decoder's final norm, logits at every token and loss, forward and backward.

        Under full tuning with the optimiser's step over a separate output matrix; a tied one is the embeddings'.
        """
        model: Any = self.short.model(self.setting.today).train().requires_grad_(full)
        backbone = Backbone(model)
        part = nn.ModuleList(backbone.body.final_norms())
        if not self.shape.decoder_tied:
            part.append(model.get_output_embeddings())
        step = _optimiser_step(part)
        for length in self.lengths:
            size = self.size
            hidden = torch.randn(size, length, self.shape.hidden, device=self.setting.device)
            labels = torch.full((size, length), -100, device=self.setting.device)
            labels[:, -1] = PRETENDED_WORDS[0]

            def run(hidden: Tensor = hidden, labels: Tensor = labels) -> None:
                with self.setting.mixed():
                    logits = backbone.head.logits(hidden.detach().requires_grad_(), labels >= 0, Question())
                    loss = model.loss_function(logits, labels, self.shape.vocab, shift_labels=labels)
                loss.backward()
                step()

            probe.add(labels.numel(), run)

    def _rest(self, probe: Stopwatch, head: Any, objective: str) -> None:
        """Time the parts of a step outside the blocks: the feed, a plan's head, the loss, the optimiser's calls."""
        # Something must train: a head without its own output layer has nothing that does.
        inserted = (Adapter(depth=BLOCKS),) if OBJECTIVES[objective].head in (*LM_HEADS, "none") else ()
        if "decoder" in head.mlm:
            head = head.model_copy(update={"untie": True})  # the embeddings do not train here
        arm = Ours(self.short, Plan(insertions=inserted, head=head), None)
        for batch in arm.batches():
            probe.add(1, lambda batch=batch: arm.step(batch))


def _prompts(plan: Resolved, number: int) -> int:
    """The number of prompt positions before the text when it reaches block ``number``."""
    return sum(one.prompt for depth, one in plan.insertions if depth <= number)


def _optimiser_step(part: nn.Module, copied: torch.dtype | None = None) -> Callable[[], None]:
    """Clip, step and zero over the trained parameters of ``part``; ``copied`` has working copies, as in our loop."""
    trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
    if not trained:
        return lambda: None
    copies = WorkingCopies(part.modules() if copied is not None else (), copied)
    if copies.by_master:
        group = {"params": trained, "lr": 1e-4, "weight_decay": 0.01}
        own = ClippingAdamW([group], eps=1e-8, copies=copies.by_master)

        def clipped() -> None:
            clip_and_step(own, gradients_of(own), 1.0, 0.0)

        return clipped
    optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step
