"""The parts that a plan put into a model: which parameters train, in which role, and where the insertions are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune.model.backbone import Backbone
from stratatune.model.fingerprint import Fingerprint
from stratatune.model.insertions import Insertions
from stratatune.model.origin import Origin
from stratatune.model.unread import Unread
from stratatune.plan import Resolved


@dataclass(frozen=True)
class Offloaded:
    """The weights that a model has offloaded.

    Attributes:
        parameters: the parameters by their names in the model, now without values.
        count: how many values they had.
        bytes: how many bytes.
        digest: hash of those of them that the fingerprint of the base does not cover.
        reload: gives the base model once more, as it was before the plan was attached.
    """

    parameters: Mapping[str, nn.Parameter]
    count: int
    bytes: int
    digest: str
    reload: Callable[[], nn.Module]


@dataclass
class Group:
    """Parameters that one method of one place trains, and the rate that it sets (None: the run's)."""

    method: str
    place: str
    parameters: list[nn.Parameter]
    lr: float | None = None


@dataclass
class Attached:
    """The state that :func:`apply` attaches to a model: which parameters train, and where.

    Attributes:
        resolved: the plan against this model's depth.
        backbone: the model seen through its row of the backbone table.
        base: fingerprint of the encoder before anything was attached.
        head_hash: fingerprint of the frozen parts of the head.
        groups: the trained parameters, in the order of attaching.
        insertions: (depth, module) in the order of depth.
        also_train: names of parameters that train because the checkpoint did not bring them.
        hooks: the hooks that ``model/hooks.py`` registered.
        notices: warnings about the attached methods, one line each.
        offloaded: the weights that are not in memory, and how they come back (``model/offload.py``).
        origin: where the base model came from.
        tokenizer: how the tokenizer of training encodes texts (``model/tokenizers.py``); empty where none is known.
        rounded: the base's own parameters that train as fp32 masters, and the dtype that the model computes with
            (``model/masters.py``).
        spec: how the model is used: the data of its objective (labels, template, ...), and the precision and the
            codec of its training; plain data. Saved with the tensors as ``reading``, its name in version 0.1.0.
        versions: the weights that the trunk reads, with how often each had been written when the plan was attached
            (``model/below.py``).
        started_from: the ``run`` whose weights training began with, and the hash of its ``tensors``; empty: the base's.
    """

    resolved: Resolved
    backbone: Backbone
    base: Fingerprint
    origin: Origin
    head_hash: str = ""
    groups: list[Group] = field(default_factory=list)
    insertions: Insertions = field(default_factory=Insertions)
    also_train: list[str] = field(default_factory=list)
    hooks: list[RemovableHandle] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    offloaded: Offloaded | None = None
    tokenizer: dict[str, str] = field(default_factory=dict)
    rounded: list[tuple[nn.Parameter, torch.dtype]] = field(default_factory=list)
    spec: dict[str, Any] = field(default_factory=dict)
    started_from: dict[str, str] = field(default_factory=dict)
    versions: list[tuple[nn.Parameter, int]] = field(default_factory=list)

    def add(self, method: str, place: str, parameters: Iterable[nn.Parameter], lr: float | None) -> None:
        """Note the parameters that a method trains.

        A tensor in two places (a tied decoder) belongs to the method that named it first.
        """
        # torch's optimisers refuse a tensor that is in two groups.
        taken = {id(parameter) for group in self.groups for parameter in group.parameters}
        new = [parameter for parameter in parameters if id(parameter) not in taken]
        self.groups.append(Group(method, place, new, lr))

    def insertions_at(self, depth: int) -> list[Any]:
        """The insertion modules at ``depth``."""
        return self.insertions.at(depth)

    def trained(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by its name in the model; exactly these are saved.

        The plan's parameters are included even after ``requires_grad_(False)``, and so are others that a user unfroze.
        """
        planned = {id(parameter) for group in self.groups for parameter in group.parameters}
        return {
            name: parameter
            for name, parameter in self.backbone.model.named_parameters()
            if parameter.requires_grad or id(parameter) in planned
        }

    def trained_count(self) -> int:
        """The number of parameters that train: those of the plan, and those that the checkpoint has no values for."""
        return sum(parameter.numel() for parameter in self.trained().values())

    @property
    def base_hash(self) -> str:
        """Hash of the encoder's settings and weights, before anything was attached."""
        return self.base.digest

    def also_trained(self) -> list[str]:
        """Names of trained parameters outside the plan and the task's output layer: new ones, or unfrozen by hand."""
        planned = {id(parameter) for group in self.groups for parameter in group.parameters}
        unfrozen = {name for name, one in self.trained().items() if id(one) not in planned}
        return sorted({*self.also_train, *unfrozen})

    def parameter_count(self) -> int:
        """The number of parameters of the model, including those that are not in memory."""
        gone = 0 if self.offloaded is None else self.offloaded.count
        unread = Unread.of(self.backbone.model)
        gone += 0 if unread is None else unread.away_count
        return gone + sum(parameter.numel() for parameter in self.backbone.model.parameters())

    @property
    def all_in_trunk(self) -> bool:
        """Whether the trunk is the whole model below the head, and the head reads each requested position by itself.

        With one requested position per text, the hidden state at that depth is needed there alone.
        """
        alone = self.backbone.family.leaves_the_head(self.resolved.frozen_depth)
        return alone and not self.backbone.head.pools_all

    def set_dropout(self, training: bool) -> None:
        """Put the frozen modules below the top into eval mode, whatever the mode of the model; call it after ``train``.

        There is also dropout around the blocks (after GPT-2's and T5's embeddings), so whole stacks are set, and then
        the top's blocks and the insertions again. Where the embeddings train, nothing is frozen below.
        """
        if self.resolved.trains_embeddings:
            return
        depth, backbone = self.resolved.frozen_depth, self.backbone
        for module in backbone.family.stacks(depth):
            nn.Module.train(module, False)  # not module.eval(): a model without a head is its own stack
        backbone.model.training = training
        below = {id(block) for block in backbone.blocks[:depth]}
        for block in backbone.blocks[depth:]:
            if id(block) not in below:  # shared by all depths, where blocks share weights
                block.train(training)
        for _, insertion in self.insertions:
            insertion.train(training)

    def own_blocks(self) -> list[nn.Module]:
        """The blocks that the top runs, and the trunk does not."""
        depth, blocks = self.resolved.frozen_depth, self.backbone.blocks
        below = set(blocks[:depth])
        return [block for block in dict.fromkeys(blocks[depth:]) if block not in below]

    def top_weights(self) -> list[nn.Module | nn.Parameter | Tensor]:
        """The weights that the top computes with: its blocks, their insertions, and the head's."""
        blocks = dict.fromkeys(self.backbone.blocks[self.resolved.frozen_depth :])
        inserted = [module for _, module in self.insertions]
        return [*blocks, *inserted, *self.backbone.head.weights()]
