"""The time of a step from the cache on a small model, by operation: P9's plan on TREC's lengths, by torch's profiler.

    python -m benchmarks.step --model MODEL --data GLUE_AND_TREC_FOLDER [--plan "3/4: full"]

The model's shape with random weights, the top by ``upper-half`` unless another plan is named, batches of 32 cut by
length, bf16, one CPU thread. Shares are of the processor's own time in each operation; the rate of the matrix products
is shown next to that of one large product in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoTokenizer

from benchmarks.accuracy import FOLDERS
from benchmarks.gpu import peak
from benchmarks.jobs import Record, row, show_rows, write_rows
from stratatune.data.read_options import ReadOptions
from stratatune.data.readers import read
from stratatune.studies.bench.arms import BenchSetting, Ours, random_data

PLAN, STEPS = "upper-half", 40
PARTS = {
    "casts": ("aten::copy_",),
    "dropout's random numbers": ("aten::bernoulli_",),
    "AdamW and clipping": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "Optimizer.step#ClippingAdamW.step"),
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")


def measured(model: str, data: str, plan: str = PLAN) -> list[Record]:
    """One row: the shares of an epoch's step."""
    import numpy as np

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = read(str(Path(data) / FOLDERS["trec"]), ReadOptions(task="trec", split="train")).texts[0]
    lengths = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])
    config = AutoConfig.from_pretrained(model).to_dict()
    with tempfile.TemporaryDirectory() as folder:
        setting = BenchSetting(config, random_data(lengths, config["vocab_size"]), timed=STEPS)
        ours = Ours(setting, plan, Path(folder))
        ours.epoch()
        seconds = min(ours.epoch() for _ in range(5)) / STEPS
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as found:
            ours.epoch()
    events = {event.key: event for event in found.key_averages()}
    total = sum(event.self_cpu_time_total for event in events.values())

    def share(names: tuple[str, ...]) -> float:
        return sum(events[name].self_cpu_time_total for name in names if name in events) / total

    rate = sum(events[name].flops for name in PRODUCTS) / (share(PRODUCTS) * total) / 1e3  # microseconds
    products = f"matrix products {share(PRODUCTS):.0%} at {rate:.0f} GFLOP/s (a large one: {peak(setting) / 1e9:.0f})"
    shares = ", ".join([products, *(f"{name} {share(operations):.0%}" for name, operations in PARTS.items())])
    what = f"a step of {plan} on TREC's lengths"
    return [row("P9 profile", what, "-", "-", f"{1000 * seconds:.0f} ms: {shares}", "benchmarks.step")]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the folder with sentence/TREC")
    parser.add_argument("--plan", default=PLAN)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(args.model, args.data, args.plan)
    write_rows(rows, 1)
    show_rows(rows)


if __name__ == "__main__":
    main()
