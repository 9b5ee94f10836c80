"""Begin with the trained weights of another run: its adapter is read and checked, and its tensors are put in.

Only tensors that train here too are taken: by name and shape, and of the same method. The rows of a task's own output
layer belong to labels: they are taken where the objective and the labels are the same, in the order of these here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stratatune.errors import ConfigError, PlanError, UserError, counted, shown
from stratatune.hub import fetched
from stratatune.model.artefact import adapter_in, check_encoder
from stratatune.model.checksums import verify
from stratatune.model.fingerprint import Fingerprint, hash_of
from stratatune.model.makers import Makers
from stratatune.model.names import under_another_head
from stratatune.model.peft_folder import is_peft
from stratatune.model.saving import RECORD, read_record, read_tensors
from stratatune.model.tokenizers import check_reading
from stratatune.outside import path_exists, wrong_path
from stratatune.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attached import Attached
    from stratatune.model.backbone import Backbone
    from stratatune.plan import Resolved, Shape

_CONFIG = "config.yaml"
_SAME_BASE = "give the base model of that run with --model, or leave out --model"


@dataclass(frozen=True)
class Start:
    """An adapter that a run starts from.

    Attributes:
        name: the run, as the user wrote it.
        record: its ``adapter.json``.
        tensors: its trained tensors by their names in the model.
        notices: warnings about the folder.
    """

    name: str
    record: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    notices: Sequence[str] = ()

    @classmethod
    def read(cls, name: str) -> Start:
        """Read the adapter of a run, its checksums included.

        Raises:
            ConfigError: as :func:`record_of`, or it is damaged.
        """
        folder, record = record_of(name)
        try:
            tensors = read_tensors(folder)
            return cls(name, record, tensors, verify(record, tensors, folder))
        except UserError as error:
            raise refused(name, error.message, error.hint) from error

    @cached_property
    def digest(self) -> str:
        """The hash of its tensors."""
        written = (self.record.get("checksums") or {}).get("tensors")
        return written or hash_of(sorted(self.tensors.items()))

    def check_base(
        self, backbone: Backbone, resolved: Resolved, whole: Shape, tokenizer: PreTrainedTokenizerBase
    ) -> Fingerprint:
        """Refuse another base model than the one that the adapter was trained on; call it before anything is attached.

        Args:
            backbone: the base of this run, cut as its plan says.
            resolved: the plan of this run.
            whole: the sizes of the base before the cut.
            tokenizer: the base's.

        Returns:
            The fingerprint of the base.

        Raises:
            ConfigError: its weights, a setting of its config or its tokenizer differ, or the plans cut it at different
                depths.
        """
        saved, here = self.record["base"], backbone.model.config._name_or_path
        if saved["model_type"] != backbone.model.config.model_type:
            kinds = f"{saved['model_type']}, and {here!r} is a {backbone.model.config.model_type}"
            raise refused(self.name, f"it was trained on {saved['name']!r}, a {kinds}", _SAME_BASE)
        plan = Plan.from_data(self.record["plan"])
        try:
            cut = plan.resolve(whole).cut_to
        except PlanError as error:
            raise refused(self.name, f"its plan does not fit {here!r}: {error.message}", _SAME_BASE) from error
        if cut != resolved.cut_to:
            there, now = (f"{blocks or whole.blocks} of {whole.blocks} blocks" for blocks in (cut, resolved.cut_to))
            raise refused(self.name, f"its plan leaves {there}, this run's {now}", "leave out --plan")
        try:
            found = check_encoder(backbone, dict(self.record)) if "weights" not in saved else Fingerprint.of(backbone)
            if self.record.get("tokenizer"):
                check_reading(self.record["tokenizer"], tokenizer, here)
        except UserError as error:
            raise refused(self.name, error.message, _SAME_BASE) from error
        if odd := found.differing(saved.get("settings") or {}):
            values = f"{odd[0]} was {saved['settings'][odd[0]]}, and is {found.settings[odd[0]]} in {here!r}"
            raise refused(self.name, f"it was trained on {saved['name']!r}: {values}", _SAME_BASE)
        if found.weights != saved.get("weights", found.weights):
            raise refused(self.name, f"it was trained on {saved['name']!r}; {here!r} has other weights", _SAME_BASE)
        return found


def record_of(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a run's adapter, and its record.

    Raises:
        ConfigError: no folder, no adapter in it, an unfinished run, an adapter of peft, or a damaged record.
    """
    if wrong := wrong_path(name):
        raise refused(name, wrong)
    try:
        run = fetched(name)
        if not path_exists(run):
            raise refused(name, "there is no such folder", "give the folder of a finished run, or of its adapter")
        folder = adapter_in(run)
        if is_peft(folder):
            own = f"stratatune export {shlex.quote(str(folder))} --to native --out own"
            raise refused(name, "it holds an adapter of peft", f"convert it once with `{own}`, and start from own")
        if path_exists(run / _CONFIG) and folder == run and not path_exists(folder / RECORD):
            raise refused(name, "the run in it is not finished", "finish it with the same command and --resume")
        return folder, read_record(folder)
    except ConfigError:
        raise
    except UserError as error:
        raise refused(name, error.message, error.hint) from error


def refused(name: str, why: str, fix: str = "") -> ConfigError:
    """The error of a run that cannot start from ``name``: one line, with the fix in it."""
    return ConfigError([f"start_from: {shown(name)}; {'; '.join(filter(None, (why, fix)))}"])


@dataclass(frozen=True)
class Taken:
    """What a run took over.

    Attributes:
        line: what was taken, and what not, in one line.
        complete: whether everything was, and nothing begins new.
        output_layer: whether the task's own output layer was among it.
        names: the trained tensors that it took.
    """

    line: str
    complete: bool
    output_layer: bool
    names: frozenset[str] = frozenset()


def take(attached: Attached, start: Start, objective: str, labels: Sequence[str]) -> Taken:
    """Put the tensors of another run into a model whose plan is attached.

    Args:
        attached: the model's; its trained tensors have their own memory.
        start: the other run.
        objective: the name of this run's objective.
        labels: its classes in the order of the logits.

    Raises:
        ConfigError: the two have no trained tensor in common, or the frozen parts of their heads differ.
    """
    trained = attached.trained()
    tensors = _named_as(trained, attached, start.tensors)
    _same_head(attached, start)
    layer = {id(one) for one in attached.backbone.output_layer()}
    outputs = {name for name, one in trained.items() if id(one) in layer}
    order, why = _order(attached, start.record, objective, labels) if outputs else (None, "")
    alike = {name for name, one in trained.items() if name in tensors and tensors[name].shape == one.shape}
    made = Makers(attached, Plan.from_data(start.record["plan"]).resolve(attached.resolved.whole))
    factors = {name: made.factor(name, trained[name]) for name in alike - outputs}
    factors |= {} if why else dict.fromkeys(alike & outputs, 1.0)
    found = {name: factor for name in trained if (factor := factors.get(name)) is not None}
    differing = f"the methods differ: {', '.join(made.differing)}" if made.differing else ""
    if not found:
        there, here = start.record["plan"], str(attached.resolved.plan)
        problem = why or differing or f"it trained {there}, and nothing of that trains in {here}"
        raise refused(start.name, f"nothing of it can be taken: {problem}", "leave out --plan" if not why else "")
    last = attached.backbone.output_linear()
    rows = set[int]() if last is None or order is None else {id(one) for one in last.parameters()}
    for name, factor in found.items():
        values = tensors[name] if factor == 1 else tensors[name] * factor
        # In place: the optimiser groups, the hooks and tied modules all hold this very parameter.
        trained[name].data.copy_(values[torch.tensor(order)] if id(trained[name]) in rows else values)
    new = [name for name in trained if name not in found and not (why and name in outputs)]
    left = [name for name in tensors if name not in alike and name not in outputs]
    said = [
        f"{len(found)} of {counted(len(trained), 'trained tensor')} begin{'s' * (len(found) == 1)} as in {start.name}",
        *(f"{note}, so its change is rescaled" for note in made.rescaled),
        f"the output layer begins new: {why}" if why else "",
        "its output layer has the same labels in another order, so its rows are reordered" if order else "",
        f"{counted(len(new), 'tensor begins', 'tensors begin')} new, such as {new[0]}" if new else "",
        f"{_left_out(len(left))}, such as {left[0]}" if left else "",
        differing,
    ]
    complete = len(found) == len(trained) and not left and not order and not made.rescaled
    return Taken("; ".join(filter(None, said)), complete, bool(outputs) and outputs <= {*found}, frozenset(found))


def _named_as(trained: Mapping[str, Tensor], attached: Attached, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of another run by their names in this model, whose head may be another one."""
    prefix = f"{attached.backbone.model.base_model_prefix}."
    return {under_another_head(name, prefix, trained) or name: one for name, one in tensors.items()}


def _left_out(count: int) -> str:
    said = "does not train here and is" if count == 1 else "do not train here and are"
    return f"{counted(count, 'tensor')} of it {said} left out"


def _same_head(attached: Attached, start: Start) -> None:
    """Refuse a base whose head has other frozen weights, where both runs train the same parts of it."""
    record = start.record
    alike = record["output"] == attached.backbone.head.name and attached.trained().keys() == start.tensors.keys()
    if alike and record["base"]["head"] != attached.head_hash:
        here = attached.backbone.model.config._name_or_path
        raise refused(
            start.name, f"it was trained on {record['base']['name']!r}; {here!r} has another head", _SAME_BASE
        )


def _order(
    attached: Attached, record: Mapping[str, Any], objective: str, labels: Sequence[str]
) -> tuple[list[int] | None, str]:
    """The rows of the saved output layer in the order of the labels here, and why it cannot be taken.

    Both are empty where it is taken as it is.
    """
    spec = record["reading"]
    theirs: list[str] = list((spec.get("labels") if spec else record.get("label_names")) or ())
    ours = list(labels)
    if spec and spec.get("objective") != objective:
        return None, f"it learnt {spec.get('objective')}, and this run learns {objective}"
    if record["output"] != attached.backbone.head.name:
        return None, f"it has the head {record['output']}, and this run {attached.backbone.head.name}"
    if theirs == ours:
        return None, ""
    last = attached.backbone.output_linear()
    alike = sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours)
    if alike and last is not None and last.out_features == len(ours):
        return [theirs.index(label) for label in ours], ""
    there, here = (shown(", ".join(names)) if names else "none" for names in (theirs, ours))
    return None, f"its labels are {there}, and here {here}"
