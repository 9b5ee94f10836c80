"""A plan applied to one model: the methods of every block, the frozen depth, and every count that follows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from stratatune.errors import PlanError
from stratatune.plan.layers import depth_at, span
from stratatune.plan.methods import ROLES, Frozen, Full, Insertion, MethodConfig, RoleMethod
from stratatune.plan.parts import PlanParts, StratumParts
from stratatune.shapes.shape import LM_OBJECTIVES, Shape

# Both bounds must be passed: relative to a tiny model any adapter is large, which is not a mistake.
_MANY, _TIMES = 10**8, 2


@dataclass(frozen=True)
class Run:
    """Neighbouring blocks ``start..stop-1`` with the same methods."""

    start: int
    stop: int
    methods: tuple[MethodConfig, ...]

    @property
    def blocks(self) -> int:
        return self.stop - self.start

    @property
    def text(self) -> str:
        """The methods as text; ``frozen`` when nothing trains."""
        return " + ".join(map(str, self.methods)) or "frozen"


@dataclass(frozen=True)
class Resolved:
    """A plan applied to one model.

    ``objective`` below is ``mlm`` or ``classification`` (regression counts as classification); it decides which
    pretrained head the model has. A task's own new output layer is in no count: its size depends on the labels.
    """

    plan: PlanParts
    shape: Shape
    blocks: tuple[tuple[MethodConfig, ...], ...]
    """The methods that train in each block; ``()`` is frozen."""
    insertions: tuple[tuple[int, Insertion], ...]
    """Insertions by their absolute depth, from the input up."""
    whole: Shape
    """The model's own shape; ``shape`` is the shape after a cut."""

    @property
    def trains_embeddings(self) -> bool:
        return self.plan.embeddings is not None

    @property
    def frozen_depth(self) -> int:
        """The largest depth such that nothing below it trains or is inserted: 0..L."""
        if self.trains_embeddings:
            return 0
        # An insertion at depth d changes the input of block d, so only the blocks below d stay as they were.
        trained = (number for number, methods in enumerate(self.blocks) if methods)
        return min((*trained, *(depth for depth, _ in self.insertions)), default=self.shape.blocks)

    @property
    def cached_depth(self) -> int:
        """The number of blocks that run once for each example: those below the frozen depth in the first stack.

        An encoder-decoder's decoder has a text of its own to read, so its frozen blocks run in every step.
        """
        return min(self.frozen_depth, self.shape.border)

    @property
    def cached_width(self) -> int:
        """The numbers that the trunk gives for each token: D, and keys and values that only the blocks above read."""
        return self.shape.width(self.cached_depth)

    @property
    def cut_to(self) -> int | None:
        """The number of blocks that a cut leaves; None: the plan cuts nothing."""
        return None if self.plan.cut is None else self.shape.blocks

    @property
    def backprop_blocks(self) -> int:
        """Blocks that the backward pass goes through."""
        return self.shape.blocks - self.frozen_depth

    @property
    def max_tokens(self) -> int:
        """The number of tokens of text that fit, after the positions that a prompt at the input takes."""
        return self.shape.max_tokens - self.moved

    @property
    def moved(self) -> int:
        """The number of positions by which a prompt at the input shifts the text."""
        return sum(one.positions for _, one in self.insertions)

    @property
    def starts_as_base(self) -> bool:
        """Whether the tuned model equals the base model until the first step; prompts and prefixes change it."""
        methods = (one for block in self.blocks for one in block)
        return not any(one.attended for one in methods) and not any(one.prompt for _, one in self.insertions)

    def trainable(self, objective: str) -> int:
        """Trained parameters, without the task's new output layer."""
        embeddings = self.shape.embeddings if self.trains_embeddings else 0
        blocks = sum(self.block_trainable(number) for number in self.shape.owners)
        inserted = sum(one.parameters(self.shape) for _, one in self.insertions)
        return embeddings + blocks + inserted + self.head_trainable(objective)

    def block_trainable(self, number: int) -> int:
        """Trained parameters of block ``number``."""
        return sum(one.parameters(self.shape.of_block(number)) for one in self.blocks[number])

    def head_trainable(self, objective: str) -> int:
        """Trained parameters of the pretrained head; a tied decoder is not counted twice when the embeddings train."""
        counted = self.plan.head.parameters(self.shape, objective)
        # The same tensor; the embeddings have counted it.
        if objective in LM_OBJECTIVES and self._trains_tied_decoder and self.trains_embeddings:
            return counted - self.shape.head_parts["decoder"]
        return counted

    def total(self, objective: str) -> int:
        """Parameters of the tuned model: the base model's and those that the plan adds."""
        added = [(one, self.shape.of_block(number)) for number in self.shape.owners for one in self.blocks[number]]
        added += [(one, self.shape) for _, one in self.insertions]
        copied = self.shape.head_parts["decoder"] if self.unties and objective in LM_OBJECTIVES else 0
        return (
            self.shape.parameters(objective) + sum(one.parameters(shape) for one, shape in added if one.adds) + copied
        )

    @property
    def _trains_tied_decoder(self) -> bool:
        return "decoder" in self.plan.head.mlm and self.shape.decoder_tied and not self.plan.head.untie

    @property
    def unties(self) -> bool:
        """Whether the decoder gets its own tensor, apart from the embeddings."""
        return self.plan.head.untie and self.shape.decoder_tied

    def problems(self, objective: str) -> list[str]:
        """Reasons why the plan is impossible, a line each.

        A gradient below the frozen depth, or an LM head on a model that is cut.
        """
        if self.cut_to is not None and objective in LM_OBJECTIVES:
            return [
                f"cut({self.plan.cut}) leaves {self.cut_to} of {self.whole.blocks} blocks, and the pretrained LM head "
                "reads the last: choose an objective without one, such as --objective classification"
            ]
        if objective in LM_OBJECTIVES and self._trains_tied_decoder and not self.trains_embeddings:
            return [
                f"head(mlm=decoder) trains the decoder, which is tied to the embeddings below the frozen depth "
                f"{self.frozen_depth}: gradients would pass through all {self.shape.blocks} blocks; "
                "leave decoder out, train a copy of it (head(mlm=decoder, untie)), or train the embeddings too "
                "(embeddings full)"
            ]
        return []

    def runs(self) -> list[Run]:
        """The blocks from the input up, equal neighbours together; cut where something is inserted."""
        # A run never crosses from the encoder into the decoder: the text form numbers each from 0.
        cuts = {depth for depth, _ in self.insertions} | {stack.start for stack in self.shape.stacks.values()}
        found: list[Run] = []
        for number, methods in enumerate(self.blocks):
            if found and found[-1].methods == methods and number not in cuts:
                found[-1] = Run(found[-1].start, number + 1, methods)
            else:
                found.append(Run(number, number + 1, methods))
        return found

    def run_trainable(self, run: Run) -> int:
        """Trained parameters of a run of blocks."""
        return sum(self.block_trainable(number) for number in self.shape.owners if run.start <= number < run.stop)

    def trainable_of(self, method: MethodConfig, run: Run) -> int:
        """Trained parameters of one method of a run of blocks; those that share weights count once."""
        owners = (number for number in self.shape.owners if run.start <= number < run.stop)
        return sum(method.parameters(self.shape.of_block(number)) for number in owners)

    def place(self, run: Run) -> tuple[str, int]:
        """The stack of a run, with a space after its name, and the number at which its blocks begin."""
        name, stack = next((n, s) for n, s in self.shape.stacks.items() if run.start in s)
        return (f"{name} " if name else ""), stack.start

    def layers(self, run: Run) -> str:
        """The blocks of a run as a plan's text names them."""
        stack, border = self.place(run)
        return f"{stack}{run.start - border}:{run.stop - border}"

    def summary(self, objective: str, labels: int = 2) -> dict[str, Any]:
        """The result as plain data for ``--json``."""
        shape = self.shape
        return {
            "model": shape.name,
            "plan": str(self.plan),
            "objective": objective,
            "blocks": shape.blocks,
            "cut_from": None if self.cut_to is None else self.whole.blocks,
            "frozen_depth": self.frozen_depth,
            "backprop_blocks": self.backprop_blocks,
            "trainable": self.trainable(objective),
            "trainable_by_objective": {name: self.trainable(name) for name in (shape.lm_objective, "classification")},
            "total": self.total(objective),
            "trains_embeddings": self.trains_embeddings,
            "strata": [
                {
                    "layers": self.layers(run),
                    "blocks": run.blocks,
                    "methods": run.text,
                    "trainable": self.run_trainable(run),
                }
                for run in self.runs()
            ],
            "insertions": [
                {"depth": depth, "method": str(one), "trainable": one.parameters(shape)}
                for depth, one in self.insertions
            ],
            "head": {
                "mlm": list(self.plan.head.mlm),
                "pooler": self.plan.head.pooler,
                "final_norm": self.plan.head.final_norm,
                "untie": self.plan.head.untie,
                "trainable": self.head_trainable(objective),
            },
            "classifier": None
            if objective == "none"
            else {
                "labels": labels,
                "output": labels * (shape.hidden + shape.classifier_bias),
                "dense": shape.classifier_dense,
            },
            "problems": self.problems(objective),
        }


def resolve(plan: PlanParts, shape: Shape) -> Resolved:
    """Apply a plan to a shape; see ``Plan.resolve``."""
    # Everything below is resolved against the model after the cut; the whole is kept for fractions.
    whole, shape = shape, _cut(plan, shape)
    before = None if plan.cut is None else whole.blocks
    # All claims first, then the pairs: an error can so name both segments, whatever their order.
    claims: list[list[tuple[StratumParts, MethodConfig]]] = [[] for _ in range(shape.blocks)]
    for stratum in plan.strata:
        for stack in _stacks(stratum, shape):
            _check_roles(stratum, shape.at(stack.start))
            numbers = [stack.start + number for number in span(stratum.layers, len(stack), str(stratum), before)]
            for one in stratum.methods:
                there = [number for number in numbers if _takes_part(one, shape, number)]
                if not there:
                    raise PlanError(
                        f"{stratum}: {one} trains nothing in block {numbers[0]} of this {shape.model_type}",
                        f"it has {', '.join(shape.of_block(numbers[0]).roles)}",
                    )
                for number in there:
                    claims[number].append((stratum, one))
    claims = [_frozen_once(claimed) for claimed in claims]
    for number, claimed in enumerate(claims):
        for (first, one), (second, other) in combinations(claimed, 2):
            _check_pair(number, shape.at(number), (first, one), (second, other))
    if plan.head.untie and "decoder" not in plan.head.mlm:
        raise PlanError(
            f"{plan.head}: untie copies the decoder so that it trains apart", "name it too: head(mlm=decoder, untie)"
        )
    # `frozen` has done its work as a claim; a block is frozen when nothing is left.
    blocks = tuple(tuple(one for _, one in claimed if not isinstance(one, Frozen)) for claimed in claims)
    _check_shared(blocks, shape)
    resolved = Resolved(plan, shape, blocks, _placed(plan, shape, whole), whole)
    _check_size(resolved)
    return resolved


def _cut(plan: PlanParts, shape: Shape) -> Shape:
    """The shape of a model after the plan's cut.

    Raises:
        PlanError: it cannot be cut there.
    """
    if plan.cut is None:
        return shape
    where = f"cut({plan.cut})"
    if len(shape.stacks) > 1:
        raise PlanError(
            f"{where}: {shape.model_type} has two stacks of blocks, and its decoder reads the encoder's end",
            "cut works with encoders and decoders",
        )
    if shape.blocks == 1:
        raise PlanError(f"{where}: a model of one block cannot be cut", "leave the cut out")
    depth = depth_at(plan.cut, shape.blocks, shape.blocks - 1, where, "less than all", first=1)
    if shape.cuts is not None and depth not in shape.cuts:
        if shape.reads or shape.token_part:
            said = f"this {shape.model_type} cannot be cut: its blocks read what is made for all of them together"
            raise PlanError(f"{where}: {said}", "leave the cut out")
        raise PlanError(
            f"{where}: a {shape.model_type} of {shape.blocks} blocks cannot end after {depth} of them",
            f"legal: {', '.join(map(str, shape.cuts)) or 'no cut'}",
        )
    cut = shape.cut_at(depth)
    if any(cut.weights_of(number) != shape.weights_of(number) for number in range(cut.blocks)):
        raise PlanError(
            f"{where}: the {shape.blocks} blocks of this {shape.model_type} share {shape.distinct} sets of weights, "
            "and fewer blocks would share them in another way",
            "leave the cut out",
        )
    return cut


def _check_size(resolved: Resolved) -> None:
    """Refuse likely typing errors: methods that would add several times the model's own parameters."""
    trained = sum(resolved.block_trainable(number) for number in resolved.shape.owners)
    trained += sum(one.parameters(resolved.shape) for _, one in resolved.insertions)
    own = resolved.shape.parameters(resolved.shape.lm_objective)
    if trained > _MANY and trained > _TIMES * own:
        name = resolved.shape.name or resolved.shape.model_type
        raise PlanError(
            f"the plan trains {trained:,} parameters, but {name} has only {own:,}",
            "use a smaller rank, bottleneck or prompt",
        )


def _frozen_once(claimed: list[tuple[StratumParts, MethodConfig]]) -> list[tuple[StratumParts, MethodConfig]]:
    """A block's methods with at most one ``frozen``: other duplicates are refused soon, and these may be many."""
    frozen = [pair for pair in claimed if isinstance(pair[1], Frozen)]
    return [*frozen[:1], *(pair for pair in claimed if not isinstance(pair[1], Frozen))] if frozen[1:] else claimed


def _stacks(stratum: StratumParts, shape: Shape) -> list[range]:
    """The stacks in which a stratum's layers count: the one that it names, or each."""
    if not stratum.stack:
        return list(shape.stacks.values())
    if stratum.stack not in shape.stacks:
        raise PlanError(
            f"{stratum}: {shape.model_type} has one stack of blocks, so {stratum.stack!r} has no meaning",
            f"write: {stratum.layers} ...",
        )
    return [shape.stacks[stratum.stack]]


def _check_roles(stratum: StratumParts, shape: Shape) -> None:
    for one in stratum.methods:
        one.parameters(shape)  # raises when the shape cannot take it
        if isinstance(one, RoleMethod) and not one.roles_in(shape):
            no_bias = "; none of these roles has a bias: delta_bias gives them one" if one.touches == {"bias"} else ""
            raise PlanError(
                f"{stratum}: {one} trains nothing in a block of {shape.model_type}",
                f"it has {', '.join(shape.roles)}{no_bias}",
            )


def _takes_part(one: MethodConfig, shape: Shape, number: int) -> bool:
    """Whether a method has something to do in a block, which may lack roles that the others have."""
    return number not in shape.lacks or not isinstance(one, RoleMethod) or bool(one.roles_in(shape.of_block(number)))


def _check_shared(blocks: tuple[tuple[MethodConfig, ...], ...], shape: Shape) -> None:
    """Refuse different methods on blocks that share their weights."""
    for number, methods in enumerate(blocks):
        owner = shape.owner(number)
        if set(methods) != set(blocks[owner]):
            says = [" + ".join(map(str, blocks[block])) or "frozen" for block in (owner, number)]
            raise PlanError(
                f"block {number} is {says[1]} and block {owner} is {says[0]}, "
                f"but in {shape.name} they are the same weights",
                f"{shape.model_type} has {shape.distinct} set(s) of weights for {shape.blocks} blocks: give all "
                "of them the same methods (': ...') or none; an adapter or a late prompt can be at any depth",
            )


def _check_pair(
    number: int, shape: Shape, a: tuple[StratumParts, MethodConfig], b: tuple[StratumParts, MethodConfig]
) -> None:
    """Refuse two methods of one block that contradict each other.

    Raises:
        PlanError: names the block, both segments and the role.
    """
    (first, one), (second, other) = a, b
    where = f"block {number}: '{first}'" + (f" and '{second}'" if second is not first else " twice")
    if isinstance(one, Frozen) != isinstance(other, Frozen):
        raise PlanError(
            f"{where}: both frozen and trained", "blocks that no stratum names are frozen; let the layers not overlap"
        )
    for role in _clash(shape, one, other):
        raise PlanError(f"{where}: {one.kind} and {other.kind} both train {role}", _advice(one, other))


def _clash(shape: Shape, one: MethodConfig, other: MethodConfig) -> list[str]:
    """Places where both would change the same part, in the block's order."""
    # By (place, part) and not by role: BitFit on q and LoRA on q train different parts, and may share a block.
    places = {place for place, _ in one.claims(shape) & other.claims(shape)}
    return sorted(places, key=lambda place: ROLES.index(place) if place in ROLES else -1)


def _advice(one: MethodConfig, other: MethodConfig) -> str:
    if one.kind == other.kind:
        return "give it once, or on different roles (on=...)"
    if isinstance(one, Full) or isinstance(other, Full):
        return "full trains weights and biases already; drop the other, or put them on different roles (on=...)"
    return "both change the same thing; drop one of them, or put them on different roles (on=...)"


def _placed(plan: PlanParts, shape: Shape, whole: Shape) -> tuple[tuple[int, Insertion], ...]:
    """The insertions at their absolute depths, from the input up; one of a kind, and one prompt, at a depth."""
    placed = sorted(((one.depth_in(shape, whole), one) for one in plan.insertions), key=lambda pair: pair[0])
    for number, (depth, one) in enumerate(placed):
        one.parameters(shape)  # raises when the shape cannot take it
        if one.prompt and shape.carries_state:
            raise PlanError(
                f"{one}: a prompt cannot enter a {shape.model_type}, some of whose blocks carry a state",
                "use an adapter at that depth, or lora",
            )
        if one.prompt and (shape.token_part or shape.reads):
            of_ids = "whose blocks read a part of each token's id", "whose last blocks read keys and values of others"
            raise PlanError(
                f"{one}: a prompt cannot enter this {shape.model_type}, {of_ids[not shape.token_part]}",
                "use an adapter at that depth, or lora",
            )
        for other in (other for at, other in placed[:number] if at == depth):
            _check_neighbours(depth, one, other)
    taken = sum(one.positions for one in plan.insertions)
    if taken >= shape.max_tokens:
        raise PlanError(
            f"{plan}: the prompt takes {taken} positions of {shape.max_tokens}, so no text fits", "make it shorter"
        )
    return tuple(placed)


def _check_neighbours(depth: int, one: Insertion, other: Insertion) -> None:
    hint = "put them at different depths, or make one of them larger"
    if one.kind == other.kind:
        raise PlanError(f"{one}: a second {one.kind} at depth {depth}", hint)
    if one.prompt and other.prompt:
        raise PlanError(f"{one}: a second prompt at depth {depth}, where {other.kind} puts one already", hint)
