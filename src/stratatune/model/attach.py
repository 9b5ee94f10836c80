"""Apply a plan to a model: :func:`apply` attaches every method and returns the same Hugging Face model."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stratatune.errors import ModelError, PlanError, StratatuneError
from stratatune.methods import head as head_method
from stratatune.methods.precision import convert
from stratatune.methods.registry import INSERTIONS, METHODS, in_order
from stratatune.methods.site import Place, train
from stratatune.model.attached import Attached
from stratatune.model.backbone import Backbone
from stratatune.model.below import versions_of
from stratatune.model.cutting import cut_to, whole_shape
from stratatune.model.fingerprint import Fingerprint, head_fingerprint
from stratatune.model.hooks import install
from stratatune.model.masters import follow, hold_masters
from stratatune.model.new_parts import RESIZED, check_vocabulary, check_weights, new_parts
from stratatune.model.origin import Origin
from stratatune.model.other_plan import PLAN, refuse_other_plan
from stratatune.model.saving import save_adapter
from stratatune.model.stored import computes_in
from stratatune.model.streamed_top import StreamedTop
from stratatune.model.unread import Unread, device_of
from stratatune.model.untouched import untouched_on_failure
from stratatune.model.wrapped import about_no_plan, check_unwrapped
from stratatune.plan import Plan, Resolved
from stratatune.plan.methods import ROLES, Insertion, MethodConfig, RoleMethod
from stratatune.plan.resolved import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    _AnyModel = PreTrainedModel
else:
    _AnyModel = object

_OF_PUSHING = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")
"""Options of ``push_to_hub`` that ``save_pretrained`` passes on."""


class Tuned(_AnyModel):
    """The methods that :func:`apply` adds to a model: mixed into its own class, so that it stays an instance of it."""

    attached: Attached

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle and torch.save look a class up by its name, under which they find the model's own.
        return _blank, (own_class(self),), vars(self)

    def train(self, mode: bool = True) -> Any:
        """Set the mode as ``nn.Module.train`` does, but keep the trunk in eval mode (contract 3: no dropout there)."""
        super().train(mode)
        self.attached.set_dropout(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert every tensor, as ``model.to``, ``float`` and ``half`` do; what is rounded for a forward follows."""
        super()._apply(fn, recurse)
        if self.attached.rounded:
            follow(self.attached, fn)
        return self

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """Turn checkpointing on as transformers does, but only for the blocks that the backward pass goes through.

        No other block is ever run again. Every way in which transformers turns checkpointing on, by its old name or its
        new one, calls this method.
        """
        super()._set_gradient_checkpointing(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        blocks, depth = self.attached.backbone.blocks, self.attached.resolved.frozen_depth
        above: set[Any] = set(blocks[depth:])  # blocks that share weights are in it too
        for block in blocks[:depth]:
            if block not in above and hasattr(block, "gradient_checkpointing"):
                block.gradient_checkpointing = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    def print_trainable_parameters(self) -> None:
        """Print a line: how many parameters train, of how many, and how far the backward pass goes."""
        resolved = self.attached.resolved
        trained = self.attached.trained_count()
        total = sum(parameter.numel() for parameter in self.parameters())
        print(
            f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f} || "
            f"backward through {resolved.backprop_blocks} of {resolved.shape.blocks} blocks"
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as transformers does.

        Raises:
            PlanError: without the key-value cache every step would compute a late prompt again, from a longer text.
        """
        config = kwargs.get("generation_config") or self.generation_config  # pyright: ignore[reportAttributeAccessIssue]
        use_cache = kwargs.get("use_cache")
        use_cache = getattr(config, "use_cache", None) if use_cache is None else use_cache
        self.attached.backbone.family.refuse_generation(self.attached.insertions, use_cache)
        return super().generate(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Resize as transformers does, to the size that there is: an adapter holds no other rows than its base.

        Raises:
            ModelError: the vocabulary would change.
        """
        own: Any = super()
        rows = own.get_input_embeddings().weight.shape[0]
        several = (args[0] if args else kwargs.get("pad_to_multiple_of")) or 1
        if (new_num_tokens or rows) != rows or rows % several:
            said = f"the vocabulary of this {type(self).__name__} has {rows} rows, and the adapter could not be loaded"
            raise ModelError(f"{said} with others", f"resize it before st.apply: {RESIZED}")
        return own.resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool | None = None,
        state_dict: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Save the trained tensors and the plan (not the base model); :func:`stratatune.load` reads them back.

        Transformers' ``Trainer`` says which process is the main one: others write nothing, and the checkpoint is one
        that its ``resume_from_checkpoint`` and ``load_best_model_at_end`` find again.

        Args:
            save_directory: the folder.
            is_main_process: whether this process writes.
            state_dict: values in place of the model's own, such as averages of the weights.
            push_to_hub: also upload, with the options of ``push_to_hub``; to the folder's name without ``repo_id``.
            args, kwargs: those options; what is about the files of a whole model has no effect.
        """
        folder = Path(save_directory)
        if is_main_process is None or is_main_process:
            by_trainer = is_main_process is not None or state_dict is not None
            save_adapter(self.attached, folder, for_trainer=by_trainer, values=state_dict)
            if push_to_hub:
                options = {name: one for name, one in kwargs.items() if name in _OF_PUSHING}
                own: Any = self
                own.push_to_hub(kwargs.get("repo_id") or folder.name, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as ``nn.Module`` does, but accept the trained tensors alone: the rest never changes.

        Raises:
            PlanError: the tensors are those of another plan.
        """
        if (plan := state_dict.get(PLAN)) is not None:
            state_dict = {name: one for name, one in state_dict.items() if name != PLAN}
        # Trainer loads its checkpoints with strict=False, and only warns of tensors that fit nowhere.
        if not strict and state_dict:
            refuse_other_plan(self.attached, state_dict, plan)
        # Never ``assign``, which puts other tensors in the place of those that are known to train.
        assign = False
        if state_dict.keys() != self.attached.trained().keys():
            return super().load_state_dict(state_dict, strict, assign)
        # Trainer warns of missing keys after load_best_model_at_end; here the frozen ones are missing on purpose.
        found = super().load_state_dict(state_dict, False, assign)
        found.missing_keys.clear()
        return found


# One class per model class: two tuned models of one class must compare as the same type.
@functools.cache
def _tuned_class(cls: type) -> type:
    """Derive a class from :class:`Tuned` and ``cls`` with ``cls``'s name, by which pipelines look a model up."""
    return type(cls.__name__, (Tuned, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def own_class(model: PreTrainedModel) -> type:
    """The class that a model had before its plan: a tuned class is made from :class:`Tuned` and that one."""
    return type(model).__bases__[1]


def _blank(cls: type) -> Any:
    """An empty instance of the tuned class of ``cls``, to be filled as a pickle is read."""
    return object.__new__(_tuned_class(cls))


def apply(
    model: PreTrainedModel,
    plan: Plan | str | Mapping[str, Any],
    *,
    also_train: Iterable[str] = (),
    revision: str | None = None,
) -> Tuned:
    """Attach a plan to a model, in place.

    Args:
        model: a Hugging Face model of a family in the backbone table.
        plan: a plan, a preset's name, or a plan's text or data.
        also_train: names of parameters that are new in this model (the checkpoint did not bring them) and so train
            whatever the plan says, as a task's own output layer always does. What transformers itself initialised while
            it loaded the model is found without being named.
        revision: the hub revision that the model was loaded at, so that ``load`` finds it again.

    Returns:
        The same model. Its class now also has ``print_trainable_parameters()`` and ``save_pretrained()`` of what
        trained, and ``model.attached`` describes the attached methods.

    Raises:
        PlanError: the plan does not parse, does not fit the model's depth, or would break the promise that the backward
            pass stops at the frozen depth. The model is as it was.
        ModelError: it is no model of transformers, has an adapter of peft, its family has no row in the backbone
            table, or its weights are quantised or not in memory.
    """
    check_unwrapped(model, "st.apply")
    plan = plan if isinstance(plan, Plan) else Plan.from_data(plan)
    _refuse_unfit(model)
    return _put(Backbone(model), plan, also_train, revision)


def apply_to(
    backbone: Backbone,
    plan: Plan | Resolved,
    *,
    also_train: Iterable[str] = (),
    revision: str | None = None,
    fingerprint: Fingerprint | None = None,
) -> Tuned:
    """Apply a plan to a model whose :class:`Backbone` is known; the plan may be resolved already.

    ``fingerprint`` is the fingerprint of the encoder, cut as the plan says, where it is known.
    """
    _refuse_unfit(backbone.model)
    return _put(backbone, plan, also_train, revision, fingerprint)


def tuned(model: Any) -> Tuned:
    """``model`` itself, which :func:`apply` or ``load`` returned.

    Raises:
        PlanError: it has no plan, or is something around the model that has one.
    """
    if not isinstance(model, Tuned):
        raise PlanError(*about_no_plan(model, Tuned))
    return model


def refuse_tuned(model: Any) -> None:
    """Refuse a model with a plan where one without is needed.

    Raises:
        PlanError: it has one.
    """
    if isinstance(model, Tuned):
        raise PlanError(
            "this model already has a plan", "give the base model, loaded again; st.remove takes a plan off"
        )


def _refuse_unfit(model: PreTrainedModel) -> None:
    refuse_tuned(model)
    check_weights(model)


def _put(
    backbone: Backbone,
    plan: Plan | Resolved,
    also_train: Iterable[str],
    revision: str | None,
    fingerprint: Fingerprint | None = None,
) -> Tuned:
    if isinstance(plan, Plan):
        resolved = plan.resolve(whole_shape(backbone))
    else:
        # A user's row may be measured; then its sizes are better known than from the config.
        resolved = resolve(plan.plan, whole_shape(backbone)) if backbone.row.measured else plan
    _refuse_broken_promises(resolved, backbone)
    model = backbone.model
    with untouched_on_failure(model):
        backbone = cut_to(backbone, resolved)
        origin = Origin.of(model, revision)
        check_vocabulary(model, origin)
        new = sorted({*also_train, *new_parts(backbone)})
        attached = Attached(resolved, backbone, fingerprint or Fingerprint.of(backbone), origin, also_train=new)
        # Everything is frozen first and each method then marks its own, so only parameters that a method named train.
        model.requires_grad_(False)
        _attach(attached)
        _check_count(attached)
        # After attaching: the hash covers the frozen parts of the head, and only now is that known.
        attached.head_hash = head_fingerprint(backbone)
        # Last: it widens the parameters of the groups, so all of them must be there.
        attached.hooks += hold_masters(attached)
        attached.versions = versions_of(attached)
        _stream_top(attached)
        return _become_tuned(model, attached)


def sketch(backbone: Backbone, plan: Plan) -> Attached:
    """Attach a plan to a model without values (fake tensors): there is nothing to hash, and nothing to save."""
    attached = Attached(plan.resolve(backbone.shape), backbone, Fingerprint("", {}), Origin.of(backbone.model, None))
    backbone.model.requires_grad_(False)
    _attach(attached)
    install(attached)
    attached.set_dropout(backbone.model.training)
    return attached


def _refuse_broken_promises(resolved: Resolved, backbone: Backbone) -> None:
    problems = resolved.problems(backbone.head.name)
    if problems:
        hint = "the backward pass would not stop at the frozen depth" if resolved.cut_to is None else ""
        raise PlanError(problems[0], hint)
    if resolved.moved:
        backbone.family.refuse_prompt()


def _become_tuned(model: PreTrainedModel, attached: Attached) -> Tuned:
    model.__class__ = _tuned_class(type(model))
    tuned = cast("Tuned", model)
    tuned.attached = attached
    install(attached)
    # The trunk goes to eval mode at once, also for a caller who never calls train().
    return tuned.train(tuned.training)


def _attach(attached: Attached) -> None:
    resolved, backbone = attached.resolved, attached.backbone
    # The order decides which learning rate a shared tensor gets: tied embeddings belong to the embeddings, not to the
    # head.
    if resolved.trains_embeddings:
        parameters = train(p for module in backbone.body.embedding_modules() for p in module.parameters())
        attached.add("full", "embeddings", parameters, resolved.plan.embeddings and resolved.plan.embeddings.lr)
    # Owners only: where blocks share weights (ALBERT), a method is attached once to each distinct block.
    for number in resolved.shape.owners:
        if methods := in_order(resolved.blocks[number]):
            with _in_memory(backbone, number):
                for method in methods:
                    _attach_to_block(attached, method, number)
    family, before = backbone.family, 0
    for depth, method in resolved.insertions:
        words: Any = backbone.model.get_input_embeddings()
        place = Place(depth, resolved.shape.hidden, before, words, family.embed, family.read_text)
        _insert(attached, method, place)
        # A further prompt follows this one, so the positions that it embeds start where this one's end.
        before += method.prompt
    _attach_head(attached)


def _in_memory(backbone: Backbone, number: int) -> contextlib.AbstractContextManager[None]:
    """Keep a block whose weights methods may read in memory while this is open."""
    unread = Unread.of(backbone.model)
    return contextlib.nullcontext() if unread is None else unread.read_for_attaching(backbone.blocks[number])


def _stream_top(attached: Attached) -> None:
    """Read blocks above the frozen depth as they run, where they are not in memory."""
    backbone, depth = attached.backbone, attached.resolved.frozen_depth
    unread, above = Unread.of(backbone.model), backbone.blocks[depth : backbone.border]
    if unread is not None and any(unread.slots(block) for block in above):
        backbone.body.through = StreamedTop(unread, backbone.body, depth)


def _attach_to_block(attached: Attached, method: MethodConfig, number: int) -> None:
    on_roles = isinstance(method, RoleMethod)
    roles = method.roles_in(attached.resolved.shape.at(number)) if on_roles else ROLES
    # Before the site is made, which looks roles up in the block as it is now.
    attached.backbone.family.take_apart(number, roles)
    site = attached.backbone.site(number)
    parameters = METHODS[method.kind].attach(method, site)
    attached.add(method.kind, site.name, parameters, method.lr)


def _insert(attached: Attached, method: Insertion, place: Place) -> None:
    """Build an insertion and register it in the block that it precedes, so that ``.to()`` finds it.

    At the model's own depth it is registered in the last block, and runs after it.
    """
    blocks, depth = attached.backbone.blocks, place.depth
    device, dtype = device_of(attached.backbone.model), computes_in(attached.backbone.model)
    module: Any = INSERTIONS[method.kind].build(method, place)
    convert(module, device, dtype)
    module.causal, module.positions = attached.backbone.family.causal, method.positions
    # As a submodule of a block it is found by .to(), named_parameters() and state_dict(); the hooks decide when it
    # runs.
    blocks[min(depth, len(blocks) - 1)].add_module(insertion_name(method.kind, depth), module)
    attached.insertions.append((depth, module))
    attached.add(method.kind, f"depth {depth}", module.parameters(), method.lr)


def insertion_name(kind: str, depth: int) -> str:
    """The name under which an insertion hangs in its block."""
    return f"{kind}_at_{depth}"


def _attach_head(attached: Attached) -> None:
    backbone, head = attached.backbone, attached.resolved.plan.head
    # Before the head is attached: training the shared matrix would also train the embeddings, below the frozen depth.
    if attached.resolved.unties and backbone.head.speaks:
        attached.notices.append(backbone.head.untie())
    attached.add("head", "head", head_method.attach(head, backbone.head_site()), head.lr)
    named = dict(backbone.model.named_parameters())
    unknown = [name for name in attached.also_train if name not in named]
    if unknown:
        raise StratatuneError(f"also_train names {unknown[0]!r}, which the model does not have")
    new = [*backbone.output_layer(), *(named[name] for name in attached.also_train)]
    parameters = train(p for p in dict.fromkeys(new) if not p.requires_grad)
    attached.add("output", "head", parameters, head.lr)


def _check_count(attached: Attached) -> None:
    """Check that the trained parameters are as many as the plan's own formula says; a difference is a bug of ours."""
    # The plan cannot predict a task's output layer or parts that the checkpoint lacks, so they are left out of the
    # comparison.
    new = {id(p) for group in attached.groups if group.method == "output" for p in group.parameters}
    trained = sum(p.numel() for p in attached.trained().values() if id(p) not in new)
    predicted = attached.resolved.trainable(attached.backbone.head.name)
    if trained != predicted:
        raise StratatuneError(
            f"the plan predicts {predicted:,} trained parameters, the model has {trained:,}",
            "a plan needs a model that matches its config, and merge(in_memory=True) makes one that does not: "
            "load the base again; if this is the base, it is a bug in stratatune, please report it",
        )
