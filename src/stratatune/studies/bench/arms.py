"""The sides of every comparison, each as ``epoch() -> seconds`` over the same token ids on the same machine.

F  full tuning: all parameters train, random batches, dynamic padding.
A  stock peft LoRA (r=8, q and v) on all layers, random batches, dynamic padding: the common practice.
B  A with batches cut by length.
S  stratatune: a plan, its top trained from the trunk cache (the trunk runs inside the first epoch).

All four use fused AdamW, as Trainer does, clip at 1.0 and the same autocast, start from the same random weights of one
shape, and see the same data. They learn one objective: S by its own forward and loss, the others by transformers' model
with the head of that objective, which computes every token (:meth:`Objective.loss_of_today`). In place of label words
on an encoder they learn a classifier (:attr:`Objective.today`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stratatune._compat import needs_extra
from stratatune.cache.feed import Feed
from stratatune.cache.keys import CacheKey
from stratatune.cache.store import TrunkCache
from stratatune.costs.cost import random_batches
from stratatune.data.batching import Batch, collate_examples, parts_of, plan_batches
from stratatune.data.encoded import Encoded
from stratatune.errors import ModelError
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.base import attention_for_training, class_for
from stratatune.model.heads.registry import head_named
from stratatune.model.precision import cast_frozen
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import OBJECTIVES
from stratatune.plan import Plan
from stratatune.shapes.table import architecture_of
from stratatune.training.forward import Forward
from stratatune.training.optimiser import ClippingAdamW, clip_and_step, gradients_of
from stratatune.training.working import WorkingCopies

PADDING = 1
"""The token id of padding, which no text of :func:`random_data` holds."""
_AT_ONCE = 256
_USUAL = "classification"
"""The objective of the stock arms where each plan learns its paper's."""
Learnt = tuple[Objective, Encoded]
"""An objective, and the data with its targets."""


@dataclass(frozen=True)
class BenchSetting:
    """The settings that all arms of one comparison share."""

    config: dict[str, Any]
    data: Encoded
    """The texts. Each objective makes up targets for them, unless ``own`` has the user's."""
    batch_size: int = 32
    bf16: bool = True
    timed: int = 6
    """Batches of an epoch that are run; their mean is the epoch's."""
    device: str = "cpu"
    objective: str | None = None
    """The name of the objective of all arms. None, for an encoder: each plan its paper's, the others classes."""
    own: Learnt | None = None
    """An objective and its targets from the user's data, in place of made-up ones."""
    pad: int = PADDING
    """The token id of padding."""

    @property
    def family(self) -> str:
        """The family of the model."""
        return architecture_of(self.config["model_type"], self.config).family

    def learnt(self, kind: str) -> Learnt:
        """The objective and data of arms with this objective.

        Raises:
            ConfigError: the objective has no made-up data.
        """
        if self.own is not None and kind == self.own[0].name:
            return self.own
        if kind not in self._pretended:
            texts = replace(self.data, targets={}, groups=None, places=None, given=None)
            self._pretended[kind] = OBJECTIVES[kind].pretended(texts, self.family, np.random.default_rng(0))
        return self._pretended[kind]

    @cached_property
    def _pretended(self) -> dict[str, Learnt]:
        return {}

    @property
    def today(self) -> str:
        """The name of the stock arms' objective."""
        return OBJECTIVES[self.objective].today or self.objective if self.objective else _USUAL

    @cached_property
    def examples(self) -> Encoded:
        """The texts as examples for batches, the same for all arms."""
        return self.learnt(self.today)[1]

    @cached_property
    def bucketed(self) -> list[np.ndarray]:
        """Batches cut by length."""
        lengths = self.examples.example_lengths
        return typical(plan_batches(lengths, batch_size=self.batch_size, seed=0, epoch=0), lengths, self.timed)

    @cached_property
    def random(self) -> list[np.ndarray]:
        """Batches in a random order."""
        lengths = self.examples.example_lengths
        return typical(random_batches(len(lengths), self.batch_size, 0), lengths, self.timed)

    def places(self, kind: str) -> np.ndarray | None:
        """The number of tokens [N] of each text that the head reads under this objective; None: one, or every one."""
        objective, data = self.learnt(kind)
        if objective.reads != "all" or not data.targets:
            return None
        if data.groups is not None:  # counted by text, not by example
            data = data.ungrouped()
        found = []
        for index in np.array_split(np.arange(data.examples), -(-data.examples // _AT_ONCE)):
            asked = objective.question(collate_examples(data, index, self.pad), training=True).places
            if asked is None or asked.dtype != torch.bool:
                return None
            found.append(asked.sum(1).numpy())
        return np.concatenate(found)

    def padded(self, index: np.ndarray) -> tuple[int, int]:
        """The number of texts in the batch of these examples, and the tokens of the longest."""
        texts = self.examples.texts_of(index)
        return len(texts), int(self.examples.lengths[texts].max())

    def model(self, kind: str, attention: str | None = None) -> nn.Module:
        """A model of the shape with random fp32 weights, the same for every call; attention as transformers chooses it.

        It has the head of the objective ``kind``. A decoder keeps no keys and values, as transformers' own Trainer sees
        to.

        Raises:
            ModelError: transformers has no such model with this head.
        """
        import transformers

        objective, head = self.learnt(kind)[0], head_named(OBJECTIVES[kind].head)
        torch.manual_seed(0)
        plain = {name: value for name, value in self.config.items() if name not in ("id2label", "label2id")}
        config: Any = transformers.AutoConfig.for_model(**{**plain, **head.settings(objective.outputs)})
        if not class_for(head.name, config.model_type):
            raise ModelError(
                f"objective {kind}: transformers has no {head.auto} for {config.model_type}", "choose another objective"
            )
        if self.family == "decoder":
            config.pad_token_id, config.use_cache = self.pad, False
        auto: Any = getattr(transformers, head.auto)
        wanted = {"attn_implementation": attention} if attention else {}  # None would undo what the config says
        model = auto.from_config(config, dtype=torch.float32, **wanted).to(self.device)
        Backbone(model, check=False).head.build(("pooler.",))  # without a head nothing reads it: left out, as by a run
        if head.name == "lm":
            model.loss_type = "ForCausalLM"  # GPT-2's, which transformers does not know by its class's name
        return model

    def collated(self, plan: Sequence[np.ndarray], kind: str) -> Iterator[Batch]:
        """The batches of ``plan`` as an arm with this objective learns them, on the device."""
        data = self.learnt(kind)[1]
        return (collate_examples(data, index, self.pad).to(self.device) for index in plan)

    def waited(self) -> float:
        """The time after the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def mixed(self, bf16: bool | None = None) -> torch.autocast:
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16 if bf16 is None else bf16)


def lengths_like(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Token counts like SST-2's phrases or RTE's pairs, special tokens included: quantiles of a log-normal, shuffled.

    SST-2's own: mean 13.4, median 10, 95 % up to 33; random batches of 32 padded to 3.03 times the tokens. These: 13.2,
    10.5, 33; 3.04. Quantiles, not draws, so that a small sample has the same mean and the same padding as a large one.
    """
    median, sigma, low, high = {"sst2": (10.5, 0.70, 4, 46), "rte": (62.0, 0.55, 16, 290)}[name]
    quantiles = median * np.exp(sigma * norm.ppf((np.arange(count) + 0.5) / count))
    return np.random.default_rng(seed).permutation(np.clip(np.round(quantiles), low, high)).astype(np.int64)


def typical(plan: list[np.ndarray], lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """``count`` batches of an epoch whose padded tokens come nearest to the epoch's mean, of 500 random choices.

    A small data set will not do in their place: batches cut by length out of few examples are padded far more.
    """
    padded = np.array([len(index) * lengths[index].max() for index in plan])
    random = np.random.default_rng(0)
    choices = [random.choice(len(plan), min(count, len(plan)), replace=False) for _ in range(500)]
    best = min(choices, key=lambda choice: abs(padded[choice].mean() - padded.mean()))
    return [plan[number] for number in best]


def random_data(lengths: np.ndarray, vocab: int, seed: int = 0, *, at_end: bool = False) -> Encoded:
    """Random token ids of the given lengths, read at the last token but one; ``at_end``: at the last."""
    random = np.random.default_rng(seed)
    ids = random.integers(10, vocab - 10, int(lengths.sum())).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    read = (lengths - (1 if at_end else 2)).astype(np.int32)
    return Encoded(ids, None, offsets, read)


class Stock:
    """Arms F, C, A and B: the whole Hugging Face model, plain or under peft.

    Args:
        setting: the settings that all arms share.
        lora: under peft's LoRA.
        bucketed: on batches cut by length.
        bf16, attention: values in place of the setting's.
        depth: blocks below it do not train, nor do the embeddings.
    """

    def __init__(
        self,
        setting: BenchSetting,
        *,
        lora: bool,
        bucketed: bool,
        bf16: bool | None = None,
        attention: str | None = None,
        depth: int = 0,
    ) -> None:
        self.setting, self.bucketed, self.bf16 = setting, bucketed, bf16
        self.objective = setting.learnt(setting.today)[0]
        model = setting.model(setting.today, attention)
        if lora:
            model = with_peft(model)
        elif depth:
            backbone = Backbone(model)  # pyright: ignore[reportArgumentType]
            backbone.base.requires_grad_(False)
            for block in backbone.blocks[depth:]:
                block.requires_grad_(True)
        self.model = model.train()
        self.optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def cut_by_length(self) -> Stock:
        """The arm with the same model and optimiser on batches cut by length, so that memory holds both arms."""
        other = copy.copy(self)
        other.bucketed = True
        return other

    def epoch(self) -> float:
        """Seconds of the timed batches of an epoch."""
        started = self.setting.waited()
        for batch in self.batches():
            self.step(batch)
        return self.setting.waited() - started

    def batches(self) -> Iterator[Batch]:
        plan = self.setting.bucketed if self.bucketed else self.setting.random
        return self.setting.collated(plan, self.setting.today)

    def loss(self, batch: Batch) -> Tensor:
        """The forward pass."""
        with self.setting.mixed(self.bf16):
            logits = head_named(self.objective.head).of_output(self.model(**given_to(batch)))
        return self.objective.loss_of_today(logits, batch)

    def step(self, batch: Batch) -> None:
        """Forward, backward, clip, step."""
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


class Floor:
    """The cheapest arm: the frozen model run once, and ridge regression on the mean of its last hidden states."""

    def __init__(self, setting: BenchSetting) -> None:
        self.setting = setting
        self.model = setting.model(setting.today).eval()
        self.base = Backbone(self.model).base  # pyright: ignore[reportArgumentType]

    def epoch(self) -> float:
        """Seconds of the timed batches and of the solution."""
        started, found = self.setting.waited(), list[Tensor]()
        for batch in self.setting.collated(self.setting.bucketed, self.setting.today):
            with torch.no_grad(), self.setting.mixed():
                hidden = self.base(**given_to(batch)).last_hidden_state
            mask = batch.mask[..., None]
            found.append((hidden.float() * mask).sum(1) / mask.sum(1))
        means = torch.cat(found)
        # Always two classes: they do not affect the time.
        ridge(means, nn.functional.one_hot(torch.arange(len(means), device=means.device) % 2).float())
        return self.setting.waited() - started


def ridge(inputs: Tensor, targets: Tensor, strength: float = 1.0) -> Tensor:
    """The weights [D + 1, C] that bring ``inputs`` [N, D], standardised, nearest to ``targets`` [N, C]; bias last."""
    scaled = (inputs - inputs.mean(0)) / inputs.std(0).clamp(min=1e-6)
    scaled = torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1)
    gram = scaled.T @ scaled + strength * torch.eye(scaled.shape[1], device=scaled.device)
    return torch.linalg.solve(gram, scaled.T @ targets)


def given_to(batch: Batch) -> dict[str, Tensor]:
    """The arguments of transformers' models."""
    given = {"input_ids": batch.input_ids, "attention_mask": batch.mask.long()}
    return given if batch.token_types is None else {**given, "token_type_ids": batch.token_types}


def with_peft(model: Any) -> nn.Module:
    """Stock LoRA on the queries and values of every block, by the names that the backbone table has for them.

    Raises:
        ResourceError: peft is not installed.
    """
    with needs_extra("bench", "arms A and B of the bench, stock LoRA,"):
        from peft import LoraConfig, get_peft_model
    row = architecture_of(model.config.model_type, model.config.to_dict())
    paths = {next((path for path, roles in row.fused.items() if role in roles), row.roles[role]) for role in ("q", "v")}
    wanted = LoraConfig(
        task_type=Backbone(model, check=False).head.peft_task,
        r=8,
        lora_alpha=16,
        target_modules=sorted(paths),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    return get_peft_model(model, wanted)


class Ours:
    """Arm S: a plan's top from the trunk cache."""

    def __init__(self, setting: BenchSetting, plan: Plan | str, cache: Path | None) -> None:
        self.setting, self.root = setting, cache
        plan = Plan.parse(plan) if isinstance(plan, str) else plan
        self.kind = kind = setting.objective or plan.objective
        objective, self.data = setting.learnt(kind)
        model: Any = setting.model(kind, attention_for_training(setting.device))
        self.model = apply(model, plan).train()
        attached = self.model.attached
        if setting.bf16:
            cast_frozen(attached, torch.bfloat16)
        autocast = torch.bfloat16 if setting.bf16 else None
        self.forward = Forward.of(attached, objective, setting.pad, torch.device(setting.device), autocast)
        self.trained = list(attached.trained().values())
        blocks = attached.backbone.blocks.modules() if setting.device == "cpu" and autocast is not None else ()
        self.copies = WorkingCopies(blocks, autocast)
        groups = [{"params": self.trained, "lr": 1e-4, "weight_decay": 0.01}]
        if self.copies.by_master:
            self.optimiser = ClippingAdamW(groups, eps=1e-8, copies=self.copies.by_master)
        else:
            self.optimiser = torch.optim.AdamW(groups, fused=True)
        self.feed = self.fresh_feed()

    def fresh_feed(self) -> Feed:
        """A feed with an empty cache."""
        resolved = self.model.attached.resolved
        dtype = "bf16" if self.setting.bf16 else "fp32"
        positions = "read" if self.forward.one_position else "all"
        key = CacheKey("w", "t", "", f"{time.time_ns()}", 512, resolved.frozen_depth, positions, dtype, ())
        store = None
        if not resolved.trains_embeddings:
            data = self.data
            store = TrunkCache.open(self.root, key, data.lengths, resolved.cached_width, distinct=data.distinct)
        return self.forward.feed(store)

    def epoch(self) -> float:
        """Seconds of the timed batches, from the cache or building it."""
        started, device = self.setting.waited(), torch.device(self.setting.device)
        self.feed.move_to(device)
        with self.feed.prefetch([self.data.texts_of(index) for index in self.setting.bucketed], device):
            for index in self.setting.bucketed:
                self.learn(self.setting.collated(self._parts(index), self.kind))
        return self.setting.waited() - started

    def batches(self) -> Iterator[Batch]:
        return self.setting.collated(self.setting.bucketed, self.kind)

    def _parts(self, index: np.ndarray) -> list[np.ndarray]:
        """The parts in which a run computes a batch of the examples ``index`` [B]."""
        if self.forward.objective.whole_batches:
            return [index]
        texts = self.data.texts_of(index)
        return np.array_split(index, min(len(index), parts_of(len(texts), int(self.data.lengths[texts].max()))))

    def loss(self, batch: Batch) -> Tensor:
        """Feed and forward, as in a run."""
        return self.forward.loss(batch, self.feed)

    def step(self, batch: Batch) -> None:
        """Feed, forward, backward, clip, step."""
        self.learn([batch])

    def learn(self, parts: Iterable[Batch]) -> None:
        """A step from a batch in parts."""
        total = 0.0
        for part in parts:
            loss = self.loss(part)
            loss.backward()
            total += float(loss.detach())
        clip_and_step(self.optimiser, gradients_of(self.optimiser), 1.0, total)
