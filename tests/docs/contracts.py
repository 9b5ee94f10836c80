"""The contracts in docs/architecture.md, read off the classes: ``PYTHONPATH=tests python tests/docs/contracts.py``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from stratatune.exits.exit import Exit
from stratatune.methods.registry import InsertionMethod, Method
from stratatune.model.families.family import Family
from stratatune.model.heads.head import Head
from stratatune.model.question import Question
from stratatune.objectives.objective import Objective

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
START, END = "<!-- contracts: made by tests/docs/contracts.py -->\n", "<!-- end -->\n"
CONTRACTS = (Question, Method, InsertionMethod, Family, Head, Objective, Exit)


def contract(one: type) -> list[str]:
    """A class with what one must write for it; what it brings itself is named in a line."""
    place = one.__module__.partition(".")[2].replace(".", "/")
    lines = [f"class {one.__name__}:  # {place}.py"]
    if not inspect.isabstract(one) and one is not Exit:
        return [*lines, *(f"    {field.name}: {field.type}" for field in dataclasses.fields(one))]
    members = vars(one)
    must = getattr(one, "__abstractmethods__", frozenset())
    own = [name for name in members if name in must or (one is Exit and name in ("refusals", "write", "code"))]
    fields = [name for name in one.__annotations__ if str(one.__annotations__[name]).startswith("ClassVar")]
    lines += [f"    {name}: {str(one.__annotations__[name])[9:-1]}" for name in fields if name not in members]
    for name in own:
        lines += [f"    # {_sentence(members[name])}", f"    def {name}{_signature(members[name])}: ..."]
    brought = [name for name in members if name not in own and not name.startswith("_") and name != "body"]
    more = [name for name in brought if callable(_function(members[name])) or name in fields]
    if more:
        lines.append(f"    # with a default: {', '.join(more)}")
    return lines


def _function(member: Any) -> Any:
    return getattr(member, "__func__", None) or getattr(member, "fget", None) or member


def _signature(member: Any) -> str:
    return str(inspect.signature(_function(member))).replace("'", "")


def _sentence(member: Any) -> str:
    """The first paragraph of its docstring."""
    said = " ".join((inspect.getdoc(_function(member)) or "").partition("\n\n")[0].split())
    return re.sub(r":(?:meth|attr|class):`([^`]+)`", r"\1", said).replace("``", "`")


def page(text: str) -> str:
    """The page with the contracts in their place."""
    before, _, rest = text.partition(START)
    code = "\n\n".join("\n".join(contract(one)) for one in CONTRACTS)
    return f"{before}{START}```text\n{code}\n```\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
