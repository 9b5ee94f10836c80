"""Two ways back to an ordinary model: fold what was trained into the base weights, or take it off again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratatune.errors import PlanError
from stratatune.methods.beside import unwrap
from stratatune.methods.registry import INSERTIONS, METHODS
from stratatune.model import biases
from stratatune.model.strata import Strata
from stratatune.model.tuned import Tuned, insertion_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge(model: PreTrainedModel, *, in_memory: bool = False) -> PreTrainedModel:
    """Fold every trained change into the base weights, in place.

    ``delta_bias`` gives linears a bias that had none. Where the config has a field for that (a Llama's
    ``attention_bias`` and ``mlp_bias``), it is set, and every other linear that it gives a bias gets zeros.

    Args:
        model: one that ``apply`` or ``load`` returned.
        in_memory: fold in also the biases for which the config has no field. The model then computes the same here,
            but ``from_pretrained`` would drop them from a saved one, and a new plan should start from the base.

    Returns:
        The same model, of its own class again, without hooks or modules of ours: ``save_pretrained`` saves all of it,
        and ``from_pretrained`` needs nothing of this package.

    Raises:
        PlanError: names each treatment that no weight of the base can hold, and why; the model is as it was.
    """
    strata = _strata(model)
    refused, lost = _refusals(strata), {} if in_memory else biases.unsaved(strata)
    if refused or lost:
        reasons = "; ".join(f"{treatment}: {reason}" for treatment, reason in {**lost, **refused}.items())
        keep = "save_pretrained keeps it as an adapter beside the base"
        hint = keep if refused else f"{keep}; merge(model, in_memory=True) folds it in for this process alone"
        raise PlanError(f"this plan cannot be merged: {reasons}", hint)
    fields = biases.fields_for(strata)
    biases.make(strata)
    plain = _plain(model, strata, fold=True)
    if fields:
        biases.settle(plain, fields)
    return plain


def remove(model: PreTrainedModel) -> PreTrainedModel:
    """Take every treatment off again, in place; the base weights were never touched, so they are the same bit for bit.

    A task's own new output layer stays as it was trained: no base model brings one.

    Returns:
        The same model, of its own class again.

    Raises:
        PlanError: names what trained weights of the base itself, which are gone; the model is as it was.
    """
    strata = _strata(model)
    changed = _changed(strata)
    if changed:
        raise PlanError(
            f"this plan cannot be taken off: it trained weights of the base itself ({', '.join(changed)})",
            "load the base model again; delta_bias in place of bitfit leaves the base as it is",
        )
    return _plain(model, strata, fold=False)


def take_off(model: Tuned) -> PreTrainedModel:
    """As :func:`remove`, but what trained of the base's own weights stays as it was trained."""
    return _plain(model, model.strata, fold=False)


def _strata(model: PreTrainedModel) -> Strata:
    if not isinstance(model, Tuned):
        raise PlanError("this model has no plan", "give one that apply or load returned")
    return model.strata


def _refusals(strata: Strata) -> dict[str, str]:
    """Treatment, as text -> why it cannot be merged; of equal ones in many blocks the first."""
    found: dict[str, str] = {}
    for number, treatments in enumerate(strata.resolved.blocks):
        site = strata.backbone.site(number)
        for one in treatments:
            reason = METHODS[one.kind].refuses_merge(one, site)
            if reason:
                found.setdefault(str(one), reason)
    for _, one in strata.resolved.insertions:
        found.setdefault(str(one), INSERTIONS[one.kind].refuses_merge)
    return found


def _changed(strata: Strata) -> list[str]:
    """What of the plan trains the base model's own weights, as text."""
    plan = strata.resolved.plan
    changed = {str(one): None for block in strata.resolved.blocks for one in block if not one.adds}
    if plan.embeddings is not None:
        changed["embeddings"] = None
    if strata.resolved.head_trainable(strata.backbone.output):
        changed[str(plan.head)] = None
    return list(changed)


def _plain(model: PreTrainedModel, strata: Strata, *, fold: bool) -> PreTrainedModel:
    """Put the model's own modules back everywhere, drop hooks and insertions, and give it its own class again."""
    blocks = strata.backbone.blocks
    for number in strata.resolved.shape.owners:
        site = strata.backbone.site(number)
        for one in strata.resolved.blocks[number]:
            METHODS[one.kind].detach(one, site)
        unwrap(site, fold=fold)
    strata.backbone.put_together()
    for depth, one in strata.resolved.insertions:
        delattr(blocks[min(depth, len(blocks) - 1)], insertion_name(one.kind, depth))
    for handle in strata.hooks:
        handle.remove()
    training = model.training
    model.__class__ = type(model).__bases__[1]
    del model.strata  # pyright: ignore[reportAttributeAccessIssue]
    model.requires_grad_(True)
    return model.train(training)
