"""Run an ONNX export: the objective's own reading and scores, with onnxruntime between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stratatune._compat import needs_extra
from stratatune.data.batching import Batch, collate_examples, pad_id
from stratatune.data.encoded import Encoded
from stratatune.errors import ModelError
from stratatune.exits import onnx_folder
from stratatune.exits.onnx_graph import IDS, MASK, MODEL, POSITIONS, TYPES
from stratatune.model.damaged_files import damaged_file
from stratatune.model.families.last_block import take
from stratatune.model.tokenizers import check_reading
from stratatune.objectives.objective import Objective
from stratatune.objectives.registry import objective_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NoTrunk:
    """Replaces a feed, where the graph of an ONNX export begins with the tokens."""

    def prefetch(self, coming: Sequence[np.ndarray], device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Do nothing: there is nothing to read ahead."""
        return contextlib.nullcontext()


@dataclass(frozen=True)
class OnnxForward:
    """A graph under an objective; it answers as :class:`stratatune.training.forward.Forward` does.

    Attributes:
        session: onnxruntime's.
        inputs: the names of the graph's inputs.
        objective: the objective.
        pad_id: the token that fills a batch's shorter rows.
        device: the device of batches and answers: the CPU.
        precision: the dtype of the answers.
    """

    session: Any
    inputs: tuple[str, ...]
    objective: Objective
    pad_id: int
    device: torch.device = torch.device("cpu")
    precision: torch.dtype = torch.float32

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Do nothing: a graph is always in evaluation mode."""
        yield

    def batch(self, data: Encoded, index: np.ndarray) -> Batch:
        """The examples ``index`` [B] of ``data``, padded."""
        return collate_examples(data, index, self.pad_id)

    def __call__(self, batch: Batch, feed: object, *, training: bool) -> Tensor:
        """The objective's representation of a batch: the logits that its question asks for, or a pooling of them."""
        with torch.no_grad():
            return self.objective.represent(self._logits(batch), batch)

    def _logits(self, batch: Batch) -> Tensor:
        types = torch.zeros_like(batch.input_ids) if batch.token_types is None else batch.token_types
        given = {IDS: batch.input_ids, MASK: batch.mask.long(), TYPES: types, POSITIONS: batch.read.long()}
        found = self.session.run(None, {name: given[name].numpy() for name in self.inputs})
        # A span head has two outputs, beginnings and ends.
        logits = torch.from_numpy(found[0] if len(found) == 1 else np.stack(found, axis=-1))
        places = self.objective.question(batch, training=False).places
        if POSITIONS in self.inputs:
            return logits[:, None]
        if places is None:
            return logits
        return logits[places] if places.dtype is torch.bool else take(logits, places)


@dataclass(frozen=True)
class OnnxModel:
    """The parts of an export that a predictor uses.

    Attributes:
        forward: turns a batch into logits.
        tokenizer: the tokenizer in the graph's folder.
        vocab: rows of the table of words.
        notices: warnings for the user, one line each.
    """

    forward: OnnxForward
    tokenizer: PreTrainedTokenizerBase
    vocab: int
    notices: list[str]


def open_onnx(folder: str | Path) -> OnnxModel:
    """Open an export for predictions.

    Raises:
        ModelError: it is not an export of a trained run, or a file of it is damaged.
        ResourceError: onnxruntime is not installed.
    """
    with needs_extra("onnx", "predict --engine onnx"):
        import onnxruntime
    from transformers import AutoTokenizer

    found = onnx_folder.read(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # of whatever kind: it is about this folder
        said, _ = damaged_file(str(folder))
        raise ModelError(said or f"{folder} holds no tokenizer", "export the run again") from error
    # Before the graph is opened: a tokenizer that was changed in the folder would give other ids and no error.
    check_reading(found.record.tokenizer, tokenizer, str(folder))
    objective = objective_from(found.data["reading"], tokenizer)
    options = onnxruntime.SessionOptions()
    # onnxruntime would otherwise take every core, whatever torch was limited to.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(Path(folder) / MODEL), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, one for each way in which a file can be none of its
        line = str(error).strip().splitlines()[0]
        raise ModelError(f"onnxruntime cannot read {Path(folder) / MODEL}: {line}", "export the run again") from error
    inputs = tuple(one.name for one in session.get_inputs())
    # Names are the contract with the exporter; an unknown input could be given nothing.
    if odd := sorted({*inputs} - {IDS, MASK, TYPES, POSITIONS}):
        raise ModelError(f"{Path(folder) / MODEL} has an input {odd[0]!r}", "export the run again")
    notices = ["matrices are int8: scores may differ from the run's"] if found.record.precision == "int8" else []
    return OnnxModel(OnnxForward(session, inputs, objective, pad_id(tokenizer)), tokenizer, found.record.vocab, notices)
