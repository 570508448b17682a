"""What the site does besides Jupyter Book's own: light, offline, accessible.

- One style sheet and one script a page, in place of some twenty files, without the
  icon font and the rules that no page needs: the theme's own pages load 2.5 MB.
- No address of another host is loaded. `SITE_URL`, if set when the site is
  built, names where it will be served: it goes into the social cards and makes
  the links of the page for missing addresses absolute.
- A cell's first lines `#| ...` stay in the notebook, not in the page; `#| fold: LABEL`
  folds its code under that label, below what the cell shows. Cells in a row with one
  label are one fold. The set-up stands below the first figure.
- An exercise's text, up to its hints, stands in a box.
- A drawing is told from a picture, so that the dark mode can turn it dark.
- A page from a file can hand over its notebook: a browser shows it otherwise.
- Markup that a screen reader or a keyboard would stumble over is mended.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import rjsmin
import tinycss2
from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.builders.html._assets import _CascadingStyleSheet, _JavaScript

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "_tools"))
import digest  # noqa: E402

DIRECTIVES = re.compile(r"\A(?:#\|[^\n]*\n+)+")
ICON_FONT = re.compile(
    r"@font-face\{[^}]*fontawesome[^}]*\}|\.fa-[^{}]*\{content:[^}]*\}"
)
WORD = re.compile(r"[\w-]+")
COMMENT = re.compile(r"/\*.*?\*/|@import[^;]*;", re.DOTALL)
THEME = "basic.css", "styles/theme.css", "styles/pydata-sphinx-theme.css"
THEME_SCRIPTS = "scripts/bootstrap.js", "scripts/pydata-sphinx-theme.js"
# What the theme and docutils write, and what it should have been.
MENDED = {
    'role="doc-biblioentry"': 'role="listitem"',
    '<summary><span class="toctree-toggle"': (
        '<summary aria-label="Notebooks of this chapter"><span class="toctree-toggle"'
    ),
    '<div id="pst-primary-sidebar" class': (
        '<div id="pst-primary-sidebar" role="region" aria-label="Book" class'
    ),
    'target="_blank"\n   class="btn btn-sm btn-download-': (
        'download\n   class="btn btn-sm btn-download-'
    ),
    # No page has the list that the theme names; it would follow every link instead.
    'data-bs-target=".bd-toc-nav"': 'data-bs-target=".bd-toc"',
    '<meta name="viewport" content="width=device-width, initial-scale=1" />\n': "",
    '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n': "",
}
PICTURE = re.compile(r"(\b_images/[^\"]+)\.png\b")
# What a script may say it is. A notebook's widget state is a script of JSON.
JAVASCRIPT = "", "text/javascript", "application/javascript"
UNUSED = "scripts/fontawesome.js", "vendor", "locales", "images"


class fold(nodes.General, nodes.Element):
    """Code under a label that opens it."""


def open_fold(writer, node: fold) -> None:
    label = html.escape(node["label"])
    writer.body.append(f'<details class="fg-fold"><summary>{label}</summary>\n')


def close_fold(writer, node: fold) -> None:
    writer.body.append("</details>\n")


def dress_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Take the directives off the cells, and fold those that say so."""
    for code in list(doctree.findall(nodes.literal_block)):
        cell = code.parent
        if "cell_input" not in cell.get("classes", []):
            continue
        text = code.astext()
        code.rawsource = DIRECTIVES.sub("", text)
        code[:] = [nodes.Text(code.rawsource)]
        label = digest.directives(text).get("fold")
        if label and cell.parent.get("hide_mode") != "all":  # a solution's own fold
            hide(cell, label)
    show_figure_first(doctree)


def show_figure_first(doctree: nodes.document) -> None:
    """Place the page's set-up, whose code has to run first, below its first figure."""
    figures = (
        n for n in doctree.findall(nodes.raw) if "data-fg-explore=" in n.rawsource
    )
    figure = next(figures, None)
    set_up = next((f for f in doctree.findall(fold) if f["label"] == "Set-up"), None)
    if figure is None or set_up is None:
        return
    while "cell" not in figure.get("classes", []):
        figure = figure.parent
    set_up.parent.remove(set_up)
    figure += set_up


def hide(code: nodes.container, label: str) -> None:
    """Fold a cell's code below its output; cells in a row of one label fold as one."""
    cell = code.parent
    cell.remove(code)
    page, place = cell.parent, cell.parent.index(cell)
    before = page[place - 1] if place else None
    folded = before[-1] if isinstance(before, nodes.container) and len(before) else None
    if isinstance(folded, fold) and folded["label"] == label:
        before.remove(folded)
        if not len(before):
            page.remove(before)
    else:
        folded = fold("", label=label)
    folded += code
    cell += folded


def box_exercises(app: Sphinx, doctree: nodes.document) -> None:
    for section in list(doctree.findall(nodes.section)):
        if not re.match(r"Exercise \d+: ", section[0].astext()):
            continue
        outside = nodes.raw, nodes.container, nodes.section  # hints, cells, others
        end = section.first_child_matching_class(outside) or len(section)
        box = nodes.admonition("", *section[1:end], classes=["fg-exercise"])
        section[1:end] = [box]


def mark_drawings(app: Sphinx, doctree: nodes.document) -> None:
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir) / image["uri"]
        if path.suffix == ".png" and path.exists() and is_drawing(path):
            image["classes"].append("fg-drawing")


def is_drawing(png: Path) -> bool:
    """Lines and words on white, not a photograph: eight colours cover most of it."""
    picture = Image.open(png).convert("RGB")
    total = picture.width * picture.height
    counts = sorted(count for count, _ in picture.getcolors(total))
    return sum(counts[-8:]) > 0.85 * total


def one_of_each(app: Sphinx, pagename, templatename, context, doctree) -> None:
    """Note what the page would load; let it load the two bundles instead.

    Every page would load the same. Only those that are written last, by the main
    process and in every build, are of use to `write_bundles`.
    """
    for kind, (bundle, seen) in app.fieldguide_assets.items():
        for asset in sorted(context[kind], key=lambda asset: asset.priority):
            body = asset.attributes.get("body", "")
            code = kind == "css_files" or asset.attributes.get("type", "") in JAVASCRIPT
            if code and "pagename" not in body:  # for a version switcher; there is none
                seen[asset.filename or body] = asset.filename
        context[kind] = [bundle]


def forget_bundles(app: Sphinx) -> None:
    """Those of an earlier build: their sums would be written into each address."""
    for bundle, _ in app.fieldguide_assets.values():
        (Path(app.outdir) / bundle.filename).unlink(missing_ok=True)


def show_all(app: Sphinx, env) -> set[str]:
    """The pages to write whatever has changed.

    What is cited anywhere is on the bibliography's, and the search index keeps the
    entries of the glossary only where it is written.
    """
    terms = env.get_domain("std").objects.items()
    works = env.get_domain("cite").bibliographies
    pages = {page for (kind, _), (page, _) in terms if kind == "term"}
    return pages | {each.docname for each in works}


def write_bundles(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    (_, styles), (_, scripts) = app.fieldguide_assets.values()

    def read(name: str) -> str:
        return (static / name.removeprefix("_static/")).read_text("utf8")

    own = [name for name in styles if name.startswith("_static/")]
    names = dict.fromkeys([*THEME, *(name.removeprefix("_static/") for name in own)])
    css = COMMENT.sub("", "\n".join(map(read, names)))
    parts = [read(name) if name else body for body, name in scripts.items()]
    parts += map(read, THEME_SCRIPTS)
    script = rjsmin.jsmin(";\n".join(parts), keep_bang_comments=True)  # licences
    (static / "site.js").write_text(script, "utf8")
    pages = [page.read_text("utf8") for page in Path(app.outdir).rglob("*.html")]
    apart = [path.read_text("utf8") for path in (HERE / "static").rglob("*.js")]
    words = set().union(*map(WORD.findall, [script, *apart, *pages]))
    rules = tinycss2.parse_stylesheet(ICON_FONT.sub("", css), True, True)
    (static / "site.css").write_text(used_rules(rules, words), "utf8")
    for name in UNUSED:
        path = static / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in static.rglob("*.map"):
        path.unlink()


def used_rules(rules: list, words: set[str]) -> str:
    """The rules without the selectors that ask for a class of no page and no script."""
    kept = ""
    for rule in rules:
        if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inside = tinycss2.parse_rule_list(rule.content, True, True)
            if text := used_rules(inside, words):
                condition = tinycss2.serialize(rule.prelude)
                kept += f"@{rule.at_keyword}{condition}{{{text}}}\n"
        elif rule.type == "qualified-rule":
            if selectors := used_selectors(rule.prelude, words):
                kept += f"{selectors}{{{tinycss2.serialize(rule.content)}}}\n"
        else:
            kept += f"{rule.serialize()}\n"
    return kept


def used_selectors(prelude: list, words: set[str]) -> str:
    selectors: list[list] = [[]]
    for token in prelude:
        if token == ",":
            selectors.append([])
        else:
            selectors[-1].append(token)
    return ",".join(
        tinycss2.serialize(tokens).strip()
        for tokens in selectors
        if all(
            name.value in words
            for dot, name in pairwise(tokens)
            if dot == "." and name.type == "ident"
        )
    )


def shrink_pictures(app: Sphinx, exception: Exception | None) -> None:
    """As WebP, without loss: half as large as what the notebooks hold."""
    if exception or app.builder.name != "html":
        return
    for path in (Path(app.outdir) / app.builder.imagedir).glob("*.png"):
        Image.open(path).save(path.with_suffix(".webp"), lossless=True, method=6)
        path.unlink()


def mend_markup(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        markup = text = page.read_text("utf8")
        for wrong, right in MENDED.items():
            markup = markup.replace(wrong, right)
        markup = PICTURE.sub(r"\1.webp", markup)
        if "bd-sidebar-secondary" not in markup:  # no list of contents to keep in step
            markup = markup.replace('data-bs-spy="scroll" ', "", 1)
        chapter = page.relative_to(app.outdir).parts[0]  # its figures have a colour
        markup = markup.replace("<body ", f'<body data-fg-chapter="{chapter}" ', 1)
        if markup != text:
            page.write_text(markup, "utf8")


def write_downloads(app: Sphinx, exception: Exception | None) -> None:
    """Beside each source a script that holds it: see static/download.js."""
    if exception or app.builder.name != "html":
        return
    for path in (Path(app.outdir) / "_sources").rglob("*"):
        if path.suffix in (".ipynb", ".md"):
            name, text = json.dumps(path.name), json.dumps(path.read_text("utf8"))
            script = path.with_name(f"{path.name}.js")
            script.write_text(f"fgSave({name}, {text});\n", "utf8")


def configure(app: Sphinx, config) -> None:
    # A set comes in another order each time, as if the settings had changed.
    config.myst_enable_extensions = sorted(config.myst_enable_extensions)
    # It counts the parts of a book once all pages are read, and does not say so.
    app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True
    # Jupyter Book takes a relative path as if from the pages' folder.
    config.external_toc_path = os.path.abspath(config.external_toc_path)
    config.templates_path.insert(0, str(HERE / "templates"))
    config.html_static_path.append(str(HERE / "static"))
    config.html_additional_pages["404"] = "404.html"
    address = os.environ.get("SITE_URL", "")
    if address:
        config.html_baseurl = config.ogp_site_url = address.rstrip("/") + "/"
        config.html_context["html_baseurl"] = config.html_baseurl


def setup(app: Sphinx) -> dict:
    app.fieldguide_assets = {
        "css_files": (_CascadingStyleSheet("_static/site.css"), {}),
        "script_files": (_JavaScript("_static/site.js", defer="defer"), {}),
    }
    app.add_css_file("fieldguide.css", priority=900)
    app.add_js_file("claims.js", priority=900)
    app.add_js_file("dock.js", priority=900)
    app.add_js_file("download.js", priority=900)
    app.add_js_file("media.js", priority=900)
    app.add_js_file("quiz.js", priority=900)
    app.connect("config-inited", configure, priority=100)
    html_only = {b: (None, None) for b in ("latex", "text", "man", "texinfo")}
    app.add_node(fold, html=(open_fold, close_fold), **html_only)
    app.connect("doctree-read", dress_cells)
    app.connect("doctree-read", box_exercises)
    app.connect("doctree-read", mark_drawings, priority=900)  # their files are found
    app.connect("html-page-context", one_of_each, priority=900)
    app.connect("builder-inited", forget_bundles)
    app.connect("env-updated", show_all)
    app.connect("build-finished", shrink_pictures)
    app.connect("build-finished", mend_markup)
    app.connect("build-finished", write_downloads)
    app.connect("build-finished", write_bundles, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
