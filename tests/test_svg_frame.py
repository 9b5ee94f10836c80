"""Our pictures are well-formed XML, their rules are their own, and each colour has a light and a dark form."""

import re
import xml.etree.ElementTree as xml

from stratatune.svg_frame import _COLOURS, picture, text


def test_the_frame():
    made = picture(
        "one",
        "A <title>",
        "below",
        "told & seen",
        [text(1, 2, "a < b", "soft")],
        height=99.6,
        rules=".x,.y{fill:$rule}",
    )
    root = xml.fromstring(made)
    assert root.get("viewBox") == "0 0 760 100" and root.get("class") == "one"
    assert [line.text for line in root.iter("{http://www.w3.org/2000/svg}text")] == ["A <title>", "below", "a < b"]
    style = next(root.iter("{http://www.w3.org/2000/svg}style")).text
    light, dark = _COLOURS["rule"]
    assert f".one .x,.one .y{{fill:{light}}}" in style
    assert f".one .x,.one .y{{fill:{dark}}}" in style.partition("@media")[2]
    assert "$" not in style
    for selector in re.findall(r"(?:^|\}|\{)\s*([^{}@]+)\{", style):
        assert all(one.startswith(".one") for one in selector.split(","))
