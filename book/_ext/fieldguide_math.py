"""Formulas as MathML, written when the site is built.

A page with MathJax would download 0.3 MB of program and fonts, and jump when
the formulas appear. Every current browser draws MathML by itself; all it lacks
is one typeface for all platforms, so the site brings the part of STIX Two Math
that its formulas use, about 40 kB. It comes in a script, because that is the one
way to have it there before the first line is set, and nothing moves afterwards.
"""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape, unescape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from docutils import nodes
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

FONT = "STIXTwoMath-Regular.ttf"  # Open Font License, from the package ziamath
ALIGNED = re.compile(r"\\(begin|end)\{(aligned|split)\}")
LETTERS = re.compile(r'(?:<mi mathvariant="normal">[A-Za-z]</mi>){2,}')
FUNCTION = re.compile(r"[A-Za-z]{2,}")
FORMULA = re.compile(r"<math.*?</math>", re.DOTALL)
# What a browser takes from the typeface without its being written in the page:
# roots, braces, accents, and the slanted letters that <mi> turns letters into.
IMPLIED = "√⏞⏟^~¯\u02c6\u02dc→∑∏\u210e"
SLANTED = {"A": 0x1D434, "a": 0x1D44E, "\u0391": 0x1D6E2, "\u03b1": 0x1D6FC}
SCRIPT = """document.fonts.add(new FontFace("Field Guide Math",
  Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0))));
"""

logger = logging.getLogger(__name__)


def mathml(tex: str, *, block: bool = False) -> str:
    """One `<math>` element; ValueError if a command in `tex` is unknown."""
    source = ALIGNED.sub(r"\\\1{align*}", tex.strip())
    try:
        markup = convert(source, display="block" if block else "inline")
        markup = LETTERS.sub(_word, re.sub(' xmlns="[^"]*"', "", markup))
        formula = ElementTree.fromstring(markup)
    except Exception as error:  # the converter raises many kinds, some bare
        raise ValueError(f"formula {tex!r}: {type(error).__name__} {error}") from error
    for element in formula.iter():
        if re.match(r"\\|&", element.text or ""):
            raise ValueError(f"formula {tex!r}: {element.text} is not understood")
    _space(formula)
    formula.set("alttext", tex.strip())
    return ElementTree.tostring(formula, encoding="unicode")


def _word(match: re.Match) -> str:
    return f"<mi>{re.sub('<[^>]*>', '', match[0])}</mi>"


def _space(parent: Element) -> None:
    """Set the spaces that TeX sets: thin after log, none around a slash."""
    for place, child in reversed(list(enumerate(parent))):
        _space(child)
        if child.tag == "mo" and child.text == "/":
            child.attrib.update(lspace="0", rspace="0")
        elif child.tag == "mo" and FUNCTION.fullmatch(child.text or ""):
            child.tag = "mi"
        named = child[0] if child.tag in ("msub", "msup", "munder") else child
        if parent.tag not in ("math", "mrow", "mtd") or named.tag != "mi":
            continue
        if FUNCTION.fullmatch(named.text or ""):
            for gap, beside in ((place + 1, place + 1), (place, place - 1)):
                if 0 <= beside < len(parent) and _is_operand(parent[beside]):
                    parent.insert(gap, Element("mspace", width="0.167em"))


def _is_operand(element: Element) -> bool:
    if element.tag == "mrow" and len(element):
        element = element[0]  # brackets that grow are a row of their own
    return element.tag not in ("mo", "mspace")


def _render(self: HTML5Translator, node: nodes.Element, block: bool) -> str:
    try:
        return mathml(node.astext(), block=block)
    except ValueError as error:
        logger.warning(str(error), location=node)
        return escape(node.astext())


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(_render(self, node, block=False))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    ids = "".join(f' id="{escape(name)}"' for name in node.get("ids", [])[:1])
    number = f"<span>({node['number']})</span>" if node.get("number") else ""
    formula = _render(self, node, block=True)
    attributes = f'class="fg-math" tabindex="0"{ids}'
    self.body.append(f"<div {attributes}>{formula}{number}</div>\n")
    raise nodes.SkipNode


def slanted(letters: str) -> str:
    """The mathematical italics of `letters`."""
    pairs = [(c, first) for c in sorted(set(letters)) for first in SLANTED]
    places = [(ord(c) - ord(first), SLANTED[first]) for c, first in pairs]
    return "".join(chr(slant + place) for place, slant in places if 0 <= place < 26)


def write_font(app: Sphinx, exception: Exception | None) -> None:
    """Cut the typeface down to what the finished pages use."""
    if exception or app.builder.name != "html":
        return
    pages = (page.read_text("utf8") for page in Path(app.outdir).rglob("*.html"))
    written = "".join(unescape("".join(FORMULA.findall(page))) for page in pages)
    options = Options(layout_features=["*"], notdef_outline=True, hinting=False)
    with TTFont(files("ziamath.fonts") / FONT, recalcTimestamp=False) as font:
        cut = Subsetter(options)
        cut.populate(text=IMPLIED + written + slanted(written))
        cut.subset(font)
        font.flavor = "woff"
        font.save(packed := BytesIO())
    script = SCRIPT % b64encode(packed.getvalue()).decode()
    (Path(app.outdir) / "_static" / "fieldguide-math.js").write_text(script, "utf8")


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("config-inited", _choose)
    app.connect("build-finished", write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _choose(app: Sphinx, config) -> None:
    config.html_math_renderer = "mathml"
