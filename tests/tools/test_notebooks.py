"""`make notebooks`: the book's own notebooks are current, and a small book behaves."""

import base64
import copy
import io
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compare
import digest
import nbformat
import notebooks
import pytest
import sources
import stills
import stored
from PIL import Image

from fieldguide.explore import Ready, bars, explore

ROOT = Path(__file__).resolve().parents[2]

# The book


def test_no_export_is_stale():
    """Every generated module is what its notebook exports now, to the byte."""
    modules = notebooks.export_all(ROOT)
    assert modules, "no notebook exports anything"
    assert notebooks.generated(ROOT) == sorted(modules)
    for path, text in modules.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make notebooks"


@pytest.mark.parametrize(
    "path", notebooks.in_order(ROOT), ids=lambda path: notebooks.page_name(path, ROOT)
)
def test_the_stored_outputs_are_those_of_the_code_and_normalised(path):
    notebook = notebooks.read(path)
    assert notebooks.is_current(notebook, path, ROOT), "run make notebooks"
    notebooks.normalise(notebook, notebook.metadata.get("fieldguide", {}).get("key"))
    assert nbformat.writes(notebook, version=4) + "\n" == path.read_text("utf-8")


# A small book: `first` exports a function, `second` uses it

FIRST = {
    "imports": "#| export\nfrom fieldguide.check import require",
    "half": (
        "#| export\ndef half(x):\n"
        '    """Half of x."""\n'
        '    require(x > 0, "x", x, "above 0")\n'
        "    return x / 2"
    ),
    "run": "half(3)",
}
SECOND = {
    "imports": (
        "import time\n"
        "from IPython.display import display\n"
        "from ipywidgets import IntSlider\n"
        "from fieldguide.a.first import half\n"
        "from fieldguide.claims import claim"
    ),
    "run": "for n in range(2):\n    print(half(n + 1), flush=True)",
    "widget": "IntSlider()",
    "noise": "moves = 0.5 + time.time_ns() % 1000 * 1e-8",
    "claim": (
        "claim('moves', moves, kind='trend', expect=0.5, tol=0.1, null=0,\n"
        "      spread=0.01, source='derived')"
    ),
    "empty": "",
}


def write(path, cells, **metadata):
    new = nbformat.v4
    notebook = new.new_notebook(metadata=metadata)
    notebook.cells = [new.new_markdown_cell(f"# {path.stem}", id="title")]
    notebook.cells += [new.new_code_cell(text, id=name) for name, text in cells.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def edit(path, **cells):
    """Change fields of cells, by their ids, in the JSON; `...` drops a field."""
    content = json.loads(path.read_text())
    new = [cell | cells.get(cell["id"], {}) for cell in content["cells"]]
    content["cells"] = [{k: v for k, v in c.items() if v is not ...} for c in new]
    path.write_text(json.dumps(content))


def files(root):
    found = {p: p.read_bytes() for p in root.rglob("*.ipynb")}
    return found | {p: p.read_bytes() for p in root.rglob("fieldguide/**/*.py")}


def apart(call, *given, **options):
    """A call in a thread: the browser's checks keep a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *given, **options).result()


def run(book, *options):
    return apart(notebooks.main, ["--root", str(book.parent), *options])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    toc = "format: jb-book\nroot: index\nchapters: [{file: a/first}, {file: b/second}]"
    (root / "_toc.yml").write_text(toc)
    library = root / "book" / "fieldguide"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    for name in "check.py", "claims.py":
        shutil.copy(ROOT / "book" / "fieldguide" / name, library)
    volatile = {
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    write(root / "book" / "a" / "first.ipynb", FIRST, **volatile)
    write(root / "book" / "b" / "second.ipynb", SECOND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root / "book"))
        assert run(root / "book") == 0
    return root


@pytest.fixture
def book(first_run, tmp_path, monkeypatch):
    """A copy of the small book that has run once."""
    root = tmp_path / "book-of-two"
    shutil.copytree(first_run, root)
    monkeypatch.setenv("PYTHONPATH", str(root / "book"))
    return root / "book"


def outputs(path):
    notebook = nbformat.read(path, as_version=4)
    return {c.id: c.outputs for c in notebook.cells if c.cell_type == "code"}


def test_the_first_run_exports_and_stores_normalised(book):
    module = (book / "fieldguide" / "a" / "first.py").read_text()
    assert "from ..check import require" in module
    assert "return x / 2" in module and "half(3)" not in module
    assert not (book / "fieldguide" / "b" / "second.py").exists()
    assert outputs(book / "a" / "first.ipynb")["run"][0].data["text/plain"] == "1.5"
    second = outputs(book / "b" / "second.ipynb")
    assert [output.text for output in second["run"]] == ["0.5\n1.0\n"]
    assert list(second["widget"][0].data) == ["text/plain"]
    for path in book.rglob("*.ipynb"):
        notebook = json.loads(path.read_text())
        kept = {"fieldguide", "kernelspec", "language_info"}
        assert set(notebook["metadata"]) == kept
        assert "version" not in notebook["metadata"]["language_info"]
        cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        counts = [c["execution_count"] for c in cells if c["source"]]
        assert counts == list(range(1, len(counts) + 1))


def test_what_is_stored_stays_or_comes_back_to_the_byte(book, capsys):
    """A measured value that moved, and reads the same, keeps its stored bytes."""
    before = files(book)
    assert run(book) == 0 and files(book) == before
    assert "Every notebook is current" in capsys.readouterr().out
    change(book / "b" / "second.ipynb", '"0.5\\n"', '"0.6\\n"')
    cleared = {"outputs": [], "execution_count": None}
    edit(book / "a" / "first.ipynb", imports=cleared, half=cleared, run=cleared)
    assert run(book, "b/second", "--force") == 0
    assert "a/first: running" not in capsys.readouterr().out, "it was not named"
    assert run(book) == 0 and files(book) == before
    assert run(book, "b/third") == 1
    there = "no notebook 'b/third'; there are: a/first, b/second."
    assert there in capsys.readouterr().err


def test_a_number_that_reads_otherwise_is_stored_anew_within_its_tolerance_too(book):
    path = book / "b" / "second.ipynb"
    text, before = path.read_text(), outputs(path)["claim"]
    moved = re.sub(r'value=\\"0.5\d*', r'value=\\"0.52', text)
    path.write_text(moved.replace(">0.5</data>", ">0.52</data>"))
    assert compare.same_outputs(outputs(path)["claim"], before) is None
    assert run(book, "--force") == 0
    assert ">0.5</data>" in path.read_text()


def test_a_change_runs_the_notebook_and_those_that_import_it(book, capsys):
    change(book / "a" / "first.ipynb", "x / 2", "x / 4")
    assert run(book) == 0
    assert outputs(book / "b" / "second.ipynb")["run"][0].text == "0.25\n0.5\n"
    said = capsys.readouterr().out
    assert said.index("a/first: running") < said.index("b/second: running")


def test_a_change_of_text_or_of_editor_runs_nothing(book, capsys):
    before, path = files(book), book / "a" / "first.ipynb"
    noise = {"metadata": {"execution": {"start": "now"}, "scrolled": True}}
    edit(path, title={"source": "# Another title"}, run=noise)
    assert run(book) == 0
    assert "running" not in capsys.readouterr().out
    assert [p for p, content in files(book).items() if before[p] != content] == [path]
    assert "scrolled" not in path.read_text()


def test_a_failing_cell_is_named_and_leaves_the_notebook_alone(book, capsys):
    edit(book / "a" / "first.ipynb", run={"source": "half(3) / 0"})
    edit(book / "b" / "second.ipynb", run={"source": "half(4)"})
    before = files(book)
    assert run(book) == 1
    said = capsys.readouterr()
    assert "first.ipynb, cell run:" in said.err and "half(3) / 0" in said.err
    assert "ZeroDivisionError" in said.err and "FAILED" in said.out
    assert "b/second: not run" in said.err
    assert files(book) == before


def test_an_edit_during_the_run_is_not_lost(book, capsys, monkeypatch):
    async def saved_by_someone(notebook, path):
        change(path, "# first", "# first, edited")

    monkeypatch.setattr(notebooks, "execute", saved_by_someone)
    assert run(book, "--force") == 1
    assert "edited while it ran" in capsys.readouterr().err
    assert "# first, edited" in (book / "a" / "first.ipynb").read_text()


def prose(text):
    dropped = {"outputs": ..., "execution_count": ...}
    return {"source": text, "cell_type": "markdown", **dropped}


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"source": "#| fold:\n1"}, "needs a label"),
        (prose("> **Aside**\n>\n> a"), "a box is called 'Aside'; it must be one of"),
        (prose("<details><summary>More</summary>\n\na\n\n</details>"), "'More'; it"),
        (prose("<details><summary>Answer</summary>\na</details>"), "ends in an empty"),
        ({"id": "half"}, "two cells have the id 'half'"),
        ({"id": "3f1c0d2e"}, "the id '3f1c0d2e'; give it a readable"),
        ({"id": ...}, "the id ''; give it a readable"),
        ({"source": "half("}, "cell run: '('"),
        ({"source": "import fieldguide.b.second"}, "b.second, which comes later"),
    ],
)
def test_a_notebook_is_refused(book, spoilt, message, capsys):
    second = book / "b" / "second.ipynb"
    if "later" in message:
        write(second, FIRST)
    edit(book / "a" / "first.ipynb", run=spoilt)
    notebook = second.read_bytes()
    assert run(book) == 1
    assert message in capsys.readouterr().err
    assert second.read_bytes() == notebook


def test_no_other_notebook_is_run_and_no_other_module_overwritten(book, capsys):
    """Outside the contents; `explore/views.py` by a notebook `explore/views`."""
    (book / "fieldguide" / "c").mkdir()
    (book / "fieldguide" / "c" / "third.py").write_text("by hand\n")
    write(book / "c" / "third.ipynb", FIRST)
    assert run(book) == 1
    assert "book/c/third.ipynb is not in _toc.yml" in capsys.readouterr().err
    change(book.parent / "_toc.yml", "b/second", "c/third")
    (book / "b" / "second.ipynb").unlink()
    before = files(book)
    assert run(book) == 1
    assert "third.py is no export: rename third.ipynb" in capsys.readouterr().err
    assert files(book) == before


# What makes the book's own notebooks stale


def keys(book, names):
    """The digest of each of these notebooks, in the book in this folder."""
    found = {}
    for name in names:
        notebook = notebooks.read(ROOT / "book" / f"{name}.ipynb")
        code = "\n".join(cell.source for cell in sources.code(notebook))
        found[name] = digest.of_notebook(code, book)
    return found


@pytest.fixture
def copied(tmp_path):
    """A copy of the book's package and of one of its assets."""
    for part in "fieldguide", "_assets/next-token":
        shutil.copytree(ROOT / "book" / part, tmp_path / part)
    return tmp_path


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


UNUSED = "\n\ndef unused(x):\n    return simple_attention(x, x, x)\n"
NAMED = "transformers/attention", "transformers/gpt"
OTHERS = "transformers/tokens", "introduction/next-word", "multimodal/contrastive"


@pytest.mark.parametrize(
    ("file", "old", "new", "stale", "current"),
    [
        ("transformers/attention.py", "", UNUSED, [], NAMED + OTHERS),
        ("transformers/attention.py", "def causal_mask(", "def causal_mask(_=None, *, ",
         ["transformers/gpt", "transformers/training"], OTHERS),
        ("explore/browser/2-draw.js", "", "\n", [], NAMED),
        ("explore/explorer.css", "", "\n", [], NAMED),
        ("explore/twins/attention.js", "", "\n", NAMED[:1], OTHERS),
        ("../_assets/next-token/logits.npz", "", "\n", NAMED[1:], OTHERS),
        ("explore/views.py", 'View("number",', 'View("another",', NAMED[1:], []),
    ],
    ids=["cell", "signature", "browser", "css", "twin", "asset", "view"],  # and no page
)  # fmt: skip
def test_a_change_makes_those_stale_that_use_it(copied, file, old, new, stale, current):
    path, before = copied / "fieldguide" / file, keys(copied, [*stale, *current])
    if old:
        change(path, old, new)
    else:
        path.write_bytes(path.read_bytes() + new.encode())
    after = keys(copied, before)
    assert [name for name in before if after[name] != before[name]] == [*stale]


def test_a_comment_makes_nothing_stale_and_a_figures_text_does():
    code = '# why\ndef f():\n    """Title."""\n'
    assert digest.of_notebook(code) == digest.of_notebook(code.replace("# why\n", ""))
    assert digest.of_notebook(code) != digest.of_notebook(code.replace("Title", "T"))


def test_another_runtime_is_stored_without_a_run():
    path = ROOT / "book" / "transformers" / "attention.ipynb"
    stored = notebooks.read(path)
    shown = [each.get("data", {}) for c in sources.code(stored) for each in c.outputs]
    (ready,) = (data for data in shown if data.get("text/plain") == repr(Ready()))
    now = ready["text/html"]
    ready["text/html"] = "<script>yesterday's</script>"
    assert notebooks.is_current(stored, path, ROOT)
    notebooks.normalise(stored, stored.metadata.fieldguide.key)
    assert ready["text/html"] == now == Ready()._repr_html_()


def test_a_still_is_taken_where_it_is_missing_or_looks_otherwise():
    def grown(size):
        """A bar.

        Look at it."""
        return {"Bar": bars(["a"], [size], high=9)}

    def run(size):
        bundle, _ = explore(grown, size=[size, 9])._repr_mimebundle_()
        return nbformat.v4.new_output("display_data", bundle)

    outputs = [run(1), run(8), nbformat.v4.new_output("stream", text="a")]
    cell = nbformat.v4.new_code_cell(outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert apart(stills.add, notebook) == 2
    small, large, _ = copy.deepcopy(cell.outputs)
    on_page = re.search('base64,(.*)">', large.data["text/html"])[1]
    files = (large.data["image/png"], on_page)
    files = (io.BytesIO(base64.b64decode(file)) for file in files)
    picture, same = (Image.open(file).convert("RGB") for file in files)
    assert picture.tobytes() == same.tobytes()
    blue = [n for n, c in picture.getcolors() if c == (59, 124, 184)]
    assert picture.width == stills.WIDTH and blue > [1800], "a bar of its length"
    cell.outputs[0].data["image/png"] = large.data["image/png"]
    assert apart(stills.add, notebook) == 0, "none is missing"
    assert apart(stills.add, notebook, anew=True) == 1
    assert cell.outputs[0] == small and cell.outputs[1] == large
    assert compare.same(run(8), large) is None, "no still is compared"


# Saved by JupyterLab


def test_jupyterlab_saves_a_page_as_it_is_stored():
    """A figure that ran, and a bar of progress."""
    view, new = {stored.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "a"}, nbformat.v4
    shown = [{**view, "text/html": "<figure>"}, view]
    outputs = [new.new_output("display_data", data) for data in shown]
    cell = new.new_code_cell("#| fold: Set-up\n1", outputs=outputs)
    cell.metadata = {"trusted": True, "execution": {"a": "1"}, "scrolled": True}
    card = {"fieldguide": {"name": "a", "key": "k"}}
    content = new.new_notebook(cells=[cell], metadata={**card, "widgets": {}})
    model = {"type": "notebook", "content": content}
    stored.before_save(model=model, path="a.ipynb", contents_manager=None)
    page = model["content"]
    assert page.metadata == {**stored.NOTEBOOK_METADATA, **card}
    (cell,) = page.cells
    # What is trusted is signed as it is saved: so are the figures when it is opened.
    assert cell.metadata == {"trusted": True, "jupyter": {"source_hidden": True}}
    kept = {"text/html": "<figure>", "text/plain": "a"}
    assert [output.data for output in cell.outputs] == [kept]
    notebooks.normalise(again := nbformat.from_dict(page), "k")
    assert again == page
