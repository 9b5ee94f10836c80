"""Write a plan as one stock ``LoraConfig``, in a folder that ``PeftModel.from_pretrained`` reads.

Frozen, BitFit, LoRA (or DoRA) of any ranks and fully trained parts have such a form, in any mix: LoRA's modules by
their full names with ``rank_pattern`` and ``alpha_pattern``, wholly trained modules as ``modules_to_save``, biases by
``bias="all"`` (which keeps those too that did not train, as they are in the base).

A linear of several roles (GPT-2's ``c_attn``) is one module to peft. LoRA on some of its roles is LoRA on all of it, of
the summed rank: A stacked, B block by block, the factors taken into B.

The experts of a block are two tensors of one module: LoRA on them is one of ``target_parameters``, whose A and B are
those of all experts in one matrix.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from stratatune._compat import needs_extra, quieted
from stratatune.exits.units import fold_units
from stratatune.files import write_errors
from stratatune.methods.dora import DoraLinear
from stratatune.methods.experts import MATRICES
from stratatune.methods.lora import LoraExperts, LoraLinear
from stratatune.methods.site import joined
from stratatune.methods.wrapping import standing
from stratatune.model.attach import Tuned
from stratatune.model.attached import Attached
from stratatune.model.merging import take_off
from stratatune.model.packing import is_packed
from stratatune.model.peft_folder import CONFIG, TENSORS
from stratatune.shapes.composite import in_the_whole, part_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PACKED = "the top is packed; load the adapter with load(..., pack=False)"
_CUT = "cut leaves blocks out, and peft would load the adapter onto a base with all of them (merged has fewer)"
_HOLDS = ("bitfit", "lora", "dora", "full")


@dataclass
class _LowRank:
    """The tensors LoRA trained at one linear: A [R, in], B [out, R] with ``factor``, and DoRA's magnitude [out]."""

    a: Tensor
    b: Tensor
    factor: float
    magnitude: Tensor | None = None


@dataclass
class _Form:
    """A plan in peft's terms; modules by their names in the plain model."""

    low_rank: dict[str, _LowRank] = field(default_factory=dict)
    of_experts: dict[str, _LowRank] = field(default_factory=dict)
    """By the names of tensors: A [E, R, in] and B [E, out, R]."""
    whole: dict[str, None] = field(default_factory=dict)
    biases: bool = False


def write(model: Tuned, folder: Path) -> None:
    """Write ``model``'s plan and its trained tensors as a stock peft adapter; the model is used up.

    Raises:
        ResourceError: peft is not installed, or the folder cannot be written.
    """
    with needs_extra("peft", "export --to peft"), quieted("bitsandbytes"):
        import peft
    attached = model.attached
    fold_units(attached)
    parts, use_dora, dropout = _low_ranks(attached), _uses(attached, "dora"), _dropout(attached)
    mixtures = _mixtures(attached)
    plain = take_off(model)
    form = _form(attached, plain, parts)
    form.of_experts = mixtures
    # peft asks transformers by old names, and loads bitsandbytes where it is installed.
    with warnings.catch_warnings(), quieted("bitsandbytes"):
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(
            **_patterns(form),
            lora_dropout=0.0 if mixtures else dropout,  # peft drops nothing that goes into experts
            use_dora=use_dora,
            bias="all" if form.biases else "none",
            modules_to_save=list(form.whole) or None,
            fan_in_fan_out=any(isinstance(plain.get_submodule(name), Conv1D) for name in form.low_rank),
            task_type=attached.backbone.head.peft_task,
            revision=attached.origin.revision or None,
        )
        made: Any = peft.get_peft_model(plain, config)
        _fill(made.base_model.model, form)
        with write_errors(folder):
            made.save_pretrained(str(folder))
            if part_of(attached.origin.config()):
                _name_as_in_the_whole(folder)


def _name_as_in_the_whole(folder: Path) -> None:
    """Rename what was saved for a base whose checkpoint holds other models too, as transformers' class for all has it.

    That is the class that ``AutoModelForCausalLM.from_pretrained(BASE)`` makes.
    """
    path, tensors = folder / CONFIG, folder / TENSORS
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("target_modules", "target_parameters", "modules_to_save"):
        if isinstance(config[name], list):
            config[name] = [in_the_whole(one) for one in config[name]]
    for name in ("rank_pattern", "alpha_pattern"):
        config[name] = {in_the_whole(one): value for one, value in config[name].items()}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    named = {in_the_whole(name): tensor for name, tensor in load_file(tensors).items()}
    save_file(named, tensors, {"format": "pt"})


def refusals(attached: Attached) -> list[str]:
    """The reasons why a plan has no form in stock peft, each once; empty when it has one."""
    resolved, found = attached.resolved, dict[str, None]()
    if is_packed(attached):
        found[_PACKED] = None
    if resolved.cut_to is not None:
        found[_CUT] = None
    for method in (one for block in resolved.blocks for one in block):
        if method.kind not in _HOLDS:
            found[f"{method}: a LoraConfig cannot hold it"] = None
    for _, insertion in resolved.insertions:
        found[f"{insertion}: peft inserts nothing between blocks, and no prompt beside LoRA"] = None
    if _uses(attached, "lora") and _uses(attached, "dora"):
        found["lora beside dora: one LoraConfig is all DoRA or none of it"] = None
    if any(role in _fused(attached, number) for number, _, role in _sets(attached, "dora")):
        found["dora: in this model one linear plays several roles, and peft takes it whole"] = None
    if resolved.trains_embeddings and len(attached.backbone.row.stacks) > 1:
        found["embeddings full: two stacks share them, and peft trains a copy for one"] = None
    for number, path in _mixed(attached):
        found[f"block {number}: lora and full on roles of {path}, which is one module"] = None
    return list(found)


def _fused(attached: Attached, number: int) -> set[str]:
    """The roles that one linear of a block plays together."""
    return {role for roles in attached.backbone.body.row_at(number).fused.values() for role in roles}


def _tied(attached: Attached) -> bool:
    """Whether the language-model head shares the weights of the embeddings."""
    resolved = attached.resolved
    return resolved.shape.decoder_tied and not resolved.unties and attached.backbone.head.speaks


def _uses(attached: Attached, kind: str) -> bool:
    return any(one.kind == kind for block in attached.resolved.blocks for one in block)


def _dropout(attached: Attached) -> float:
    """LoRA's dropout, if the plan has one for all; it does not affect the trained tensors."""
    found = {one.dropout for block in attached.resolved.blocks for one in block if one.kind in ("lora", "dora")}  # pyright: ignore[reportAttributeAccessIssue]
    return found.pop() if len(found) == 1 else 0.0


def _sets(attached: Attached, *kinds: str) -> Iterator[tuple[int, Any, str]]:
    """Every (block, method, role) of these kinds, one block for each set of weights."""
    resolved = attached.resolved
    for number in resolved.shape.owners:
        for one in resolved.blocks[number]:
            if one.kind in kinds:
                method: Any = one
                yield from ((number, method, role) for role in method.roles_in(resolved.shape.of_block(number)))


def _mixed(attached: Attached) -> list[tuple[int, str]]:
    """Linears of several roles, one of which has LoRA while another trains whole."""
    low = {(number, _path(attached, number, role)) for number, _, role in _sets(attached, "lora", "dora")}
    return sorted(low & {(number, _path(attached, number, role)) for number, _, role in _sets(attached, "full")})


def _path(attached: Attached, number: int, role: str) -> str:
    """The path of ``role`` in block ``number`` of the plain model; if one linear plays several roles, that linear's."""
    return attached.backbone.stack(number).roles[role]


def _low_ranks(attached: Attached) -> dict[tuple[int, str], dict[str, _LowRank]]:
    """The tensors that LoRA trained, by (block, path) and role, while it is in the model."""
    found: dict[tuple[int, str], dict[str, _LowRank]] = {}
    for number, _, role in _sets(attached, "lora", "dora"):
        if role == "experts":
            continue
        one = next(
            m for m in standing(attached.backbone.site(number).get(role)) if isinstance(m, LoraLinear | DoraLinear)
        )
        magnitude = one.magnitude if isinstance(one, DoraLinear) else None
        found.setdefault((number, _path(attached, number, role)), {})[role] = _LowRank(
            one.a, one.b, one.scale, magnitude
        )
    return found


def _mixtures(attached: Attached) -> dict[str, _LowRank]:
    """The tensors that LoRA trained at experts, by the name of what it adapts in the plain model."""
    names = {id(module): name for name, module in attached.backbone.model.named_modules()}
    found: dict[str, _LowRank] = {}
    for number, _, role in _sets(attached, "lora"):
        if role != "experts":
            continue
        block, path = attached.backbone.blocks[number], _path(attached, number, role)
        one = next(m for m in standing(attached.backbone.site(number).get(role)) if isinstance(m, LoraExperts))
        for matrix in MATRICES:
            low: Any = one.get_submodule(matrix)
            found[f"{names[id(block)]}.{path}.{matrix}"] = _LowRank(low.a, low.b, one.scale)
    return found


def _form(attached: Attached, plain: PreTrainedModel, parts: dict[tuple[int, str], dict[str, _LowRank]]) -> _Form:
    names = {id(module): name for name, module in plain.named_modules()}
    backbone, head, form = attached.backbone, attached.resolved.plan.head, _Form()

    def place(number: int, role: str) -> str:
        return f"{names[id(backbone.blocks[number])]}.{_path(attached, number, role)}"

    for (number, path), by_role in parts.items():
        fused = backbone.body.row_at(number).fused.get(path)
        shape, by_head = backbone.shape.of_block(number), backbone.body.row_at(number).fused_by_head
        outputs = {role: shape.linears[role].outputs for role in fused or by_role}
        low = _stacked(by_role, outputs, shape.heads if by_head else 0)
        form.low_rank[f"{names[id(backbone.blocks[number])]}.{path}"] = low
    form.whole |= {place(number, role): None for number, _, role in _sets(attached, "full")}
    form.biases = _uses(attached, "bitfit") or "bias" in head.mlm
    site = backbone.head_site()
    wanted = [part for part in head.mlm if part != "bias"]
    wanted += [part for part in ("pooler", "final_norm") if getattr(head, part)]
    form.whole |= {site.roles[part]: None for part in wanted if part in site.roles}
    if attached.resolved.trains_embeddings:
        form.whole |= {names[id(module)]: None for module in backbone.body.embedding_modules()}
        if _tied(attached):  # peft trains copies of modules, so modules that share their weights must be copies, too
            form.whole[site.roles["decoder"]] = None
    form.whole |= dict.fromkeys(backbone.head.new_layers)
    form.whole |= {name.rpartition(".")[0]: None for name in attached.also_train}
    # peft saves a copy of each module, so one inside another would be saved twice, and found by neither name.
    form.whole = {
        name: tensor
        for name, tensor in form.whole.items()
        if not any(name.startswith(f"{other}.") for other in form.whole)
    }
    return form


def _stacked(parts: dict[str, _LowRank], outputs: dict[str, int], heads: int) -> _LowRank:
    """Turn LoRA on some roles of a linear into LoRA on all its ``outputs``; ``heads``: as for ``joined``."""
    first = next(iter(parts.values()))
    if len(outputs) == 1:
        return first
    rows = {
        role: [
            part.b.detach() * part.factor if role == other else part.b.new_zeros(outs, part.a.shape[0])
            for other, part in parts.items()
        ]
        for role, outs in outputs.items()
    }
    b = joined([torch.cat(across, dim=1) for across in rows.values()], heads, 0)
    return _LowRank(torch.cat([part.a for part in parts.values()]), b, 1.0)


def _patterns(form: _Form) -> dict[str, Any]:
    """The modules of a ``LoraConfig`` with rank and alpha of each; without LoRA, peft's own word for no module."""
    if not form.low_rank and not form.of_experts:
        from peft.utils.constants import DUMMY_TARGET_MODULES

        return {"target_modules": DUMMY_TARGET_MODULES}
    ranks = {name: one.a.shape[0] for name, one in form.low_rank.items()}
    ranks |= {name: one.a.shape[1] for name, one in form.of_experts.items()}
    parts = {**form.low_rank, **form.of_experts}
    alphas = {name: one.factor * ranks[name] for name, one in parts.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return {
        "target_modules": list(form.low_rank),
        "target_parameters": list(form.of_experts) or None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
    }


@torch.no_grad()
def _fill(model: nn.Module, form: _Form) -> None:
    """Put A, B and the magnitude into peft's modules; the base's own weights are the trained ones already."""
    for name, one in form.low_rank.items():
        module: Any = model.get_submodule(name)
        module.lora_A["default"].weight.copy_(one.a)
        module.lora_B["default"].weight.copy_(one.b)
        if one.magnitude is not None:
            module.lora_magnitude_vector["default"].weight.copy_(one.magnitude)
    for name, one in form.of_experts.items():
        path, _, matrix = name.rpartition(".")
        wrapper: Any = model.get_submodule(path)
        while wrapper.parameter_name != matrix:  # one inside the other
            wrapper = wrapper.base_layer
        wrapper.lora_A["default"].weight.copy_(one.a.flatten(0, 1))
        wrapper.lora_B["default"].weight.copy_(one.b.permute(1, 2, 0).flatten(1))
