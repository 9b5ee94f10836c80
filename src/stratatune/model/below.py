"""The parameters below the frozen depth: those that a user unfroze or changed after the plan was attached.

The backward pass ends at the frozen depth, so below it nothing trains, whatever requires a gradient there. And a trunk
cache is known by the weights as they were when the plan was attached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from stratatune.errors import PlanError
from stratatune.model.attached import Attached
from stratatune.model.fingerprint import hash_of


def only_below(attached: Attached, modules: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of ``modules``, which lie below the frozen depth, that nothing above it reads, by their names."""
    parts = ([part] if isinstance(part, Tensor) else part.parameters() for part in attached.top_weights())
    kept = {id(one) for part in parts for one in part}
    found = {id(one) for module in modules for one in module.parameters()} - kept
    return {name: one for name, one in attached.backbone.model.named_parameters() if id(one) in found}


def without_gradient(attached: Attached) -> dict[str, nn.Parameter]:
    """The parameters that get no gradient from the top, by their names."""
    depth, family = attached.resolved.frozen_depth, attached.backbone.family
    if attached.resolved.trains_embeddings:
        return {}
    return only_below(attached, (*family.offloadable(depth), *family.streamable(depth)))


def refuse_unfrozen(below: Mapping[str, nn.Parameter], depth: int) -> None:
    """Refuse to train where a parameter of ``below``, which gets no gradient, requires one.

    Raises:
        PlanError: one does; it names the first.
    """
    name = next((name for name, one in below.items() if one.requires_grad), None)
    if name is not None:
        raise PlanError(
            f"{name} requires a gradient and gets none: it lies below the frozen depth {depth}, where the backward "
            "pass ends",
            "choose a plan that trains there, or call requires_grad_(False) on it",
        )


Versions = list[tuple[nn.Parameter, int]]
"""Parameters, and how often each had been written."""


def versions_of(attached: Attached) -> Versions:
    """The weights that the trunk reads, as they are now."""
    return [(one, _version(one)) for one in _trunk(attached).values()]


def trunk_hash(attached: Attached) -> str:
    """The hash of everything that the trunk's output depends on.

    That of the base, unless its weights have been written since the plan was attached, as ``load_state_dict`` writes
    them.
    """
    if not any(_version(parameter) > version for parameter, version in attached.versions):
        return attached.base_hash
    return hash_of(_trunk(attached).items(), attached.base_hash)


def _trunk(attached: Attached) -> dict[str, nn.Parameter]:
    """The weights that the trunk reads, and no method trains, by their names."""
    trained = {id(parameter) for group in attached.groups for parameter in group.parameters}
    body, depth = attached.backbone.body, attached.resolved.frozen_depth
    modules = (*body.embedding_modules(), *dict.fromkeys(attached.backbone.blocks[:depth]), *body.final_norms())
    read = {id(one) for module in modules for one in module.parameters()} - trained
    return {name: one for name, one in attached.backbone.model.named_parameters() if id(one) in read}


def _version(parameter: Tensor) -> int:
    # Inference tensors cannot be written outside of inference mode, and have no count.
    return 0 if parameter.is_inference() else parameter._version
