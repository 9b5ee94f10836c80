"""Two ways back to an ordinary model: fold the trained changes into the base weights, or remove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratatune.errors import PlanError
from stratatune.methods.registry import INSERTIONS, METHODS
from stratatune.methods.wrapping import unwrap
from stratatune.model import biases
from stratatune.model.attach import Tuned, insertion_name, own_class, tuned
from stratatune.model.attached import Attached
from stratatune.model.masters import round_masters
from stratatune.model.packing import is_packed

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
        The same model, again of its original class, without hooks or modules of ours. ``save_pretrained`` saves all of
        it, and ``from_pretrained`` needs nothing of this package.

    Raises:
        PlanError: names each method that no weight of the base can hold, and why; the model is as it was.
    """
    attached = tuned(model).attached
    # Everything that can be refused is checked before the first weight changes: a fold cannot be undone.
    refused, lost = _refusals(attached), {} if in_memory else biases.unsaved(attached)
    if refused or lost:
        reasons = "; ".join(f"{method}: {reason}" for method, reason in {**lost, **refused}.items())
        keep = "save_pretrained keeps it as an adapter beside the base"
        hint = keep if refused else f"{keep}; merge(model, in_memory=True) folds it in for this process alone"
        raise PlanError(f"this plan cannot be merged: {reasons}", hint)
    fields = biases.fields_for(attached)
    biases.make(attached)
    plain = _plain(model, attached, fold=True)
    if fields:
        biases.settle(plain, fields)
    return plain


def remove(model: PreTrainedModel) -> PreTrainedModel:
    """Remove every method, in place; the base weights were never touched, so they are the same bit for bit.

    A task's own new output layer stays as it was trained: no base model brings one.

    Returns:
        The same model, again of its original class.

    Raises:
        PlanError: names what trained weights of the base itself, which are gone; the model is as it was.
    """
    attached = tuned(model).attached
    changed = _changed(attached)
    if changed:
        raise PlanError(
            f"this plan cannot be removed: it trained weights of the base model itself ({', '.join(changed)})",
            "load the base model again; delta_bias instead of bitfit leaves the base as it is",
        )
    return _plain(model, attached, fold=False)


def take_off(model: Tuned) -> PreTrainedModel:
    """Remove the plan as :func:`remove` does, but keep the base's own weights as they were trained."""
    return _plain(model, model.attached, fold=False)


def refusals(attached: Attached) -> list[str]:
    """Reasons why a plan cannot be merged and saved whole, one line for each method; empty when it can."""
    reasons = {**biases.unsaved(attached), **_refusals(attached)}
    return [f"{method}: {reason}" for method, reason in reasons.items()]


def _refusals(attached: Attached) -> dict[str, str]:
    """The reason why each MethodConfig, as text, cannot be merged; of equal ones in many blocks the first."""
    found: dict[str, str] = {}
    if is_packed(attached):
        found["pack"] = "a packed weight cannot be folded into; load the adapter over the weights as stored"
    for number, methods in enumerate(attached.resolved.blocks):
        site = attached.backbone.site(number)
        for one in methods:
            reason = METHODS[one.kind].refuses_merge(one, site)
            if reason:
                found.setdefault(str(one), reason)
    for _, one in attached.resolved.insertions:
        found.setdefault(str(one), INSERTIONS[one.kind].refuses_merge)
    return found


def _changed(attached: Attached) -> list[str]:
    """The parts of the plan that train the base model's own weights, as text."""
    plan = attached.resolved.plan
    changed = {str(one): None for block in attached.resolved.blocks for one in block if not one.adds}
    if plan.embeddings is not None:
        changed["embeddings"] = None
    if attached.resolved.head_trainable(attached.backbone.head.name):
        changed[str(plan.head)] = None
    return list(changed)


def _plain(model: PreTrainedModel, attached: Attached, *, fold: bool) -> PreTrainedModel:
    """Put the model's own modules back everywhere, drop hooks and insertions, and give it its own class again."""
    blocks = attached.backbone.blocks
    # The order is the reverse of attaching: wrappers go before fused linears are joined, for join looks at plain
    # linears.
    for number in attached.resolved.shape.owners:
        site = attached.backbone.site(number)
        for one in attached.resolved.blocks[number]:
            METHODS[one.kind].detach(one, site)
        unwrap(site, fold=fold)
    # Before the roles are joined: concatenated with an fp32 master, a whole fused matrix would become fp32.
    round_masters(attached)
    attached.backbone.family.put_together()
    if fold and attached.resolved.unties and attached.backbone.head.speaks:
        attached.backbone.head.part_bias()
    for depth, one in attached.resolved.insertions:
        delattr(blocks[min(depth, len(blocks) - 1)], insertion_name(one.kind, depth))
    for handle in attached.hooks:
        handle.remove()
    training = model.training
    model.__class__ = own_class(model)
    del model.attached  # pyright: ignore[reportAttributeAccessIssue]
    # The mode in which from_pretrained leaves a model.
    model.requires_grad_(True)
    return model.train(training)
