"""Hooks that make a tuned decoder's own ``forward`` and ``generate`` carry out the plan.

Methods inside blocks need no hook, and an adapter runs on whatever tokens it is given. A prompt is made once, from the
text that is given, and enters with it; from then on its keys and values lie in the key-value cache of the blocks
above, before the text's. Each later step computes its new token alone and sees them there. Masks and positions of
those blocks are computed here, since the model counts without the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stratatune._compat import arguments_of, given_cache
from stratatune.errors import PlanError
from stratatune.model.body import Body
from stratatune.model.families.decoder_calls import behind, block_arguments, window_of
from stratatune.model.families.decoder_layout import Layout, continued
from stratatune.model.insertions import Insertions
from stratatune.shapes.architectures import DecoderArchitecture
from stratatune.shapes.sizes import turned_alike

Call = tuple[tuple[Any, ...], dict[str, Any]]
_IGNORED = -100  # a label that no loss is taken of


@dataclass
class Flow:
    """One forward call of the model, from its first hook to its last; nothing but ``reached`` is kept between calls.

    Attributes:
        noted: ``read`` of the whole model's call that has begun, until the model without its head takes it over.
        mask: [B, K] real tokens, those in the key-value cache included; None: all are real.
        read: [B] the last token that a generator may read, where labels say which; None: the last real one.
        past: how many tokens the key-value cache holds, prompts left out.
        reached: how many it held when the last call ended.
    """

    noted: Tensor | None = None
    mask: Tensor | None = None
    read: Tensor | None = None
    past: int = 0
    reached: int = 0

    @property
    def first(self) -> bool:
        """Whether this call has the text, and with it the prompts."""
        return self.past == 0


def install_insertions(body: Body, inserted: Insertions) -> list[RemovableHandle]:
    """Register the hooks of a decoder's insertions; they live until they are removed."""
    flow = Flow()
    handles = [body.base.register_forward_pre_hook(_Begin(flow, body, inserted), with_kwargs=True)]
    # Other heads' labels of tokens, such as tags, are no next tokens, and the text is all there.
    if cast("DecoderArchitecture", body.row).lm_head in body.names:
        handles.append(body.model.register_forward_pre_hook(_Labels(flow), with_kwargs=True))
    prompt = 0
    for depth, block in enumerate(body.blocks):
        found = inserted.at(depth)
        prompt += sum(one.tokens for one in found)
        if found or prompt:
            hook = _Before(flow, body, inserted, depth, prompt)
            handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
    last = body.blocks[-1]
    for insertion in inserted.at(len(body.blocks)):
        handles.append(last.register_forward_hook(_Behind(insertion)))
    if prompt:
        # Registered last, so that it runs after the insertions at the model's own depth.
        handles.append(last.register_forward_hook(lambda _, args, out: out[:, prompt:] if flow.first else out))
    return handles


class _Behind:
    """Runs an insertion after the last block; it makes no prompts there, so it needs no mask."""

    def __init__(self, insertion: Any) -> None:
        self.insertion = insertion

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.insertion(output, output.new_ones(output.shape[:2]).bool())[0]


class _Labels:
    """Notes where the text ends and its completion begins, when the caller gives token labels.

    Where every token is a label, the prompt is made from the first one: it must not know the answer.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        labels = kwargs.get("labels")
        self.flow.noted = None
        if isinstance(labels, Tensor) and labels.ndim == 2:
            self.flow.noted = ((labels != _IGNORED).int().argmax(dim=1) - 1).clamp(min=0)


class _Begin:
    """Notes the mask and the cache of a call, and gives the model positions that do not count the prompts."""

    def __init__(self, flow: Flow, body: Body, inserted: Insertions) -> None:
        self.flow = flow
        # The cache counts by its first layer, which holds no prompts but those at depth 0.
        self.lowest = sum(one.tokens for one in inserted.at(0))
        self.prompt = sum(one.tokens for _, one in inserted.modules)
        # In tokens of the text: prompts at the input take positions too.
        self.border = turned_alike(body.model.config.to_dict()) - sum(
            one.tokens for _, one in inserted.modules if one.tokens and one.positions
        )

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        cache, mask = given_cache(kwargs), kwargs.get("attention_mask")
        # Taken over, so that a later call of this model alone has none; and kept behind the forward, since
        # checkpointed blocks run again in the backward pass.
        self.flow.read, self.flow.noted = self.flow.noted, None
        held = cache.get_seq_length() if cache is not None else 0
        self.flow.past = held - self.lowest if held else 0
        if self.prompt:
            self._stay_inside(args, kwargs)
        # A mask of four dimensions is the caller's own layout, and says nothing of which tokens are real.
        self.flow.mask = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
        # Without prompts at depth 0 the cache is as long as the text, and the model counts right by itself.
        if self.flow.first or not self.lowest or kwargs.get("position_ids") is not None or self.flow.mask is None:
            return None
        # Left to itself the model would count positions from the length of the cache, prompts included.
        places = (self.flow.mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return args, {**kwargs, "position_ids": places[:, self.flow.past :]}

    def _stay_inside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to write past the length at which LongRoPE changes the angles of every token.

        Keys that are in the cache were turned by the old angles, and the prompt with them. transformers computes a
        Phi's text again there, and then the prompt would be made from the answer too.
        """
        flow, cache = self.flow, given_cache(kwargs)
        tokens = next(one for one in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if one is not None)
        reached = flow.past + tokens.shape[1]
        written_on = 0 < flow.past <= self.border < reached
        anew = cache is None and kwargs.get("use_cache") and flow.reached == self.border == reached - 1
        if written_on or anew:
            raise PlanError(
                f"LongRoPE turns a text of more than {self.border} tokens by other angles, also the prompt before it",
                "generate fewer tokens, or give a shorter text",
            )
        flow.reached = reached if cache is not None else 0


class _Before:
    """Runs before a block: the insertions of its depth, then a mask and positions that count the prompts so far."""

    def __init__(self, flow: Flow, body: Body, inserted: Insertions, depth: int, prompt: int) -> None:
        self.flow, self.body, self.depth, self.prompt = flow, body, depth, prompt
        self.insertions = inserted.at(depth)
        self.below = [one for at, one in inserted.modules if at < depth]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        (hidden, *rest), kwargs = args, dict(kwargs)
        layout = self._layout(hidden)
        for insertion in self.insertions:
            # Later steps of generate find the prompt's keys and values in the cache; an adapter runs on every token.
            if insertion.tokens == 0 or self.flow.first:
                hidden, _ = insertion(hidden, layout.prefix[:, -hidden.shape[1] :])
            layout = behind(layout, insertion, rows=self.flow.first)
        if not self.prompt:
            return (hidden, *rest), kwargs
        # By their names, some of which get other values: GPT-2 gives cache and mask by place, Gemma 4 a token's part.
        kwargs |= dict(zip(arguments_of(module), rest, strict=False))
        return self._with_arguments(hidden, kwargs, layout)

    def _layout(self, hidden: Tensor) -> Layout:
        """The layout of the tokens of this call after the prompts of the blocks below."""
        computed = hidden.shape[1] - (sum(one.tokens for one in self.below) if self.flow.first else 0)
        mask = self.flow.mask
        if mask is None:
            mask = hidden.new_ones(hidden.shape[0], self.flow.past + computed).bool()
        layout = continued(mask, self.flow.read, computed, both=self.body.shape.sees_ahead)
        for insertion in self.below:
            layout = behind(layout, insertion, rows=self.flow.first)
        return layout

    def _with_arguments(self, hidden: Tensor, kwargs: dict[str, Any], layout: Layout) -> Call:
        # A sliding cache drops its oldest entries first, and a prompt comes before the text.
        window = window_of(self.body, self.depth)
        if window is not None and kwargs.get("use_cache") and layout.keys.shape[1] >= window:
            raise PlanError(
                f"block {self.depth} attends to the last {window} positions, so its cache drops the prompt before them",
                "generate fewer tokens, or use a model without sliding windows",
            )
        found = block_arguments(self.body, self.depth, hidden, layout)
        return (hidden,), {**kwargs, **found}
