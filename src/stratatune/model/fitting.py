"""Whether a row that a user added fits its live model: its names, and what its blocks are called with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stratatune.errors import ModelError, nearest
from stratatune.model.families.decoder import lm_logits, run_plain
from stratatune.model.families.encoder_decoder import embed_vectors, encode_whole, run_encoder
from stratatune.shapes.architectures import Architecture

if TYPE_CHECKING:
    from stratatune.model.backbone import Backbone

_HINTS = {
    "decoder": "a block is called with attention_mask, position_ids and, where rotary= is named, position_embeddings; "
    "a decoder of another kind needs code of its own",
    "encoder-decoder": "a block of the encoder is called with the hidden state, the mask and, where position_bias= is "
    "named, that bias; its last one's output goes through behind_encoder=; other kinds need code of their own",
}


@torch.no_grad()
def check_forward(backbone: Backbone) -> None:
    """Refuses a decoder or an encoder-decoder that does more around its blocks than the row's names say.

    A few tokens go through the model's own forward (of two stacks: the encoder's) and through its blocks as the row has
    them called.

    Raises:
        ModelError: they differ, or a block does not take what the row says, or weights of two stacks have no name.
    """
    model, training, hint = backbone.model, backbone.model.training, _HINTS[backbone.row.kind]
    two_stacks = backbone.row.kind == "encoder-decoder"
    try:
        model.eval()
        wanted, found = (_both_encoders if two_stacks else _both_ways)(backbone)
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{type(model).__name__}: its blocks cannot be run as the names say: {reason}", hint
        ) from error
    finally:
        model.train(training)
    if not torch.allclose(found, wanted, rtol=0, atol=0.01 * wanted.abs().max().item()):
        raise ModelError(f"{type(model).__name__} does more around its blocks than the names say", hint)
    if two_stacks:
        _check_all_named(backbone)


def _both_encoders(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """What the encoder puts out of two texts, of which one is padded: by its own forward, and by its blocks."""
    ids = _some_tokens(backbone).expand(2, -1)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2], device=ids.device)
    if backbone.output == "seq2seq":
        model: Any = backbone.model
        model.prepare_decoder_input_ids_from_labels(labels=ids)  # the targets are told with it
    with _entering(backbone.blocks[0]) as seen:
        wanted = encode_whole(backbone, ids, mask)
    return wanted[mask], run_encoder(backbone, seen[0], mask)[mask]


@torch.no_grad()
def embeds_as_named(backbone: Backbone) -> bool:
    """Whether vectors in place of an encoder-decoder's first words become what its own encoder makes of them."""
    base: Any = backbone.base
    vectors = base.get_input_embeddings().weight[1:4]
    training = {module: module.training for module in base.encoder.modules()}
    try:
        base.encoder.eval()
        with _entering(backbone.blocks[0]) as seen:
            base.encoder.forward(inputs_embeds=vectors[None])
        return torch.allclose(seen[0], embed_vectors(backbone, vectors), atol=1e-4)
    except (TypeError, RuntimeError):
        return False
    finally:
        for module, was in training.items():
            module.training = was


def _check_all_named(backbone: Backbone) -> None:
    """Every weight must be the embeddings', a block's or the head's: the others would not be counted."""
    head = [backbone.row.mlm_head["decoder"], backbone.row.classifier]
    tops = [module for name, module in backbone.model.named_modules() if name in head]
    modules = (*backbone.embedding_modules(), backbone.blocks, *backbone.final_norms(), *tops)
    named = {id(parameter) for module in modules for parameter in module.parameters()}
    left = [name for name, parameter in backbone.model.named_parameters() if id(parameter) not in named]
    if left:
        raise ModelError(
            f"{type(backbone.model).__name__} has weights that no name covers: {', '.join(left[:6])}",
            "name their modules in beside=, or behind_encoder=",
        )


def _both_ways(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Logits, or without a language-model head the last hidden states: by the model, and by its blocks."""
    ids, speaks = _some_tokens(backbone), backbone.output == "causal"
    with _entering(backbone.blocks[0]) as seen:
        wanted = (backbone.model if speaks else backbone.base)(input_ids=ids, use_cache=False)[0]
    hidden = run_plain(backbone, seen[0], torch.ones_like(ids).bool())
    return wanted, lm_logits(backbone, hidden) if speaks else backbone.final_norms()[0](hidden)


def _some_tokens(backbone: Backbone) -> Tensor:
    return torch.arange(1, 6, device=next(backbone.model.parameters()).device)[None] % backbone.shape.vocab


@contextlib.contextmanager
def _entering(block: nn.Module) -> Iterator[list[Tensor]]:
    """Gives the list of hidden states that ``block`` is called with meanwhile."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def check_names(row: Architecture, model: nn.Module, prefix: str) -> None:
    """Refuses a row that names a module which the model does not have.

    Args:
        row: the row.
        model: the whole model.
        prefix: what leads to the encoder in it: ``"bert."``, or empty.

    Raises:
        ModelError: names what the path stands for, the path, and the nearest there is.
    """
    modules = dict(model.named_modules())
    inside = [name[len(prefix) :] for name in modules if name.startswith(prefix)]
    two_stacks = row.kind == "encoder-decoder"
    named = [
        ("embeddings", row.embeddings),
        ("blocks", row.blocks),
        ("final_norm", row.final_norm),
        *((part, part) for part in ("encoder", "decoder") if two_stacks),
        ("decoder_blocks", row.decoder_blocks),
        ("position_table", row.position_table),
        ("position_norm", row.position_norm),
        *(("behind_encoder", path) for path in row.behind_blocks),
        *(("beside", path) for path in row.more_embeddings),
    ]
    _check(f"{type(model).__name__} has no", named, inside)
    stacks = [("blocks", row.blocks, row.roles), ("decoder_blocks", row.decoder_blocks, row.decoder_roles)]
    for field, path, roles in stacks if two_stacks else stacks[:1]:
        blocks = modules[f"{prefix}{path}"]
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            raise ModelError(f"{field}: {path!r} is no list of blocks", "name the nn.ModuleList that holds them")
        paths = [*roles.items(), *([("position_bias", row.relative_bias)] if field == "blocks" else [])]
        _check("a block has no", paths, [name for name, _ in blocks[0].named_modules()])


def _check(what: str, named: Iterable[tuple[str, str | None]], there: list[str]) -> None:
    for role, path in named:
        if path is not None and path not in there:
            listed = ", ".join(name for name in there if name)
            near = nearest(path, there)
            raise ModelError(
                f"{role}: {what} module {path!r}", f"did you mean {near!r}?" if near else f"there are: {listed[:400]}"
            )
