"""What each of several processes does in test_cached_together.py: ``st.cached``, then ``Trainer`` and Accelerate.

Called as ``cached_together.py MODEL OUT ROWS BATCH [plain]``, by a launcher or as one would. Each process writes
``OUT/RANK.json`` and a file of tensors for each of the ways.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

import stratatune as st
import tiny
from stratatune.progress import Reporter

FOLDER, OUT, ROWS, BATCH, *PLAIN = sys.argv[1:]
RANK = int(os.environ.get("RANK", "0"))
WORDS = ["a good film", "a bad film that she saw", "the best story", "a very sad and slow story of the city", "fine"]


def prepared(place):
    """The tuned model and its data, cached in ``place``; and how often the first block runs from here on."""
    torch.manual_seed(0)
    model = st.apply(AutoModelForSequenceClassification.from_pretrained(FOLDER), "2: full")
    ran = []
    # Of the block itself hooks are called even where the cache stands in for it; what is inside does not run then.
    linear = next(one for one in model.attached.backbone.blocks[0].modules() if isinstance(one, torch.nn.Linear))
    linear.register_forward_hook(lambda *_: ran.append(1))
    tokenizer = tiny.tiny_tokenizer("bert")
    data = Dataset.from_list([{**tokenizer(WORDS[n % 5]), "labels": n % 2} for n in range(int(ROWS))])
    if place:
        data, model = st.cached(model, data, cache=place, reporter=Reporter(quiet=True))
    return model, data, DataCollatorWithPadding(tokenizer), ran


def by_trainer(model, data, collate):
    arguments = TrainingArguments(
        str(Path(OUT) / "trainer"), num_train_epochs=2, per_device_train_batch_size=int(BATCH), learning_rate=0.1,
        optim="sgd", use_cpu=True, seed=3, report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1,
        average_tokens_across_devices=False,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate)
    trainer.train()
    return [one["loss"] for one in trainer.state.log_history if "loss" in one]


def by_accelerate(model, data, collate):
    accelerator = Accelerator(cpu=True)
    loader = torch.utils.data.DataLoader(data, batch_size=int(BATCH), collate_fn=collate)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    top, optimiser, loader = accelerator.prepare(model, optimiser, loader)
    losses = []
    for batch in loader:
        loss = top(**batch).loss
        accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
    return losses


def main():
    said = {}
    for name, way, place in (
        # Accelerate first: cached must leave it to say what kind of process group there is.
        ("accelerate", by_accelerate, str(Path(OUT) / "cache")),
        ("trainer", by_trainer, "ram"),
    ):
        model, data, collate, ran = prepared(None if PLAIN else place)
        filled = len(ran)
        losses = way(model, data, collate)
        said[name] = {"losses": losses, "filled": filled, "trained": len(ran) - filled}
        trained = {key: one.detach().clone() for key, one in model.attached.trained().items()}
        save_file(trained, Path(OUT) / f"{name}-{RANK}.safetensors")
    (Path(OUT) / f"{RANK}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
