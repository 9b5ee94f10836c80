"""Which method made a trained tensor in another run and here: tensors of one name may be those of different methods."""

from __future__ import annotations

from torch import nn

from stratatune.model.attached import Attached
from stratatune.plan import MethodConfig, Resolved


class Makers:
    """Compares the methods of a model with those of another plan, place by place.

    Args:
        attached: the model's.
        other: the other plan against the same model.

    Attributes:
        rescaled: the methods of another factor, whose change is to be multiplied, a note each.
        differing: the methods that do not continue each other, a note each.
    """

    def __init__(self, attached: Attached, other: Resolved) -> None:
        self.rescaled: dict[str, None] = {}
        self.differing: dict[str, None] = {}
        self._pairs: dict[int, tuple[MethodConfig, list[MethodConfig]]] = {}
        resolved, backbone = attached.resolved, attached.backbone
        groups = {(group.method, group.place): group.parameters for group in attached.groups}
        for number in resolved.shape.owners:
            site = backbone.site(number)
            roles: dict[int, set[str]] = {}
            for role, module in site.modules(site.roles):
                for parameter in module.parameters():
                    roles.setdefault(id(parameter), set()).add(role)
            # What trains parameters of the base's own (full, bitfit) adds nothing, and needs no comparison.
            for kind in {method.kind for method in resolved.blocks[number] if method.adds}:
                for parameter in groups[kind, site.name]:
                    held = roles.get(id(parameter), set())
                    here, there = (_on(held, plan.blocks[number]) for plan in (resolved, other))
                    (own,) = (method for method in here if method.kind == kind)
                    self._pairs[id(parameter)] = own, there
        for (depth, module), (_, own) in zip(attached.insertions, resolved.insertions, strict=True):
            there = [method for at, method in other.insertions if at == depth and method.kind == own.kind]
            self._pairs |= {id(parameter): (own, [*there]) for parameter in module.parameters()}

    def factor(self, name: str, parameter: nn.Parameter) -> float | None:
        """What the other run's tensor of this name is multiplied by to mean here what it meant there.

        None: another method made it, or one whose options give it another meaning.
        """
        if id(parameter) not in self._pairs:
            return 1.0
        own, there = self._pairs[id(parameter)]
        same = next((method for method in there if own.continues(method)), None)
        if same is None:
            alike = [method for method in there if method.kind == own.kind]
            was = ", ".join(map(str, alike)) if alike else ", ".join(method.kind for method in there)
            self.differing[f"{was} there, {own if alike else own.kind} here"] = None
            return None
        if not name.endswith(tuple(f".{last}" for last in own.factored)):
            return 1.0
        was, now = getattr(same, own.factor), getattr(own, own.factor)
        if was != now:
            self.rescaled[f"{own.kind} has {own.factor} {was:g} there and {now:g} here"] = None
        return was / now


def _on(roles: set[str], methods: tuple[MethodConfig, ...]) -> list[MethodConfig]:
    """The methods that may have added a parameter which a module of ``roles`` holds, or no role's."""
    return [
        one for one in methods if one.adds and (bool(roles.intersection(one.held_by)) if roles else not one.held_by)
    ]
