"""The page docs/scale.md, its numbers from the cost model: ``PYTHONPATH=tests python tests/docs/scale_table.py``."""

from __future__ import annotations

from pathlib import Path

from stratatune.cache.store import SHARD_BYTES
from stratatune.costs.cost import cost

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
EXAMPLES, TOKENS = 10**9, 64
RATE = 400e12  # FLOP/s
PLANS = (("roberta-large", "bft@12"), ("roberta-large", "bft-adapter@18"), ("roberta-base", "bft-adapter@9"))
PAGE_HEAD = f"""# A billion examples: an estimate

This page estimates what a trunk cache for a very large data set takes, and when it pays off. The numbers come from the
cost model (`stratatune.costs.cost`) through `tests/docs/scale_table.py`; nothing here was measured, and no run of this
size has been made.

Assumptions: {EXAMPLES:,} examples of {TOKENS} tokens, a cache of the hidden states of every token, and a GPU that
sustains {RATE / 1e12:.0f} TFLOP/s in bf16 (about 40 % of the peak of an H100). GPU-hours are floating-point operations
divided by that rate; they do not include tokenising, waiting and evaluation.

* **once**: GPU-hours of the trunk over all examples, once.
* **again**: GPU-hours of an epoch that runs the trunk each time.
* **cached**: GPU-hours of an epoch that reads the cache; it reads while it computes.
* **reads**: the bandwidth that each GPU needs in a cached epoch so that the top never waits.
* **pays from**: the bandwidth per GPU below which it is faster to run the trunk again in each epoch.
"""
PAGE_TAIL = """
## What follows

* **For one epoch, use no cache.** The first epoch runs the trunk in any case; a cache pays off from the second epoch,
  seed, rate or plan of the same depth on. Give `--cache off`, or let `cache_limit` decide: if the cache would exceed
  it, the trunk runs in every epoch, with a notice.
* **For several epochs, keep shards near the GPUs.** A cache of this size belongs on local NVMe drives, where each node
  has the examples that it trains on, or on a parallel file system that gives every GPU the bandwidth in **reads**. With
  less bandwidth than **pays from**, the cache costs time. `cache_dtype: int8` halves the size and the reads of bf16.
* **Split the data first.** One cache is one folder on one file system, and opening it reads all its checksums. Split
  10^9 examples into files of about 10^7, with one cache each, built by one job each (`stratatune cache build`, a Slurm
  array): {parts} parts here.
* **Several GPUs for one part.** `torchrun` or `accelerate launch --multi_gpu` builds a cache with all GPUs of a node,
  and trains one run on them with the results of one process ([grids](grid.md#several-processes-for-one-run); tested
  under both with two processes).
* **Not supported.** This version cannot train one run over many data files in turn, read a cache from object storage,
  or spread one cache over the drives of several nodes. A run of this size would need these features.
"""


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    return f"{count / 1e12:,.1f} TB"


def row(model: str, plan: str, dtype: str) -> str:
    """One plan and one precision of the cache."""
    found = cost(plan, model, tokens=TOKENS, dtype=dtype, read_last=True)
    kept = found.cache_bytes_per_token * TOKENS * EXAMPLES
    again, cached = (
        flops * TOKENS * EXAMPLES / RATE for flops in (found.flops_per_token, found.flops_per_token_cached)
    )
    once = again - cached  # GPU-seconds
    cells = (
        size(kept),
        f"{kept / SHARD_BYTES:,.0f}",
        *(f"{seconds / 3600:,.0f} h" for seconds in (once, again, cached)),
    )
    speeds = (f"{kept / seconds / 1e9:.1f} GB/s" for seconds in (cached, again))
    return f"| {model} | `{plan}` | {dtype} | {' | '.join((*cells, *speeds))} |"


def page() -> str:
    """The whole page."""
    head = "| model | plan | kept as | cache | shards | once | again | cached | reads | pays from |"
    rows = [row(model, plan, dtype) for model, plan in PLANS for dtype in ("bf16", "int8")]
    return "\n".join([PAGE_HEAD, head, "|---" * 10 + "|", *rows, PAGE_TAIL.format(parts=EXAMPLES // 10**7)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
