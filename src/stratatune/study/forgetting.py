"""What tuning costs the language model: its loss on plain text before and after (SPAFIT's question of forgetting).

The tuned blocks are read by the base model's own language-model head, whatever head they were trained under.
Encoders: the loss at 15 % of the tokens, drawn once by the seed and masked, the same for both models. Decoders: the
loss of every next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stratatune._compat import accelerator_for
from stratatune.data.readers import read
from stratatune.data.reading import pad_id
from stratatune.errors import DataError, ModelError
from stratatune.model.base import load_base
from stratatune.model.saving import read_record, read_tensors
from stratatune.model.tuned import apply
from stratatune.plan import architecture_of, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARE = 0.15
_BATCH_SIZE = 16
_IGNORED = -100


@dataclass(frozen=True)
class _Sample:
    """Tokens [B, T], the same with what is to be told hidden, its labels (-100 elsewhere), and the mask of real
    tokens."""

    ids: Tensor
    labels: Tensor
    mask: Tensor


def forgetting(
    run: str | Path, source: Any, *, base: str | None = None, device: str = "auto", max_length: int = 128, seed: int = 0
) -> dict[str, Any]:
    """The language-model loss of a trained run against its base model's, on plain text.

    Args:
        run: a run's folder, or its ``adapter`` folder.
        source: plain text: a file, one text a line or a text column, or a list of texts.
        base: where the base model is now, when it has moved.
        device: as in a run's settings.
        max_length: longer texts are cut to this many tokens.
        seed: of the masked positions.

    Returns:
        ``objective`` (``mlm`` or ``causal``), ``base`` and ``tuned`` (mean loss of a token), ``difference`` (tuned
        minus base; above 0 something was forgotten), ``tokens`` (how many were told).

    Raises:
        ModelError: nothing trained is there, or the base model is missing.
        DataError: the text cannot be read, or is too short to tell anything.
    """
    folder = Path(run)
    folder = folder / "adapter" if (folder / "adapter").is_dir() else folder
    record, tensors = read_record(folder), read_tensors(folder)
    name = base or record["base"]["name"]
    shape = shape_of(name)
    if shape.decoder is not None:
        raise ModelError(f"{name} is an encoder-decoder, which has no loss on plain text", "use its loss on pairs")
    objective = "causal" if shape.causal else "mlm"
    loaded = load_base(name, objective)
    where = accelerator_for(device, (), folder).device
    texts = read(source, need_labels=False).texts[0]
    samples = _samples(texts, loaded.tokenizer, objective, max_length, seed)
    told = sum(int((sample.labels != _IGNORED).sum()) for sample in samples)
    if not told:
        raise DataError(f"{source}: no token to tell", "give longer texts, or more of them")
    model = loaded.model.to(where).eval()  # pyright: ignore[reportArgumentType]
    before = _loss(model, samples) / told
    after = _loss(_tuned(model, record, tensors), samples) / told
    return {"objective": objective, "base": before, "tuned": after, "difference": after - before, "tokens": told}


def _tuned(model: PreTrainedModel, record: dict[str, Any], tensors: dict[str, Tensor]) -> PreTrainedModel:
    """The base model with what was trained; a classification head that trained has no place here."""
    named = dict(model.named_parameters())
    tuned = apply(model, record["plan"], also_train=[name for name in record["also_train"] if name in named])
    for name, parameter in tuned.strata.trained().items():
        if name in tensors:
            parameter.data.copy_(tensors[name])
    return tuned.eval()


def _samples(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, objective: str, max_length: int, seed: int
) -> list[_Sample]:
    random = np.random.default_rng(seed)
    call: Any = tokenizer
    rows = call(list(texts), truncation=True, max_length=max_length, return_special_tokens_mask=True, verbose=False)
    made = []
    for start in range(0, len(texts), _BATCH_SIZE):
        ids = rows["input_ids"][start : start + _BATCH_SIZE]
        special = rows["special_tokens_mask"][start : start + _BATCH_SIZE]
        width = max(map(len, ids))
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids])
        tokens = torch.tensor([row + [pad_id(tokenizer)] * (width - len(row)) for row in ids])
        if objective == "causal":
            labels = tokens.masked_fill(~mask, _IGNORED)
            labels[:, 0] = _IGNORED
        else:
            drawn = torch.from_numpy(random.random(tokens.shape) < SHARE)
            plain = torch.tensor([[not one for one in row] + [False] * (width - len(row)) for row in special])
            labels = tokens.masked_fill(~(drawn & plain), _IGNORED)
            tokens = tokens.masked_fill(labels != _IGNORED, int(tokenizer.mask_token_id))  # pyright: ignore[reportArgumentType]
        made.append(_Sample(tokens, labels, mask))
    return made


@torch.no_grad()
def _loss(model: PreTrainedModel, samples: Sequence[_Sample]) -> float:
    """Summed loss over the labels, by the model's own forward."""
    total, causal = 0.0, architecture_of(model.config.model_type).causal
    for sample in samples:
        ids, labels, mask = (part.to(model.device) for part in (sample.ids, sample.labels, sample.mask))
        given = {"labels": labels} if causal else {}  # they tell a late prompt where the text ends
        logits = model(input_ids=ids, attention_mask=mask.long(), **given).logits
        if causal:
            logits, labels = logits[:, :-1], labels[:, 1:]
        total += F.cross_entropy(logits.float().mT, labels, ignore_index=_IGNORED, reduction="sum").item()
    return total
