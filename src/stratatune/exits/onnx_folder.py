"""The folder of an ONNX export: the graph, the files that other tools read, and how text becomes a label.

``model.onnx`` is all that onnxruntime needs, with ``model.onnx.data`` beside it where the weights are large;
``config.json`` and the tokenizer's files are transformers' own; ``stratatune.json`` says how the objective reads text,
for ``stratatune predict``.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from stratatune._compat import VERSION
from stratatune.errors import ModelError
from stratatune.exits.onnx_graph import MODEL, WEIGHTS, write_graph
from stratatune.exits.tokenizers import cut_as_trained
from stratatune.exits.units import KEY, fold_units
from stratatune.files import write_errors, write_text
from stratatune.model.record import SpecRecord
from stratatune.objectives.registry import objective_from
from stratatune.outside import Unreadable, Written, first_mistake, path_exists, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stratatune.model.attach import Tuned

FORMAT = 1
RECORD = "stratatune.json"
_AGAIN = "export the run again"


class OnnxRecord(Written):
    """The schema of ``stratatune.json``.

    Attributes:
        plan: the plan of the exported model.
        base: the name of the base model.
        inputs, outputs: the names in the graph.
        vocab: the number of rows of the table of words.
        precision: the precision of the matrices in the file.
        reading: how text becomes a label; the objective reads all of it.
        tokenizer: how the tokenizer of training encodes texts.
    """

    stratatune: str
    plan: str
    base: str
    inputs: list[str]
    outputs: list[str]
    vocab: Annotated[int, Field(ge=1)]
    precision: Literal["fp32", "int8"] = "fp32"
    reading: SpecRecord
    tokenizer: dict[str, str]


@dataclass(frozen=True)
class OnnxFolder:
    """An export on disk: its record, and the same as plain data, with all of the objective's fields."""

    record: OnnxRecord
    data: dict[str, Any]
    path: Path


def holds_onnx(folder: str | Path) -> bool:
    """Whether ``folder`` is an ONNX export."""
    return path_exists(Path(folder) / MODEL)


def write(model: Tuned, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write the graph, the config, the tokenizer and the record; the model is used up.

    Without a tokenizer, or of a model that no objective trained, the graph gives what the model's class gives, and
    there is no record.
    """
    attached = model.attached
    units = fold_units(attached)
    spec, config = dict(attached.spec), model.config
    objective = objective_from(spec, tokenizer) if tokenizer is not None and "objective" in spec else None
    labels = spec.get("labels") or ()
    if labels and len(labels) == config.num_labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    record = {
        "format": FORMAT,
        "stratatune": VERSION,
        "plan": str(attached.resolved.plan),
        "base": attached.origin.named(config._name_or_path).name,
        "vocab": attached.resolved.shape.vocab,
        "precision": "fp32",
        "reading": spec,
        "tokenizer": attached.tokenizer,
    }
    found = write_graph(model, objective, tokenizer, folder)
    with write_errors(folder):
        if units:
            setattr(config, KEY, units)
        config.save_pretrained(folder)
        if tokenizer is not None:
            cut_as_trained(tokenizer, attached).save_pretrained(folder)
    if objective is not None:
        _write_record(folder, {**record, "inputs": list(found.inputs), "outputs": list(found.outputs)})


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def read(folder: str | Path) -> OnnxFolder:
    """Read an export's record of itself.

    Raises:
        ModelError: it is not an export, it was made without a tokenizer or an objective, or its record is damaged.
    """
    path = Path(folder) / RECORD
    if not holds_onnx(folder):
        raise ModelError(
            f"{folder} holds no {MODEL}",
            f"write one: stratatune export RUN --to onnx --out {shlex.quote(Path(folder).name)}",
        )
    if not path_exists(path):
        raise ModelError(
            f"{folder} does not say how text is read ({RECORD} is missing)",
            "export a trained run; a model that no objective trained is run by onnxruntime itself",
        )
    try:
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise Unreadable(f"it is not a record of format {FORMAT}")
        return OnnxFolder(OnnxRecord.model_validate(data), data, Path(folder))
    except ValidationError as error:
        raise ModelError(f"{path} is damaged: {first_mistake(error)}", _AGAIN) from error
    except Unreadable as error:
        raise ModelError(f"{path} is damaged: {error}", _AGAIN) from error


def to_int8(folder: Path) -> tuple[int, int]:
    """Quantise the matrices of an export's graph to int8 in place; returns its bytes before and after.

    Weights are rounded once, for each output channel by itself; activations while the model runs (onnxruntime's dynamic
    quantisation).

    Raises:
        ResourceError: the extra ``onnx`` is not installed, or the folder cannot be written.
    """
    from stratatune.exits.onnx_int8 import quantise

    before = _size(folder)
    quantise(folder / MODEL)
    if path_exists(folder / RECORD):
        _write_record(folder, {**read(folder).data, "precision": "int8"})
    return before, _size(folder)


def _size(folder: Path) -> int:
    """The bytes of the graph and of its weight files."""
    return sum((folder / name).stat().st_size for name in (MODEL, WEIGHTS) if path_exists(folder / name))
