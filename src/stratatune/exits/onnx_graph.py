"""Export a tuned model as one ONNX graph, by torch's own exporter.

The graph is the model's own forward, with whatever the plan put into it: adapters and prompts between blocks too, which
no merged form holds. Batch and length are free. A label that is read as a word at the mask is one of C logits at the
position that is given (``positions``); every other head gives what its class of transformers gives.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stratatune._compat import needs_extra
from stratatune.data.batching import Batch, pad_id
from stratatune.files import make_folder, replacing, write_errors
from stratatune.model.question import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned
    from stratatune.model.backbone import Backbone
    from stratatune.objectives.objective import Objective

MODEL = "model.onnx"
WEIGHTS = f"{MODEL}.data"
"""The file of a large graph's weights."""
IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "positions"
_OUTPUTS = (("logits",), ("start_logits", "end_logits"), ("last_hidden_state",))
"""The outputs of transformers' classes, in the order in which they are looked for."""


@dataclass(frozen=True)
class Signature:
    """The names of a graph's inputs and outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_graph(
    model: Tuned, objective: Objective | None, tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> Signature:
    """Write ``model.onnx`` into ``folder``; the model is used up.

    Args:
        model: the tuned model.
        objective: the objective that it was trained for; None: the graph gives all that its class gives.
        tokenizer: says whether texts have token types, and which token pads.
        folder: made where it is not there.

    Raises:
        ResourceError: the extra ``onnx`` is not installed, or the folder cannot be written.
    """
    with needs_extra("onnx", "export --to onnx"):
        import onnx
        import onnxscript  # noqa: F401
    del onnx
    backbone = model.float().eval().attached.backbone
    model.config.use_cache = False
    pad = 0 if tokenizer is None else pad_id(tokenizer)
    given = _example(backbone, tokenizer)
    graph: nn.Module = _Whole(backbone)
    if objective is not None and backbone.head.speaks:
        graph = _AtPositions(backbone, _rows(objective, given[IDS], pad))
        given[POSITIONS] = torch.tensor([1, 2])
    with torch.no_grad(), _fp32_constants(), _quiet():
        outputs = graph(**given)
        named = tuple(outputs)
        program: Any = torch.onnx.export(
            graph,
            kwargs=given,
            dynamo=True,
            dynamic_shapes={name: _free(one) for name, one in given.items()},
            input_names=list(given),
            output_names=list(named),
            verbose=False,
        )
        make_folder(folder)
        with write_errors(folder):
            _save(program, folder)
    return Signature(tuple(given), named)


def _save(program: Any, folder: Path) -> None:
    """Write the graph; torch puts the weights of a large one (more than 1.5 GiB) into a second file beside it.

    The graph names that file, so both are written under their own names, in a folder of their own.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{MODEL}.") as aside:
        program.save(str(Path(aside) / MODEL))
        written = sorted(Path(aside).iterdir(), reverse=True)  # the weights first, so a graph never lacks them
        for path in written:
            with replacing(folder / path.name) as partial:
                path.replace(partial)
    if WEIGHTS not in [path.name for path in written]:
        (folder / WEIGHTS).unlink(missing_ok=True)  # those of a graph that was there before


def _example(backbone: Backbone, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Tensor]:
    """Two texts, the shorter one padded: the exporter would take a number of one, text or token, for fixed."""
    ids = torch.arange(14).reshape(2, 7) % min(14, backbone.shape.vocab)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    given = {IDS: ids, MASK: mask}
    typed = tokenizer is None or TYPES in tokenizer.model_input_names
    return {**given, TYPES: torch.zeros_like(ids)} if typed and backbone.row.token_types else given


def _free(one: Tensor) -> dict[int, str]:
    return {0: "batch", 1: "length"} if one.dim() == 2 else {0: "batch"}


def _rows(objective: Objective, ids: Tensor, pad: int) -> Tensor | None:
    """The rows of the language-model head that the objective reads for a text."""
    batch = Batch(torch.arange(len(ids)), ids, ids != pad, None, torch.zeros(len(ids), dtype=torch.long))
    return objective.question(batch, training=False).rows


def _named(ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Tensor]:
    """The inputs as keyword arguments of a transformers model."""
    return {IDS: ids, MASK: mask, **({} if types is None else {TYPES: types})}


class _Whole(nn.Module):
    """The model with the outputs of its own class."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = backbone.model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        found = self.model(**_named(input_ids, attention_mask, token_type_ids))
        names = next(names for names in _OUTPUTS if names[0] in found)
        return {name: found[name] for name in names}


class _AtPositions(nn.Module):
    """The language-model head at one position of each text, for the label words alone: [B, C]."""

    def __init__(self, backbone: Backbone, rows: Tensor | None) -> None:
        super().__init__()
        self.model, self.backbone, self.rows = backbone.model, backbone, rows

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        last: list[Tensor] = []
        handle = self.backbone.passes.after(len(self.backbone.blocks) - 1, _Keep(last))
        try:
            self.backbone.base(**_named(input_ids, attention_mask, token_type_ids))
        finally:
            handle.remove()
        at = positions[:, None, None].expand(-1, 1, last[0].shape[-1])
        hidden = last[0].gather(1, at)  # [B, 1, D]
        asked = Question(places=positions[:, None], rows=self.rows)
        return {"logits": self.backbone.head.logits(hidden, attention_mask.bool(), asked)[:, 0]}


class _Keep:
    """Records the hidden state that leaves a block."""

    def __init__(self, found: list[Tensor]) -> None:
        self.found = found

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.found.append(output[0] if isinstance(output, tuple) else output)


@contextlib.contextmanager
def _fp32_constants() -> Iterator[None]:
    """Make constants fp32, as the weights are: tables of angles and masks that a model makes while it runs."""
    was = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(was)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which logs its steps and warns of coming changes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
