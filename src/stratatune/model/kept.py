"""Bytes that a training step keeps from its forward for its backward pass, measured by saved-tensor hooks.

The forward runs on fake tensors: they have shapes, dtypes and a device, and no values, so a step of any size takes
parts of a second and no memory. Autocast, dropout and attention choose their kernels by the device, a CPU, as for real
tensors. (On the meta device they do not: autocast does nothing there, and attention runs in another kernel.) For a GPU
attention is that of the CPU's fused kernel without dropout, which like the GPU's keeps no scores. Each storage counts
once; the weights, which are there anyway, do not count.

Of neighbouring blocks with the same methods at most three are built: the first, one that represents all between the
ends, and the last. What is kept grows with the square of a text's length, so three lengths determine all others.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig

from stratatune._compat import without_init
from stratatune.errors import PlanError
from stratatune.methods.experts import holds_experts, of_experts, through_of
from stratatune.model.attach import sketch
from stratatune.model.attached import Attached
from stratatune.model.backbone import Backbone
from stratatune.model.base import attention_for_training
from stratatune.model.families.registry import FAMILIES
from stratatune.model.heads.head import Weights
from stratatune.model.heads.registry import head_named
from stratatune.model.precision import cast_frozen
from stratatune.model.question import Question
from stratatune.model.split import Top, Trunk
from stratatune.plan import Plan, Resolved
from stratatune.plan.methods import Full
from stratatune.plan.schema import Stratum
from stratatune.shapes.table import architecture_of

if TYPE_CHECKING:
    from stratatune.plan import Shape

_BUILT = 3  # blocks of a run
_FILES = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "quantization_config")
"""Config fields about files, not about the model."""
_STORED = {"decoder": "bfloat16"}
"""The dtype in which weights of a family are stored, where the config does not say so; else fp32."""


@dataclass(frozen=True)
class Step:
    """A training step.

    Attributes:
        head: that runs.
        size: examples of its batch.
        labels: outputs of a classifier.
        one: whether the head runs at one position of each text; else at every one.
        stock: the whole model by transformers' own forward, as it comes; else our top, from the trunk cache.
        low: whether it computes in bf16, by autocast; else in fp32.
        fused: whether attention keeps no scores, as that of torch on a GPU; else it is that of a CPU.
    """

    head: str
    size: int
    labels: int
    one: bool
    stock: bool
    low: bool
    fused: bool = False


def kept_bytes(resolved: Resolved, step: Step, lengths: Sequence[int]) -> dict[int, float]:
    """Bytes that a step of a plan keeps for its backward pass, by the length to which its batch is padded.

    Args:
        resolved: the plan on its model.
        step: the step.
        lengths: tokens, padding included.

    Raises:
        PlanError: the shape was not made from a config.
    """
    if not resolved.shape.config:
        raise PlanError(
            f"{resolved.shape.name}: what a step keeps is measured on a model of its config",
            "take the shape from shape_of",
        )
    distinct = sorted(set(lengths))
    few = distinct if len(distinct) <= 3 else [distinct[0], distinct[len(distinct) // 2], distinct[-1]]
    plan, counts, config = _shortened(resolved)
    found = _measured(plan, tuple(counts), json.dumps(config, sort_keys=True, default=str), step, tuple(few))
    points = dict(zip(few, found, strict=True))
    return {length: points[length] if length in points else _parabola(points, length) for length in distinct}


def _parabola(points: Mapping[int, float], at: int) -> float:
    """The value at ``at`` of the parabola through three points (Lagrange)."""
    total = 0.0
    for x, y in points.items():
        for other in points:
            if other != x:
                y *= (at - other) / (x - other)
        total += y
    return total


# --- a smaller model that keeps as much ----------------------------------------------------------------------------


def _shortened(resolved: Resolved) -> tuple[Plan, list[int], dict[str, Any]]:
    """The plan on a model with fewer blocks, the number of blocks that each represents, and that model's config."""
    shape, own, sample = resolved.shape, resolved.plan, _sample(resolved)
    chosen = [number for number, _ in sample]
    strata, insertions, sizes = [], [], []
    for name, stack in shape.stacks.items():
        inside = [number for number in chosen if number in stack]
        sizes.append(len(inside))
        strata += [
            Stratum(stack=name, layers=f"{place}:{place + 1}", methods=resolved.blocks[number])  # pyright: ignore
            for place, number in enumerate(inside)
            if resolved.blocks[number]
        ]
    for depth, one in resolved.insertions:
        below = sum(number < depth for number in chosen)
        insertions.append(one.model_copy(update={"depth": below - sizes[0] if one.in_decoder else below}))
    plan = Plan(strata=tuple(strata), insertions=tuple(insertions), embeddings=own.embeddings, head=own.head)  # pyright: ignore
    return plan, [count for _, count in sample], _config_of(shape, chosen, sizes)


def _sample(resolved: Resolved) -> list[tuple[int, int]]:
    """The numbers of the blocks that are built, and the number of blocks that each represents."""
    shape, depth = resolved.shape, resolved.frozen_depth
    # The blocks share their weights, and cannot be distinguished; or the code wants certain ones together.
    if shape.distinct or shape.cuts is not None:
        return [(number, 1) for number in range(shape.blocks)]
    found = []
    for stack in shape.stacks.values():
        if stack.start < depth:  # of a trunk one block, since a stack's first may differ from the others
            found.append((stack.start, 1))
        for run in resolved.runs():
            numbers = range(max(run.start, depth), run.stop) if run.start in stack else range(0)
            if len(numbers) <= _BUILT:
                found += [(number, 1) for number in numbers]
            else:
                found += [(numbers[0], 1), (numbers[1], len(numbers) - 2), (numbers[-1], 1)]
    return found


def _config_of(shape: Shape, chosen: Sequence[int], sizes: Sequence[int]) -> dict[str, Any]:
    """The config of a model that has the blocks ``chosen`` alone, ``sizes`` of them in each stack."""
    config = {name: value for name, value in shape.config.items() if name not in _FILES}
    for name, value in config.items():
        # An entry for each block: which attention it has, whether it turns queries and keys by angles.
        if "layer" in name and isinstance(value, list) and len(value) >= shape.blocks:
            config[name] = [value[number] for number in chosen]
    fields = architecture_of(str(config["model_type"]), config).fields
    stored = shape.config.get("dtype") or shape.config.get("torch_dtype") or _STORED.get(shape.family, "float32")
    counts = dict(zip(filter(None, (fields.blocks, fields.decoder_blocks)), sizes, strict=False))
    return {**config, **counts, "dtype": str(stored).removeprefix("torch.")}


# --- measuring -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _measured(plan: Plan, counts: tuple[int, ...], config: str, step: Step, lengths: tuple[int, ...]) -> list[float]:
    """Bytes at each of ``lengths``; remembered, since candidates for a run share the baselines and most tops."""
    times = {-1: 1, **dict(enumerate(counts))}
    attention = _Fused() if step.fused else contextlib.nullcontext()
    with FakeTensorMode(), torch.random.fork_rng(devices=[]), without_init(), attention:
        settings = json.loads(config)
        stored = settings.pop("dtype")
        backbone = Backbone(_built(settings, step), check=False)
        if step.stock and all(isinstance(one, Full) for stratum in plan.strata for one in stratum.methods):
            forward, weights = partial(_theirs, _freed(backbone, plan)), []
        else:
            attached = sketch(backbone, plan)
            if step.low and not step.stock:
                _cast(attached, stored)
            backbone, weights = attached.backbone, attached.top_weights()
            forward = partial(_theirs, backbone) if step.stock else partial(_ours, attached, step)
        own = _storages([backbone.model, *weights])
        return [
            sum(times[at] * size for at, size in _saved(backbone, partial(_loss, forward, step, length), own))
            for length in lengths
        ]


def _built(config: dict[str, Any], step: Step) -> Any:
    """The model of a config, with the head of a step, in training."""
    family = FAMILIES[architecture_of(config["model_type"], config).walked_by]
    name, more = family.without_values(step.head, step.labels)
    head = head_named(name)
    made: Any = AutoConfig.for_model(**{**config, **more, **head.settings(step.labels), "use_cache": False})
    made.pad_token_id = 0 if made.pad_token_id is None else made.pad_token_id
    attention = None if step.stock or step.fused else attention_for_training("cpu")
    wanted = {"attn_implementation": attention} if attention else {}  # None would undo what the config says
    model = getattr(transformers, head.auto).from_config(made, dtype=torch.float32, **wanted).train()
    experts: Any
    for experts in filter(holds_experts, model.modules()):
        # What transformers computes experts by chooses them by values, which fake tensors do not have.
        experts.through = partial(_through_one, experts)
        experts.forward = partial(_of_experts, experts)
    return model


def _of_experts(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    return of_experts(experts, hidden, chosen, weights, through_of(experts))


def _through_one(experts: Any, name: str, number: int, x: Tensor) -> Tensor:
    """Keep what all tokens keep that pass through this matrix of their experts."""
    weight = getattr(experts, name)
    if torch.is_autocast_enabled("cpu"):
        weight = weight.to(torch.bfloat16)  # each expert's matrix is converted, and kept
    return nn.functional.linear(x, weight[number].t() if experts.is_transposed else weight[number])


class _Fused(TorchFunctionMode):
    """Attention without dropout: the CPU's fused kernel has none, while a GPU's keeps no more for it than its seed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = {"dropout_p": 0.0} if func is nn.functional.scaled_dot_product_attention else {}
        return func(*args, **{**(kwargs or {}), **fused})


def _freed(backbone: Backbone, plan: Plan) -> Backbone:
    """The plain model with nothing attached: blocks that the plan trains require gradients as a whole."""
    backbone.model.requires_grad_(plan.embeddings is not None)
    for number, methods in enumerate(plan.resolve(backbone.shape).blocks):
        if methods:
            backbone.blocks[number].requires_grad_(True)
    for parameter in backbone.output_layer():
        parameter.requires_grad_(True)
    return backbone


def _cast(attached: Attached, stored: str) -> None:
    """Hold matrices in bf16 as our loop does: frozen ones, and working copies of trained ones in the blocks."""
    cast_frozen(attached, torch.bfloat16)
    linears: list[Any] = [module for module in attached.backbone.blocks.modules() if type(module) is nn.Linear]
    output: Any = attached.backbone.model.get_output_embeddings()
    if output is not None and not output.weight.requires_grad and stored != "float32":
        linears.append(output)  # as it is stored
    for module in linears:
        module.weight.data = module.weight.data.to(torch.bfloat16)
    for experts in filter(holds_experts, attached.backbone.blocks.modules()) if stored != "float32" else ():
        for weight in experts.parameters():
            if not weight.requires_grad and weight.dim() > 2:
                weight.data = weight.data.to(torch.bfloat16)


class _Held:
    """A saved tensor that autograd holds, until it drops the node that saved it."""

    def __init__(self, tensor: Tensor, place: int) -> None:
        self.tensor = tensor.detach()  # a node that saves its own output would otherwise hold itself forever
        self.place = place


def _saved(backbone: Backbone, step: Callable[[], Tensor], weights: set[int]) -> list[tuple[int, int]]:
    """Every storage that a step keeps: the block that kept it first, -1 outside the blocks, and its bytes."""
    places = {id(module): number for number, block in enumerate(backbone.blocks) for module in block.modules()}
    now, saved = -1, list[weakref.ref[_Held]]()

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal now
        now = places.get(id(module), -1)

    def pack(tensor: Tensor) -> _Held:
        held = _Held(tensor, now)
        saved.append(weakref.ref(held))
        return held

    # By module and not by block: where the last block runs at one position, its parts are called one by one.
    handles = [module.register_forward_pre_hook(enter) for module in backbone.model.modules()]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            loss = step()
    finally:
        for handle in handles:
            handle.remove()
    # Only tensors that are still held: an unused result is dropped with its nodes.
    held = [one for one in (reference() for reference in saved) if one is not None]
    del loss
    found: dict[int, tuple[int, int]] = {}
    for one in held:
        storage = one.tensor.untyped_storage()
        if storage._cdata not in weights:
            found.setdefault(storage._cdata, (one.place, storage.nbytes()))
    return list(found.values())


def _loss(forward: Callable[[Tensor], Tensor], step: Step, length: int) -> Tensor:
    """The loss of a batch of texts that are all ``length`` tokens long."""
    ids = torch.zeros(step.size, length, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step.low):
        logits = forward(ids)
    if step.head == "none":
        return logits.float().sum()
    # Losses are computed in fp32, outside autocast.
    wide = logits.float().reshape(-1, logits.shape[-1])
    return nn.functional.cross_entropy(wide, torch.zeros(len(wide), dtype=torch.long))


def _theirs(backbone: Backbone, ids: Tensor) -> Tensor:
    """The loss of the model's own forward."""
    two = {"decoder_input_ids": ids} if len(backbone.shape.stacks) > 1 else {}
    return backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **two)[0]


def _ours(attached: Attached, step: Step, ids: Tensor) -> Tensor:
    """The loss of the top, from hidden states as a cache gives them."""
    resolved, mask = attached.resolved, torch.ones_like(ids, dtype=torch.bool)
    places = torch.full((len(ids), 1), ids.shape[1] - 1) if step.one and attached.backbone.head.speaks else None
    question = Question(places, targets=ids if len(resolved.shape.stacks) > 1 else None, ids=ids)
    if resolved.trains_embeddings:
        return Top(attached)(Trunk(attached)(ids, mask), mask, question)
    width = 1 if step.one and attached.all_in_trunk else ids.shape[1]
    dtype = torch.bfloat16 if step.low else torch.float32
    values = resolved.shape.width(resolved.frozen_depth)
    return Top(attached)(torch.zeros(len(ids), width, values, dtype=dtype), mask, question)


def _storages(parts: Weights) -> set[int]:
    """The storages of weights."""
    tensors = [
        tensor
        for part in parts
        for tensor in ((*part.parameters(), *part.buffers()) if isinstance(part, nn.Module) else (part,))
    ]
    return {tensor.untyped_storage()._cdata for tensor in tensors}
