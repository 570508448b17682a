"""What the book claims: a number, what it should be, and why we think so.

A cell ends in `claim(...)`. The claim raises when the measured value is not what
it should be; otherwise it shows a sentence that is the same on every machine, with
the measured value marked, so that a later run is compared within the tolerance.
The page `claims.md` is built from these outputs, so a name is used once in the
whole book (the build refuses a second use).

An *exact* claim is a closed form, a count or a published figure:

    claim("leak-of-the-future", leak, expect=0, source="derived, from the mask")

A *trend* is something that was trained, sampled or timed. It says what the value
would be if the effect were absent (`null`), what stands there in its place
(`against`), and how far the values lay apart, largest minus smallest, over three
seeds and two CPU modes (`spread`):

    claim("copied-from-far", accuracy, kind="trend", expect=0.97, tol=0.03,
          null=0.1, against="by guessing", spread=0.008, source="derived")

A table of numbers that were trained, which no claim needs, is `measured`: each of
them is compared within the same tolerance.

    measured([{"width": 4, "loss": 1.62}, {"width": 8, "loss": 1.51}], tol=0.05)
"""

import math
import re
from dataclasses import dataclass
from html import escape, unescape
from numbers import Integral, Real

from fieldguide.check import require

__all__ = ["Claim", "ClaimError", "Measured", "claim", "measured", "sources"]

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
SOURCE = re.compile(r"(?P<key>[A-Za-z][\w:+-]*)(, (?P<place>\S.*))?")
DIGITS = 1e-9  # relative; what two ways of summing a closed form may differ by


class ClaimError(AssertionError):
    """A measured value lies outside its claim's tolerance."""


@dataclass(frozen=True, repr=False)
class Claim:
    """A claim that held when its cell ran. Made by `claim`, shown by the notebook."""

    name: str
    value: int | float
    expect: int | float
    tol: int | float
    kind: str
    source: str
    null: int | float | None = None
    spread: int | float | None = None
    against: str | None = None

    @property
    def allowed(self) -> int | float:
        """How far the value may lie from `expect`; see `claim` for a `tol` of 0."""
        if self.tol or (isinstance(self.value, int) and isinstance(self.expect, int)):
            return self.tol
        return DIGITS * abs(self.expect)

    @property
    def expected(self) -> str:
        """The stable half of the sentence: no measured value in it."""
        text = f"expected {number(self.expect)}"
        if self.tol:
            text += f" ± {number(self.tol)}"
        if self.null is not None:
            text += f", and {number(self.null)} without the effect"
        return text

    def __repr__(self) -> str:
        return f"Claim {self.name} holds: {self.expected}. Source: {self.source}."

    def _repr_html_(self) -> str:
        facts = {"kind": self.kind, "expect": self.expect, "tol": self.tol}
        facts |= {"null": self.null, "spread": self.spread, "source": self.source}
        facts |= {"against": self.against}
        data = "".join(
            f' data-{key}="{escape(str(value))}"'
            for key, value in facts.items()
            if value is not None
        )
        words = self.name.replace("-", " ")
        other = ""
        if self.null is not None:
            null = number(float(f"{self.null:.3g}"))
            other = f". If there were no effect, it would be {null}."
            if self.against is not None:
                other = f" ({escape(self.against)}: {null})"
        return (
            f'<p class="fg-claim" id="claim-{self.name}"{data}>'
            f'<span aria-hidden="true">✓</span> <span class="fg-claim-name">{words}'
            f"</span>: {marked(self.value, self.allowed)}{other}</p>"
        )


@dataclass(frozen=True, repr=False)
class Measured:
    """A table of measured numbers. Made by `measured`, shown by the notebook."""

    rows: tuple[dict, ...]
    tol: dict[str, float]

    def __repr__(self) -> str:
        heads = ", ".join(self.rows[0])
        return f"{len(self.rows)} rows of measured values: {heads}"

    def _repr_html_(self) -> str:
        heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in self.rows[0])
        lines = [f"<thead><tr>{heads}</tr></thead><tbody>"]
        for row in self.rows:
            cells = [self.cell(column, value) for column, value in row.items()]
            first = cells[0].replace("<td>", '<th scope="row">').replace("/td", "/th")
            lines.append(f"<tr>{first}{''.join(cells[1:])}</tr>")
        return f'<table class="fg-table">{"".join(lines)}</tbody></table>'

    def cell(self, column: str, value) -> str:
        if column in self.tol:
            return f"<td>{marked(value, self.tol[column])}</td>"
        text = value if isinstance(value, str) else number(value)
        return f"<td>{escape(text)}</td>"


def measured(rows: list[dict], *, tol: float | dict[str, float]) -> Measured:
    """A table whose columns of floats are compared within `tol`, not to the letter.

    rows  a dict for each row, the same columns in all: text, whole numbers, floats.
    tol   absolute, above 0: one for all columns of floats, or one for each by name.

    Raises ValueError for rows of other columns, for a column of floats without a
    tolerance and for a tolerance of something else.
    """
    require(rows and all(rows), "rows", rows, "at least one row of one column")
    columns = list(rows[0])
    for row in rows:
        require(list(row) == columns, "rows", list(row), f"of the columns {columns}")
    known = [{c: plain(c, value) for c, value in row.items()} for row in rows]
    floats = [c for c in columns if any(isinstance(row[c], float) for row in known)]
    given = tol if isinstance(tol, dict) else dict.fromkeys(floats, tol)
    allowed = f"one for each of {floats}, the columns of floats"
    require(set(given) == set(floats) and floats, "tol", tol, allowed)
    widths = {column: real("tol", given[column]) for column in floats}
    for width in widths.values():
        require(width > 0, "tol", width, "above 0")
    return Measured(tuple(known), widths)


def plain(column: str, value) -> str | int | float:
    return value if isinstance(value, str) else real(column, value)


def marked(value: int | float, tol: int | float) -> str:
    """A measured value as the page shows it, with what a later run may differ by."""
    return (
        f'<data class="fg-measured" value="{value}" data-tol="{tol}">'
        f"{number(value, 4)}</data>"
    )


def restored(html: str) -> Claim | None:
    """The claim that this is the page of, or None: its facts are all stored there."""
    found = re.match(r'<p class="fg-claim" id="claim-([a-z0-9-]+)"([^>]*)>', html)
    value = re.search(r'<data class="fg-measured" value="([^"]*)"', html)
    if not found or not value:
        return None
    facts = {k: unescape(v) for k, v in re.findall(r'data-(\w+)="([^"]*)"', found[2])}
    for key in {"expect", "tol", "null", "spread"} & set(facts):
        facts[key] = read(facts[key])
    return Claim(found[1], read(value[1]), **facts)


def read(text: str) -> int | float:
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def claim(
    name: str,
    value,
    *,
    expect,
    tol=0,
    kind: str = "exact",
    source: str,
    null=None,
    spread=None,
    against=None,
) -> Claim:
    """Assert that `value` is within `tol` of `expect`, and return what to show.

    name    a slug, unique in the book: "dot-product-variance".
    value   the measured number: Python, numpy or a tensor of one element, in the
            unit that the name or the text beside it states.
    tol     absolute. With 0, integers must be equal, and a closed form in floats
            must agree to nine digits (an expected 0 must be 0); whatever is computed
            in float32, or printed rounded by its source, needs a `tol` of its own.
            An exact claim's is at most a hundredth of `expect` (1e-4 if that is 0),
            a trend's at most half of |expect - null|.
    source  a key of references.bib or the word "derived", then, after a comma,
            where in it: "vaswani2017attention, section 3.2.1"; several joined by "; ".
    null    trends only: the value without the effect, at least 2 `tol` away.
    spread  trends only: at most a third of `tol`.
    against trends only: what `null` is the value of, in the reader's words, such as
            "with one layer" or "by guessing"; shown beside it.

    Raises ClaimError outside the tolerance, ValueError for a claim that says
    nothing (a bad name, NaN, a tolerance as wide as the effect or as the value).
    """
    require(isinstance(name, str) and SLUG.fullmatch(name), "name", name, "a slug")
    require(kind in ("exact", "trend"), "kind", kind, "'exact' or 'trend'")
    require(sources(source), "source", source, "a key of references.bib or 'derived'")
    value, expect = real("value", value), real("expect", expect)
    tol = real("tol", tol)
    require(tol >= 0, "tol", tol, "at least 0")
    if kind == "trend":
        null, spread = real("null", null), real("spread", spread)
        most = abs(expect - null) / 2 * (1 + DIGITS)
        why = f"at most {most:g}, half of |expect - null|, and above 0"
        require(0 < tol <= most, "tol", tol, why)
        require(0 <= 3 * spread <= tol, "spread", spread, "a third of tol at most")
        told = against is None or (isinstance(against, str) and against.strip())
        require(told, "against", against, "a few words, or None")
    else:
        absent = {"null": null, "spread": spread, "against": against}
        for key, given in absent.items():
            require(given is None, key, given, "left out of an exact claim")
        most = abs(expect) / 100 or 1e-4
        why = f"at most {most:g}, a rounding of what is exact"
        require(tol <= most, "tol", tol, why)
    made = Claim(name, value, expect, tol, kind, source, null, spread, against)
    if abs(value - expect) > made.allowed:
        raise ClaimError(f"Claim {name} fails: measured {value!r}, {made.expected}.")
    return made


def sources(text: str) -> list[tuple[str, str]]:
    """Split a `source` into (bibliography key, place); [] if it is malformed."""
    parts = text.split("; ") if isinstance(text, str) else []
    found = [SOURCE.fullmatch(part) for part in parts]
    return [(m["key"], m["place"] or "") for m in found if m] if all(found) else []


def real(name: str, value) -> int | float:
    """`value` as a finite int or float, out of whatever holds one number."""
    size = getattr(value, "numel", None) or getattr(value, "size", 1)
    size = size() if callable(size) else size
    number = value.item() if size == 1 and hasattr(value, "item") else value
    ok = isinstance(number, Real) and not isinstance(number, bool)
    require(ok and math.isfinite(number), name, value, "one finite number")
    return int(number) if isinstance(number, Integral) else float(number)


def number(value: int | float, digits: int = 10) -> str:
    """`value` as the sentence shows it: 1,049,600 or 0.0625 or 3.1e-08."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}g}"
