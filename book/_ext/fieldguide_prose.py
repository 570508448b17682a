"""Sentences that move a figure: a link names a control and the value it takes.

[after 50 steps](#fig:steps=50)                 the nearest figure above that has it
[head 2](#fig:where?layer=27&head=2)            the figure of the function `where`
[there](attention.ipynb#fig:where?word=it)      a figure of another page

Each link is compared with the settings that the notebook stores and becomes a whole
address, the one that the figure's own button gives. A value is written as the reader
sees it, or as the function takes it; "+" stands for a space.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from difflib import get_close_matches
from urllib.parse import parse_qsl, urlencode

LINK = re.compile(
    r"\[(?P<text>(?:[^][]|\[[^][]*\])+)\]"
    r"\((?P<page>[\w./-]*)#fig:(?:(?P<name>\w+)\?)?(?P<state>[^()\s]+)\)"
    r"|(?P<tag><a href=)(?P<quote>['\"])(?P<html>[\w./-]*)"
    r"#fg=fg-(?P<own>\w+)&(?:amp;)?(?P<whole>.*?)(?P=quote)"
)
SPEC = re.compile(r'class="fg-spec">(.*?)</script>')

Figures = list[tuple[int, dict]]  # where each stands, and its spec


def figures(cells: list[dict]) -> Figures:
    """The figures that a notebook stores, in its order."""
    shown = [
        (k, "".join(output.get("data", {}).get("text/html", "")))
        for k, cell in enumerate(cells)
        for output in cell.get("outputs", [])
    ]
    return [(k, json.loads(spec)) for k, text in shown for spec in SPEC.findall(text)]


def whole(text: str, at: int, stored: Callable[[str], Figures]) -> str:
    """The text of cell `at` with whole addresses; ValueError says what is wrong."""

    def link(found: re.Match) -> str:
        page = found["page"] or (found["html"] or "").replace(".html", ".ipynb")
        name, said = found["name"] or found["own"], found["state"] or found["whole"]
        try:
            query = parse_qsl(html.unescape(said), True, True)
            state = address(stored(page), 0 if page else at, name, dict(query))
        except (OSError, ValueError) as error:
            raise ValueError(f"{found[0]}: {error}") from error
        place = html.escape(page.replace(".ipynb", ".html") + state)
        return f'<a href="{place}"' + ("" if found["tag"] else f">{found['text']}</a>")

    return LINK.sub(link, text)


def address(stored: Figures, at: int, name: str | None, wanted: dict) -> str:
    """`#fg=...` of the nearest figure above the place `at`, else of the first below."""
    fit = [
        (k, spec)
        for k, spec in stored
        if name in (None, spec["id"][3:])
        and wanted.keys() <= {c["name"] for c in spec["controls"]}
    ]
    if not fit:
        told = ", ".join(
            f"{spec['id'][3:]}?{'&'.join(c['name'] for c in spec['controls'])}"
            for _, spec in stored
        )
        raise ValueError(f"no such figure and controls; there are {told}")
    above = [spec for k, spec in fit if k < at]
    spec = above[-1] if above else fit[0][1]
    controls = {c["name"]: c for c in spec["controls"]}
    keys = {c: json.dumps(key(controls[c], said)) for c, said in wanted.items()}
    return "#" + urlencode({"fg": spec["id"], **keys})


def key(control: dict, said: str):
    """The value of a control that is called so, as a label or as a value."""
    keys, labels = control["keys"], control["labels"]
    try:
        number = float(said) if control["numeric"] else None
    except ValueError:
        number = None
    found = [
        k
        for k, label in zip(keys, labels, strict=True)
        if said in (label, k, json.dumps(k)) or k == number
    ]
    if not found and control["free"]:
        found = [said] if control["kind"] == "text" else [number]
    if len(found) == 1 and found[0] is not None:
        return found[0]
    near = get_close_matches(said, labels, 3, 0)
    if number is not None:
        near = sorted(labels, key=lambda label: abs(keys[labels.index(label)] - number))
    why = "means several values" if found else "is not a value"
    told = ", ".join(near[:3])
    raise ValueError(f"{said} {why} of {control['name']}; near are {told}")
