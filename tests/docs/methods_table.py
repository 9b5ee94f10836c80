"""The page docs/methods.md, made from the registries: ``PYTHONPATH=tests python tests/docs/methods_table.py``.

Every method is put into a tiny random model of every family and merged; what is refused is listed with its reason.
"""

from __future__ import annotations

from pathlib import Path

import tiny
from stratatune.errors import PlanError
from stratatune.exits.registry import EXITS
from stratatune.model.attach import apply
from stratatune.model.merging import merge
from stratatune.plan import ARCHITECTURES
from stratatune.plan.methods import BLOCK_METHODS, INSERTIONS
from stratatune.shapes.relatives import RELATIVES

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
OPTIONS = {
    "idpg": "tokens=2, bottleneck=8, phm=4",
    "prompt": "tokens=3",
    "late_prompt": "depth=2",
    "adapter": "depth=2",
}
HEAD = """# Methods on architectures

This table shows which method works on which architecture, and whether it can be merged and exported.

* **merges**: the method works, and `st.merge(model)` folds it into the base weights.
* **in memory**: the method works, and `st.merge(model, in_memory=True)` folds it in; a saved model would lose it.
* **works**: the method works, but cannot be folded.
* **-**: the method is refused; the reasons are [below](#refused-and-why).
* **exits** (the last column): the formats of `stratatune export --to` that can hold the method, on BERT
  ([export.md](export.md)).

`tests/docs/methods_table.py` makes this page from the registries, with tiny random models of four blocks, and a test
checks it. Block methods are on the upper two blocks (frozen depth 2), or on all blocks of ALBERT, which share their
weights (frozen depth 0). Insertions are at depth 2, `prompt` and `idpg` at the input (frozen depth 0). In an
encoder-decoder, block methods are on the upper blocks of both stacks, and insertions in the encoder; an `adapter`
can also be in the decoder (`stack=dec`). Architectures that differ from one of these in a name, a bias or a norm
(`shapes/relatives.py`) are left out.
"""


def plan_of(kind: str, family: str) -> str:
    """A plan that holds this method alone."""
    layers = ":" if family == "albert" else "2:"
    written = f"{kind}({OPTIONS[kind]})" if kind in OPTIONS else kind
    return written if kind in INSERTIONS else f"{layers} {written}"


TINY = {"encoder": tiny.tiny_of, "decoder": tiny.tiny_decoder, "encoder-decoder": tiny.tiny_encoder_decoder}


def outcome(kind: str, family: str, stacks: str) -> tuple[str, str]:
    """What comes of it (``merges``, ``in memory``, ``works`` or ``-``), and the reason where something is refused."""
    model = TINY[stacks](family)
    try:
        tuned = apply(model, plan_of(kind, family))
    except PlanError as error:
        return "-", f"{error.message}; {error.hint}"
    try:
        merge(tuned)
    except PlanError as error:
        if "in_memory" not in error.hint:
            return "works", ""
        merge(tuned, in_memory=True)
        return "in memory", ""
    return "merges", ""


def page() -> str:
    """The whole page."""
    kinds = [kind for kind in (*BLOCK_METHODS, *INSERTIONS) if kind != "frozen"]
    rows = sorted((row for row in ARCHITECTURES if row not in RELATIVES), key=lambda row: list(TINY).index(row.family))
    families = [
        (row.name if row.applies or row.family not in ("encoder", "decoder") else row.model_types[0], row.family)
        for row in rows
    ]
    found = {(kind, family): outcome(kind, family, stacks) for kind in kinds for family, stacks in families}
    lines = [HEAD, f"| | {' | '.join(family for family, _ in families)} | exits |"]
    lines.append("|---" * (len(families) + 2) + "|")
    for kind in kinds:
        cells = [found[kind, family][0] for family, _ in families]
        attached = apply(tiny.tiny_bert(), plan_of(kind, "bert")).attached
        exits = [name for name, one in EXITS.items() if not one.refusals(attached)]
        lines.append(f"| `{kind}` | {' | '.join(cells)} | {', '.join(exits)} |")
    reasons = [f"* `{kind}` on {family}: {why}" for (kind, family), (_, why) in found.items() if why]
    return "\n".join([*lines, "", "## Refused, and why", "", *reasons]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
