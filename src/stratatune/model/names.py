"""Names of modules and parameters: those of a row that a user added, and one tensor's under different heads."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import nn

from stratatune.errors import ModelError, nearest
from stratatune.shapes.architectures import Architecture


def check_names(row: Architecture, model: nn.Module, prefix: str) -> None:
    """Refuse a row that names a module which the model does not have.

    Args:
        row: the row.
        model: the whole model.
        prefix: the path to the encoder in it: ``"bert."``, or empty.

    Raises:
        ModelError: names the expected part, the path, and the nearest one that exists.
    """
    modules = dict(model.named_modules())
    inside = [name[len(prefix) :] for name in modules if name.startswith(prefix)]
    _check(f"{type(model).__name__} has no", row.named, inside)
    for stack in row.stacks:
        blocks = modules[f"{prefix}{stack.path}"]
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            raise ModelError(
                f"{stack.name}: {stack.path!r} is not a list of blocks", "name the nn.ModuleList with them"
            )
        _check("a block has no", stack.named.items(), [name for name, _ in blocks[0].named_modules()])


def under_another_head(name: str, prefix: str, known: Container[str]) -> str | None:
    """The name that the tensor ``name`` of a model has among those of the same base under another head, or None.

    A model with a head holds the base under a name (``bert.encoder...``), one without a head is the base itself
    (``encoder...``). T5 holds it under a name with a classifier, and not with its LM head.

    Args:
        name: the tensor's name in the one model.
        prefix: the path under which models of this type hold the base, such as ``"bert."``.
        known: the names in the other model.
    """
    return next((one for one in (name, f"{prefix}{name}", name.removeprefix(prefix)) if one in known), None)


def _check(what: str, named: Iterable[tuple[str, str | None]], there: list[str]) -> None:
    for role, path in named:
        if path is not None and path not in there:
            listed = ", ".join(name for name in there if name)
            near = nearest(path, there)
            raise ModelError(
                f"{role}: {what} module {path!r}", f"did you mean {near!r}?" if near else f"there are: {listed[:400]}"
            )
