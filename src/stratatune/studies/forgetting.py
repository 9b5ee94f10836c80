"""The cost of tuning to the language model: its loss on plain text before and after (SPAFIT's question of forgetting).

The tuned blocks are read by the base model's own language-model head, whatever head they were trained under.
Encoders: the loss at 15 % of the tokens, drawn once by the seed and masked, the same for both models. Decoders: the
loss of every next token. Encoder-decoders: the loss of restoring text in which spans are hidden, drawn once by the seed
(``corruption.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stratatune._compat import accelerator_for
from stratatune.data.batching import pad_id
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.errors import DataError, ModelError, NotFiniteError
from stratatune.model.artefact import check_encoder, load_base_of, place_of_base
from stratatune.model.attach import apply
from stratatune.model.backbone import Backbone
from stratatune.model.checksums import verify
from stratatune.model.heads.registry import lm_head_for
from stratatune.model.names import under_another_head
from stratatune.model.saving import read_record, read_tensors
from stratatune.plan import shape_of
from stratatune.studies.corruption import Corrupt, corruption_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARE = 0.15
_BATCH_SIZE = 16
_IGNORED = -100
_Row = tuple[list[int], list[int]]
"""Tokens and which of them are special, or source and target."""


@dataclass(frozen=True)
class _Sample:
    """Tokens [B, T] with targets hidden, their labels (-100 elsewhere), and the mask of real tokens.

    Labels are [B, T] where they are those of the tokens, [B, U] where a decoder writes them.
    """

    ids: Tensor
    labels: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Way:
    """A way to test a language-model head on plain text.

    Attributes:
        objective: its name in the report.
        next_token: each token predicts the next one.
        gives_labels: the model is given the labels too.
        corrupts: the text is corrupted, and the second stack restores the missing tokens.
    """

    objective: str
    next_token: bool = False
    gives_labels: bool = True
    corrupts: bool = False


_WAYS = {
    "masked_lm": _Way("mlm", gives_labels=False),
    "lm": _Way("causal", next_token=True),
    "seq2seq_lm": _Way("", corrupts=True),
}


def forgetting(
    run: str | Path, source: Any, *, base: str | None = None, device: str = "auto", max_length: int = 128, seed: int = 0
) -> dict[str, Any]:
    """The language-model loss of a trained run against its base model's, on plain text.

    Args:
        run: a run's folder, or its ``adapter`` folder.
        source: plain text: a file, one text a line or a text column, or a list of texts.
        base: where the base model is now, if it has moved.
        device: as in a run's settings.
        max_length: longer texts are cut to this many tokens.
        seed: the seed of the choice of masked or hidden tokens.

    Returns:
        ``objective`` (``mlm``, ``causal``, ``span corruption`` or ``text infilling``), ``base`` and ``tuned`` (mean
        loss of a token), ``difference`` (tuned minus base; above 0 something was forgotten), ``tokens`` (how many were
        predicted).

    Raises:
        ModelError: nothing trained is there, the base model is missing, or an encoder-decoder's tokenizer has neither
            sentinels nor a mask.
        DataError: the text cannot be read, or is too short for a measurement.
    """
    folder = Path(run)
    folder = folder / "adapter" if (folder / "adapter").is_dir() else folder
    record, tensors = read_record(folder), read_tensors(folder)
    verify(record, tensors, folder)
    head = lm_head_for(shape_of(*place_of_base(record, folder, base)).family)
    loaded, way = load_base_of(record, folder, base, head), _WAYS[head]
    check_encoder(Backbone(loaded.model), record)
    where = accelerator_for(device, (), folder).device
    texts = read(source, ReadOptions(need_labels=False)).texts[0]
    rows, random = _encoded(texts, loaded.tokenizer, max_length), np.random.default_rng(seed)
    if way.corrupts:
        objective, corrupt = corruption_of(loaded.tokenizer)
        samples = _corrupted(rows, loaded.tokenizer, corrupt, random)
    else:
        objective, samples = way.objective, _in_place(rows, loaded.tokenizer, way.next_token, random)
    count = sum(int((sample.labels != _IGNORED).sum()) for sample in samples)
    if not count:
        raise DataError(f"{source}: no token to predict", "give longer texts, or more of them")
    model = loaded.model.to(where).eval()  # pyright: ignore[reportArgumentType]
    before = _loss(model, samples, way) / count
    after = _loss(_tuned(model, record, tensors), samples, way) / count
    for name, value in (("base model", before), ("tuned model", after)):
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{source}: the loss of the {name} is {value}", "its weights are damaged or have diverged"
            )
    return {"objective": objective, "base": before, "tuned": after, "difference": after - before, "tokens": count}


def _tuned(model: PreTrainedModel, record: dict[str, Any], tensors: dict[str, Tensor]) -> PreTrainedModel:
    """The base model with the trained adapter, without a trained classification head."""
    named = dict(model.named_parameters())
    tuned = apply(model, record["plan"], also_train=[name for name in record["also_train"] if name in named])
    encoder = tuned.attached.backbone.encoder_ids()
    for name, parameter in tuned.attached.trained().items():
        theirs = under_another_head(name, f"{model.base_model_prefix}.", tensors)
        if theirs is not None:
            parameter.data.copy_(tensors[theirs])
        elif id(parameter) in encoder:
            raise ModelError(f"{name} trained, but the saved tensors do not hold it", "the folder is damaged")
    return tuned.eval()


def _encoded(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[_Row]:
    call: Any = tokenizer
    found = call(list(texts), truncation=True, max_length=max_length, return_special_tokens_mask=True, verbose=False)
    return list(zip(found["input_ids"], found["special_tokens_mask"], strict=True))


def _in_place(
    rows: Sequence[_Row], tokenizer: PreTrainedTokenizerBase, next_token: bool, random: np.random.Generator
) -> list[_Sample]:
    """Samples whose labels are their own tokens: all but the first (``next_token``), or masked ones."""
    made = []
    for batch in _batches(rows):
        tokens, mask = _padded([ids for ids, _ in batch], pad_id(tokenizer))
        if next_token:
            labels = tokens.masked_fill(~mask, _IGNORED)
            labels[:, 0] = _IGNORED
        else:
            drawn = torch.from_numpy(random.random(tokens.shape) < SHARE)
            plain = _padded([special for _, special in batch], 1)[0] == 0
            labels = tokens.masked_fill(~(drawn & plain), _IGNORED)
            tokens = tokens.masked_fill(labels != _IGNORED, int(tokenizer.mask_token_id))  # pyright: ignore[reportArgumentType]
        made.append(_Sample(tokens, labels, mask))
    return made


def _corrupted(
    rows: Sequence[_Row], tokenizer: PreTrainedTokenizerBase, corrupt: Corrupt, random: np.random.Generator
) -> list[_Sample]:
    """Samples of an encoder-decoder: sources with spans hidden, and targets."""
    pairs = [pair for ids, special in rows if (pair := corrupt(ids, special, random))[1]]
    made = []
    for batch in _batches(pairs):
        tokens, mask = _padded([source for source, _ in batch], pad_id(tokenizer))
        made.append(_Sample(tokens, _padded([target for _, target in batch], _IGNORED)[0], mask))
    return made


def _batches(rows: Sequence[_Row]) -> list[Sequence[_Row]]:
    return [rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE)]


def _padded(rows: Sequence[list[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Pad rows to one tensor [B, T], with the mask [B, T] bool of their own tokens."""
    width = max(map(len, rows))
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows]), mask


@torch.no_grad()
def _loss(model: PreTrainedModel, samples: Sequence[_Sample], way: _Way) -> float:
    """Summed loss over the labels, by the model's own forward."""
    total = 0.0
    for sample in samples:
        ids, labels, mask = (part.to(model.device) for part in (sample.ids, sample.labels, sample.mask))
        # An encoder-decoder's decoder reads them, and a decoder's late prompt finds the end of the text by them.
        given = {"labels": labels} if way.gives_labels else {}
        logits = model(input_ids=ids, attention_mask=mask.long(), **given).logits
        if way.next_token:
            logits, labels = logits[:, :-1], labels[:, 1:]
        total += F.cross_entropy(logits.float().mT, labels, ignore_index=_IGNORED, reduction="sum").item()
    return total
