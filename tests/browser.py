"""A headless Chromium that looks at a page: its size, its console, the signs that it cannot draw."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# The page lies in a frame of the width asked for: a headless window is never narrower than 500 pixels.
_FRAME = """<!doctype html><meta charset="utf-8"><body><iframe id="page" style="border:0;width:{width}px;height:900px"
srcdoc="{page}"></iframe><pre id="told"></pre><script>
const frame = document.getElementById("page"), told = document.getElementById("told");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement, seen = frame.contentWindow;
  const outside = [...page.body.querySelectorAll("*")].filter(one => {{
    const box = one.getBoundingClientRect();
    return box.width && box.right > root.clientWidth + 1 && !one.closest(".table, .picture, .skip");
  }}).map(one => one.tagName + "." + (one.getAttribute("class") || ""));
  const cut = [...page.querySelectorAll("caption")].filter(one => {{
    const text = page.createRange();
    text.selectNodeContents(one);
    return text.getBoundingClientRect().right > root.clientWidth + 1;
  }}).map(one => one.textContent);
  const signs = [...new Set(page.body.textContent)].filter(sign => sign.codePointAt(0) > 126 && sign.trim());
  const font = seen.getComputedStyle(page.body).fontFamily;
  const drawn = sign => {{
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    pen.font = "40px " + font;
    pen.fillText(sign, 10, 60);
    return canvas.toDataURL();
  }};
  const nothing = drawn("\\u{{10fffe}}");
  told.textContent = JSON.stringify({{
    width: root.clientWidth, scroll: root.scrollWidth, outside, cut, text: page.body.innerText.length,
    missing: signs.filter(sign => drawn(sign) === nothing), signs: signs.length,
    background: seen.getComputedStyle(page.body).backgroundColor, ink: seen.getComputedStyle(page.body).color,
  }});
}};
</script>"""


def chromium() -> str:
    """Its path; the test is skipped where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    return found


def look(page: str, folder: Path, width: int, *, dark: bool) -> dict[str, Any]:
    """What the browser found, with what it said on its console under ``console``."""
    file = folder / f"frame-{width}-{dark}.html"
    file.write_text(_FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    options = [
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        scheme,
    ]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--window-size=1400,1000"]
    done = subprocess.run(
        [chromium(), *options, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    told = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(told[1])), "console": console}
