"""The documentation site: every page is in its navigation, every link leads somewhere, every message is a real one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stratatune.data.tasks import TASKS
from stratatune.objectives.registry import OBJECTIVES
from stratatune.plan import BLOCK_METHODS, INSERTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(DOCS.rglob("*.md"))
OUTSIDE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "recipes" / "README.md", ROOT / "SECURITY.md"]

_LINK = re.compile(r"!?\[[^\]\[]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_CODE = re.compile(r"^(`{3,}).*?^\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def named(nav: list) -> Iterator[str]:
    """The files of a navigation."""
    for one in nav:
        (value,) = one.values()
        yield from [value] if isinstance(value, str) else named(value)


def links(page: Path) -> list[str]:
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as Markdown's toc makes them; outside the site as GitHub does."""
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for title in re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        bare = re.sub(r"[^\w\s-]", "", plain).lower()
        found |= {re.sub(r"[-\s]+", "-", bare.strip()), bare.replace(" ", "-")}
    return found


def test_every_page_is_in_the_navigation():
    found = list(named(SITE["nav"]))
    assert len(found) == len(set(found))
    assert sorted(found) == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", [*PAGES, *OUTSIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if page in PAGES:
            assert target.is_relative_to(DOCS), f"{link}: the site has no page for it"
        if anchor:
            assert anchor in anchors(target), link


def test_the_site_is_strict_and_fetches_nothing():
    assert SITE["strict"] is True
    assert SITE["theme"]["font"] is False
    assert not re.search(r"https?://", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_every_message_of_troubleshooting_is_one_of_the_code():
    headings = re.findall(r"^### (.+)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*f?"', "", source).lower()  # a message over two lines is one
    messages = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading)]
    assert len(messages) > 20
    foreign = {"no space left"}  # the system's own words
    lacking = [
        message
        for message in messages
        for part in map(str.strip, message.split("..."))
        if part.strip(",") and message not in foreign and part.strip(", ").lower() not in joined
    ]
    assert lacking == []
    assert [title.strip("`. ").lower() for title in headings] == sorted(
        title.strip("`. ").lower() for title in headings
    )


def test_readme_names_all_that_is_supported():
    """Objectives, methods, insertions and tasks of the table at the end; architectures stand there in words."""
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", README.partition("## What is supported")[2], flags=re.MULTILINE)
    said = {name: set(re.findall(r"`([a-z0-9_-]+)`", text)) for name, text in rows}
    assert said["objectives"] == set(OBJECTIVES)
    assert said["methods of a block"] == set(BLOCK_METHODS)
    assert said["at a depth"] == set(INSERTIONS)
    shown = {re.sub(r"\W", "", name).lower() for name in re.split(r"[,;/ ]+", dict(rows)["tasks"])}
    assert {re.sub(r"\W", "", name) for name in TASKS} <= shown
