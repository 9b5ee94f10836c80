"""The page docs/scale.md, its numbers from the cost model: ``PYTHONPATH=tests python tests/docs/scale_table.py``."""

from __future__ import annotations

from pathlib import Path

from stratatune.cache.store import SHARD_BYTES
from stratatune.costs.cost import cost

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
EXAMPLES, TOKENS = 10**9, 64
RATE = 400e12  # FLOP/s
PLANS = (("roberta-large", "bft@12"), ("roberta-large", "bft-adapter@18"), ("roberta-base", "bft-adapter@9"))
PAGE_HEAD = f"""# A billion examples: the plan on paper

Made by `tests/docs/scale_table.py` from the cost model (`stratatune.costs.cost`); a test holds the page to it. Nothing
here was measured, and no run of this size has been made.

Assumed: {EXAMPLES:,} examples of {TOKENS} tokens, hidden states of every token kept, and a GPU that sustains
{RATE / 1e12:.0f} TFLOP/s in bf16 (about 40 % of the peak of an H100). GPU-hours are floating-point operations over that
rate; they leave out tokenising, waiting and evaluation.

* **once**: the trunk over all examples. **again**: an epoch that runs the trunk each time. **cached**: an epoch that
  reads instead; it reads while it computes.
* **reads**: what each GPU reads a second in a cached epoch if the top is never to wait. **pays from**: with less than
  this a second for each GPU, an epoch that runs the trunk again is the quicker one.
"""
PAGE_TAIL = """
## What follows

* **One epoch: no cache.** The first epoch runs the trunk in any case; a cache pays from the second epoch, seed, rate or
  plan of the same depth on. Give `--cache off`, or let `cache_limit` decide: over it the trunk runs every epoch, with a
  notice.
* **Several: shards near the GPUs.** A cache of this size belongs on local NVMe drives, each node the examples that it
  trains on, or on a parallel file system that gives every GPU the bandwidth in **reads**; below **pays from** it costs
  time. `cache_dtype: int8` halves what bf16 takes and reads.
* **Split the data first.** One cache is one folder on one file system and is opened with its checksums read. For
  10^9 examples cut the data into files of about 10^7, one cache each, built by one job each (`stratatune cache build`,
  a Slurm array): {parts} parts here.
* **Several GPUs for one part**: `torchrun` or `accelerate launch --multi_gpu` builds a cache with all of a node's
  GPUs, each its share, and trains one run on them with the numbers of one process (docs/grid.md; tested under both with
  two processes).
* **What this version does not do**: train one run over many data files in turn, read a cache from object storage, or
  spread one cache over the drives of several nodes. The plan above needs those; they are not written.
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
