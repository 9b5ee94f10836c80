"""Turn a LoRA folder of peft into a plan, and fill its tensors into the model that has the plan.

A module that LoRA adapts is a role of a block; a module that trained whole (``modules_to_save``) is ``full`` on a role,
a part of the head, or the embeddings. ``bias="all"`` saves every bias of the model: those that are still the base's own
did not train, and are not part of the plan, so that its frozen depth is that of the changed parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stratatune.errors import ModelError
from stratatune.methods.dora import DoraLinear
from stratatune.methods.experts import MATRICES
from stratatune.methods.lora import LoraExperts, LoraLinear
from stratatune.methods.site import taken_apart
from stratatune.methods.wrapping import innermost, standing
from stratatune.model.attach import Tuned, apply
from stratatune.model.backbone import Backbone
from stratatune.model.peft_folder import LowRank, PeftFolder
from stratatune.model.twins import part
from stratatune.plan import ROLES, BitFit, Dora, Full, Head, Lora, MethodConfig, Plan, Stratum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HINT = "give the base model that it was trained on: load(FOLDER, base=MODEL)"


@dataclass(frozen=True)
class _Role:
    """The place of a module of the plain model: its blocks (one, unless they share weights), and its roles."""

    blocks: tuple[int, ...]
    roles: tuple[str, ...]
    transposed: bool
    """Whether its weight is [in, out] (GPT-2's ``Conv1D``)."""
    biased: bool
    """Whether it has a bias."""


@dataclass
class _Draft:
    """A plan while it is being read: block -> role -> the method on it, and block -> the roles trained whole."""

    low: dict[int, dict[str, MethodConfig]] = field(default_factory=dict)
    whole: dict[int, set[str]] = field(default_factory=dict)
    biases: dict[int, set[str]] = field(default_factory=dict)
    head: set[str] = field(default_factory=set)
    embeddings: bool = False
    new: list[str] = field(default_factory=list)


def adapted(model: PreTrainedModel, found: PeftFolder, *, apart: bool = False) -> Tuned:
    """Give ``model`` the plan and the trained tensors of a peft folder, in place and in eval mode.

    ``apart``: the model's tensors are others' too, so those that trained get their own memory.

    Raises:
        ModelError: the folder belongs to another model, or trained a part that no plan can.
        PlanError: the plan breaks a promise of this package.
    """
    backbone = Backbone(model)
    places = _places(backbone)
    draft = _draft(backbone, places, found)
    plan = _plan(backbone, places, draft)
    # The plan is made first and applied like any other, so all its checks hold here, too.
    tuned = apply(model, plan, also_train=draft.new)
    if apart:
        part(tuned.attached)
    _fill(tuned, places, found)
    return tuned.eval()


def _places(backbone: Backbone) -> dict[str, _Role]:
    """The place in the blocks of each path in the plain model."""
    names = {id(module): name for name, module in backbone.model.named_modules()}
    found: dict[str, _Role] = {}
    for number, block in enumerate(backbone.blocks):
        fused = backbone.body.row_at(number).fused
        paths = dict(fused)
        inside = {role for roles in fused.values() for role in roles}
        for role, path in backbone.stack(number).roles.items():
            if role not in inside and path not in paths:
                paths[path] = (role,)
        for path, roles in paths.items():
            try:
                module = block.get_submodule(path)
            except AttributeError:  # a block may lack a norm
                continue
            name = f"{names[id(block)]}.{path}"
            blocks = (*found[name].blocks, number) if name in found else (number,)
            found[name] = _Role(blocks, roles, isinstance(module, Conv1D), getattr(module, "bias", None) is not None)
    return found


def _draft(backbone: Backbone, places: Mapping[str, _Role], found: PeftFolder) -> _Draft:
    draft = _Draft()
    for module, low in found.low_rank.items():
        place = places.get(module)
        if place is None:
            raise ModelError(f"LoRA at {module!r}, which is not a linear of a block here", _HINT)
        _check_size(backbone, place, module, low)
        method = _method(found, module, low)
        for number in place.blocks:
            for role in place.roles:
                draft.low.setdefault(number, {})[role] = method
    for module, parts in found.of_experts.items():
        place = places.get(module)
        if place is None or place.roles != ("experts",):
            raise ModelError(f"LoRA at tensors of {module!r}, which are not the experts of a block here", _HINT)
        method = _on_experts(found, module, _by_matrix(backbone, place, module, parts))
        for number in place.blocks:
            draft.low.setdefault(number, {})["experts"] = method
    # With duplicates: peft saves a tied weight under either of its names.
    values = dict(backbone.model.named_parameters(remove_duplicate=False))
    for name, tensor in found.own.items():
        if name not in values or values[name].shape != tensor.shape:
            raise ModelError(f"{name!r} was trained, and a {type(backbone.model).__name__} has none of its size", _HINT)
        module, _, kind = name.rpartition(".")
        if kind == "bias" and f"{module}.weight" not in found.own and _same(values[name], tensor):
            continue  # bias="all" saves those too that did not train
        _note(draft, backbone, places.get(module), name, found)
    return draft


def _by_matrix(backbone: Backbone, place: _Role, module: str, parts: Sequence[LowRank]) -> dict[str, LowRank]:
    """A [E, R, in] and B [E, out, R] by the experts' tensor that they adapt, which their sizes say."""
    experts = backbone.shape.of_block(place.blocks[0]).routed["experts"]
    names, found = dict(zip(experts.matrices, MATRICES, strict=True)), dict[str, LowRank]()
    for low in parts:
        ends = low.a.shape[1], low.b.shape[0]
        if ends not in names or low.rank % experts.count:
            sizes = " or ".join(f"{ins} to {outs}" for ins, outs in experts.matrices)
            raise ModelError(
                f"LoRA at {module!r} is of rank {low.rank} and {ends[0]} to {ends[1]} values, and here "
                f"{experts.count} experts have {sizes}",
                _HINT,
            )
        b = low.b.reshape(ends[1], -1, experts.count).permute(2, 0, 1)
        found[names[ends]] = LowRank(low.a.reshape(experts.count, -1, ends[0]), b)
    return found


def _on_experts(found: PeftFolder, module: str, parts: Mapping[str, LowRank]) -> MethodConfig:
    """The method of a block's experts; a tensor without LoRA gets one that changes nothing."""
    ranks = {name: low.a.shape[1] for name, low in parts.items()}
    scales = {found.config.scale(f"{module}.{name}", rank) for name, rank in ranks.items()}
    if len(set(ranks.values())) > 1 or len(scales) > 1:
        raise ModelError(
            f"LoRA at {module!r} has ranks {[*ranks.values()]} and factors {sorted(scales)} at its tensors",
            "a plan has one rank and alpha for the experts of a block",
        )
    rank = next(iter(ranks.values()))
    return Lora(rank=rank, alpha=scales.pop() * rank, dropout=float(found.config.lora_dropout))


def _check_size(backbone: Backbone, place: _Role, module: str, low: LowRank) -> None:
    """Refuse matrices of another linear's size (ModelError)."""
    weight = backbone.model.get_parameter(f"{module}.weight")
    outs, ins = reversed(weight.shape) if place.transposed else weight.shape
    found = low.a.shape[1], low.b.shape[0]
    if found != (ins, outs):
        raise ModelError(
            f"LoRA at {module!r} is of {found[0]} to {found[1]} values, and here it has {ins} to {outs}", _HINT
        )


def _same(was: Tensor, now: Tensor) -> bool:
    return torch.equal(was.detach().float().cpu(), now.float())


def _method(found: PeftFolder, module: str, low: LowRank) -> MethodConfig:
    options: dict[str, Any] = {
        "rank": low.rank,
        # Scaled so that a plan's alpha / R is the same factor, also under rank stabilisation.
        "alpha": found.config.scale(module, low.rank) * low.rank,
        "dropout": float(found.config.lora_dropout),
    }
    return Lora(**options) if low.magnitude is None else Dora(**options)


def _note(draft: _Draft, backbone: Backbone, place: _Role | None, name: str, found: PeftFolder) -> None:
    """Note one of the model's own parameters that trained in the draft."""
    module, _, kind = name.rpartition(".")
    if place is not None:
        into = draft.biases if kind == "bias" and f"{module}.weight" not in found.own else draft.whole
        for number in place.blocks:
            into.setdefault(number, set()).update(place.roles)
        return
    parameter = backbone.model.get_parameter(name)
    if any(parameter is one for one in backbone.output_layer()):
        return  # it always trains
    named = _head_part(backbone, module, kind)
    inside = any(parameter is one for outer in backbone.body.embedding_modules() for one in outer.parameters())
    if named == "decoder" and inside:  # tied: peft saved a copy of the embeddings, or trained one
        table = next((one for other, one in found.own.items() if _is_table(backbone, other)), parameter)
        if not _same(table, found.own[name]):
            draft.head |= {"decoder", "untie"}
    elif named == "bias" and _same(parameter, found.own[name]):
        return  # it came with the decoder's weight
    elif named:
        draft.head.add(named)
    elif inside:
        draft.embeddings = True
    else:
        draft.new.append(name)


def _is_table(backbone: Backbone, name: str) -> bool:
    words: Any = backbone.model.get_input_embeddings()
    decoder: Any = backbone.model.get_output_embeddings()
    own = next((path for path, module in backbone.model.named_modules() if module is words), "")
    return decoder is not words and name == f"{own}.weight"


def _head_part(backbone: Backbone, module: str, kind: str) -> str:
    """The part of the head that a module is, as ``head(...)`` names it; empty where it is none."""
    site = backbone.head_site()
    parts = [part for part, path in site.roles.items() if path == module]
    if "decoder" in parts or parts == ["bias"]:
        return "bias" if kind == "bias" else "decoder" if "decoder" in parts else ""
    return next(iter(parts), "")


def _plan(backbone: Backbone, places: Mapping[str, _Role], draft: _Draft) -> Plan:
    border, both = backbone.border, len(backbone.row.stacks) > 1
    strata: list[Stratum] = []
    for stack, start, end in (("enc", 0, border), ("dec", border, backbone.shape.blocks)):
        for first, last, methods in _runs(
            [_methods(draft, _roles_of(places, number), number) for number in range(start, end)]
        ):
            if methods:
                named: Literal["", "enc", "dec"] = stack if both else ""  # pyright: ignore[reportAssignmentType]
                strata.append(Stratum(stack=named, layers=f"{first}:{last}", methods=methods))
    mlm = tuple(part for part in draft.head if part in ("dense", "norm", "bias", "decoder"))
    switches: dict[str, Any] = {name: name in draft.head for name in ("pooler", "final_norm", "untie")}
    embeddings = Full() if draft.embeddings else None
    return Plan(strata=tuple(strata), embeddings=embeddings, head=Head(mlm=mlm, **switches))


def _roles_of(places: Mapping[str, _Role], number: int) -> dict[str, bool]:
    """The roles of a block, and whether each has a bias."""
    here = (place for place in places.values() if number in place.blocks)
    return {role: place.biased for place in here for role in place.roles}


def _methods(draft: _Draft, roles: Mapping[str, bool], number: int) -> tuple[MethodConfig, ...]:
    """The methods of a block: one for all roles that have it with the same options."""
    alike: dict[str, tuple[MethodConfig, list[str]]] = {}
    for role, method in draft.low.get(number, {}).items():
        alike.setdefault(str(method), (method, []))[1].append(role)
    found = [method.model_validate({**method.model_dump(), "on": on}) for method, on in alike.values()]
    biased = {role for role, has in roles.items() if has}
    for kind, on, every in (
        (Full, draft.whole.get(number), set(roles)),
        (BitFit, draft.biases.get(number), biased),
    ):
        if on:
            found.append(kind(on=("all",) if on >= every else tuple(role for role in ROLES if role in on)))
    return tuple(found)


def _runs(blocks: list[tuple[MethodConfig, ...]]) -> Iterator[tuple[int, int, tuple[MethodConfig, ...]]]:
    """Runs of blocks with the same methods, as slices."""
    start = 0
    for number in range(1, len(blocks) + 1):
        if number == len(blocks) or blocks[number] != blocks[start]:
            yield start, number, blocks[start]
            start = number


@torch.no_grad()
def _fill(model: Tuned, places: Mapping[str, _Role], found: PeftFolder) -> None:
    """Put the tensors of the folder where the plan trains them."""
    backbone = model.attached.backbone
    for name, low in found.low_rank.items():
        place = places[name]
        # One LoRA over GPT-2's c_attn: the roles share A, and each has its rows of B.
        rows = _rows(backbone, place, low.b)
        site = backbone.site(place.blocks[0])
        for role, b in zip(place.roles, rows, strict=True):
            one: Any = next(each for each in standing(site.get(role)) if isinstance(each, LoraLinear | DoraLinear))
            one.a.copy_(low.a)
            one.b.copy_(b)
            if low.magnitude is not None:
                one.magnitude.copy_(low.magnitude)
    for name, parts in found.of_experts.items():
        place = places[name]
        wrappers = standing(backbone.site(place.blocks[0]).get("experts"))
        wrapper: Any = next(each for each in wrappers if isinstance(each, LoraExperts))
        by_matrix = _by_matrix(backbone, place, name, parts)
        for matrix in MATRICES:
            into: Any = wrapper.get_submodule(matrix)
            into.b.zero_()
            if matrix in by_matrix:
                into.a.copy_(by_matrix[matrix].a)
                into.b.copy_(by_matrix[matrix].b)
    trained = {id(parameter) for parameter in model.attached.trained().values()}
    for name, tensor in found.own.items():
        for parameter, value in _parameters(backbone, places, name, tensor):
            if id(parameter) in trained:
                parameter.copy_(value)


def _parameters(
    backbone: Backbone, places: Mapping[str, _Role], name: str, tensor: Tensor
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The parameters that a name of the plain model stands for now, with the values of each."""
    module, _, kind = name.rpartition(".")
    place = places.get(module)
    if place is None:
        yield backbone.model.get_parameter(name), tensor
        return
    site = backbone.site(place.blocks[0])
    owners = [innermost(site.get(role)) for role in place.roles]
    turned = kind == "weight" and place.transposed and not isinstance(owners[0], Conv1D)
    whole = tensor.t() if turned else tensor
    if len({id(owner) for owner in owners}) == 1 and len(owners) > 1:  # no method took it apart
        yield owners[0].get_parameter(kind), tensor
        return
    for owner, rows in zip(owners, _rows(backbone, place, whole), strict=True):
        yield owner.get_parameter(kind), rows


def _rows(backbone: Backbone, place: _Role, tensor: Tensor) -> Sequence[Tensor]:
    """The rows of ``tensor`` [out, ...] for each role of a place."""
    if len(place.roles) == 1:
        return (tensor,)
    shape = backbone.shape.of_block(place.blocks[0])
    by_head = backbone.body.row_at(place.blocks[0]).fused_by_head
    return taken_apart(tensor, [shape.linears[role].outputs for role in place.roles], shape.heads if by_head else 0)
