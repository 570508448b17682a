"""`make notebooks`: the book's own notebooks are current, and a small book behaves."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import digest
import nbformat
import notebooks
import pytest
import sources

from fieldguide.explore import Ready

ROOT = Path(__file__).resolve().parents[2]

# The book


def test_no_export_is_stale():
    """Every generated module is what its notebook exports now, to the byte."""
    modules = notebooks.export_all(ROOT)
    assert modules, "no notebook exports anything"
    assert notebooks.generated(ROOT) == sorted(modules)
    for path, text in modules.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make notebooks"


@pytest.mark.parametrize("path", notebooks.in_order(ROOT), ids=lambda path: path.stem)
def test_the_stored_outputs_are_those_of_the_code(path):
    notebook = notebooks.read(path)
    assert notebooks.is_current(notebook, path, ROOT), "run make notebooks"


@pytest.mark.parametrize("path", notebooks.in_order(ROOT), ids=lambda path: path.stem)
def test_the_notebook_is_stored_normalised(path):
    notebook = notebooks.read(path)
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
        "from fieldguide.ledger import claim"
    ),
    "run": "for n in range(2):\n    print(half(n + 1), flush=True)",
    "widget": "IntSlider()",
    "noise": "moves = 0.5 + time.time_ns() % 1000 * 1e-6",
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
    for name, source in cells.items():
        notebook.cells.append(new.new_code_cell(source, id=name))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def edit(path, change):
    """Apply `change` to the notebook's JSON, as an editor would."""
    content = json.loads(path.read_text())
    cells = {cell["id"]: cell for cell in content["cells"]}
    change(cells)
    path.write_text(json.dumps(content))


def files(root):
    found = {p: p.read_bytes() for p in root.rglob("*.ipynb")}
    return found | {p: p.read_bytes() for p in root.rglob("fieldguide/**/*.py")}


def main(*arguments):
    """`notebooks.main` in a thread: the browser's checks keep a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(notebooks.main, list(arguments)).result()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    toc = "format: jb-book\nroot: index\nchapters: [{file: a/first}, {file: b/second}]"
    (root / "_toc.yml").write_text(toc)
    library = root / "book" / "fieldguide"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    for name in "check.py", "ledger.py":
        shutil.copy(ROOT / "book" / "fieldguide" / name, library)
    volatile = {
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    write(root / "book" / "a" / "first.ipynb", FIRST, **volatile)
    write(root / "book" / "b" / "second.ipynb", SECOND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root / "book"))
        assert main("--root", str(root)) == 0
    return root


@pytest.fixture
def book(first_run, tmp_path, monkeypatch):
    """A copy of the small book that has run once."""
    root = tmp_path / "book-of-two"
    shutil.copytree(first_run, root)
    monkeypatch.setenv("PYTHONPATH", str(root / "book"))
    return root


def run(root, *options):
    return main("--root", str(root), *options)


def outputs(path):
    notebook = nbformat.read(path, as_version=4)
    return {c.id: c.outputs for c in notebook.cells if c.cell_type == "code"}


def test_the_first_run_exports_and_stores(book):
    module = (book / "book" / "fieldguide" / "a" / "first.py").read_text()
    assert "from ..check import require" in module
    assert "return x / 2" in module
    assert "half(3)" not in module
    assert not (book / "book" / "fieldguide" / "b" / "second.py").exists()
    stored = outputs(book / "book" / "a" / "first.ipynb")
    assert stored["run"][0].data["text/plain"] == "1.5"
    second = outputs(book / "book" / "b" / "second.ipynb")
    assert [output.text for output in second["run"]] == ["0.5\n1.0\n"]
    assert list(second["widget"][0].data) == ["text/plain"]


def test_what_is_stored_is_normalised(book):
    for path in book.rglob("*.ipynb"):
        notebook = json.loads(path.read_text())
        assert set(notebook["metadata"]) == {
            "fieldguide",
            "kernelspec",
            "language_info",
        }
        assert "version" not in notebook["metadata"]["language_info"]
        assert all(cell["metadata"] == {} for cell in notebook["cells"])
        cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        counts = [c["execution_count"] for c in cells if c["source"]]
        assert counts == list(range(1, len(counts) + 1))


def test_a_second_run_runs_nothing(book, capsys):
    before = files(book)
    assert run(book) == 0
    assert "Every notebook is current" in capsys.readouterr().out
    assert files(book) == before


def test_force_mends_an_altered_digit_and_changes_no_other_byte(book):
    """A measured value that moved within its tolerance keeps its stored bytes."""
    before = files(book)
    path = book / "book" / "b" / "second.ipynb"
    text = path.read_text()
    assert text.count('"0.5\\n"') == 1
    path.write_text(text.replace('"0.5\\n"', '"0.6\\n"'))
    assert files(book) != before
    assert run(book, "--force") == 0
    assert files(book) == before


def test_a_change_runs_the_notebook_and_those_that_import_it(book, capsys):
    def halve_otherwise(cells):
        cells["half"]["source"] = "".join(cells["half"]["source"]).replace(
            "x / 2", "x / 4"
        )

    edit(book / "book" / "a" / "first.ipynb", halve_otherwise)
    assert run(book) == 0
    assert outputs(book / "book" / "b" / "second.ipynb")["run"][0].text == "0.25\n0.5\n"
    said = capsys.readouterr().out
    assert said.index("a/first: running") < said.index("b/second: running")


def test_only_the_named_notebook_runs(book, capsys):
    capsys.readouterr()
    assert run(book, "b/second", "--force") == 0
    told = capsys.readouterr().out
    assert "b/second: running" in told and "a/first: running" not in told
    assert run(book, "b/third") == 1
    there = "no notebook 'b/third'; there are: a/first, b/second."
    assert there in capsys.readouterr().err


def test_a_change_of_text_or_of_editor_runs_nothing(book, capsys):
    before = files(book)

    def touch(cells):
        cells["title"]["source"] = "# Another title"
        cells["run"]["metadata"] = {"execution": {"start": "now"}, "scrolled": True}

    edit(book / "book" / "a" / "first.ipynb", touch)
    assert run(book) == 0
    assert "running" not in capsys.readouterr().out
    changed = {p.name for p, content in files(book).items() if before[p] != content}
    assert changed == {"first.ipynb"}
    assert "scrolled" not in (book / "book" / "a" / "first.ipynb").read_text()


def test_cleared_outputs_are_run_again(book):
    before = files(book)

    def clear(cells):
        for cell in cells.values():
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}

    edit(book / "book" / "a" / "first.ipynb", clear)
    assert run(book) == 0
    assert files(book) == before


def test_a_failing_cell_is_named_and_leaves_the_notebook_alone(book, capsys):
    def fail(cells):
        cells["run"]["source"] = "half(3) / 0"

    path = book / "book" / "a" / "first.ipynb"
    edit(path, fail)
    edit(path.parents[1] / "b" / "second.ipynb", lambda cells: fail(cells))
    before = files(book)
    assert run(book) == 1
    said = capsys.readouterr()
    assert "first.ipynb, cell run:" in said.err
    assert "ZeroDivisionError" in said.err and "half(3) / 0" in said.err
    assert "a/first" in said.out and "FAILED" in said.out
    assert "b/second: not run" in said.err
    assert files(book) == before


def test_an_edit_during_the_run_is_not_lost(book, capsys, monkeypatch):
    path = book / "book" / "a" / "first.ipynb"

    async def saved_by_someone(notebook, path):
        path.write_text(path.read_text().replace("# first", "# first, edited"))

    monkeypatch.setattr(notebooks, "execute", saved_by_someone)
    assert run(book, "--force") == 1
    assert "edited while it ran" in capsys.readouterr().err
    assert "# first, edited" in path.read_text()


def test_the_module_of_a_notebook_that_is_gone_goes_too(book):
    write(book / "book" / "a" / "first.ipynb", {"run": "1"})
    write(book / "book" / "b" / "second.ipynb", {"run": "1"})
    assert (book / "book" / "fieldguide" / "a" / "first.py").exists()
    assert run(book) == 0
    assert not (book / "book" / "fieldguide" / "a" / "first.py").exists()
    assert (book / "book" / "fieldguide" / "check.py").exists()


LATER = "from fieldguide.b.second import x"


def renamed(name):
    def change(cells):
        cells["run"]["id"] = name

    return change


def prose(text):
    def change(cells):
        cells["run"].pop("outputs")
        cells["run"].pop("execution_count")
        cells["run"].update(cell_type="markdown", source=text)

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda cells: cells["run"].update(source="#| fold:\n1"), "needs a label"),
        (prose("> **Aside**\n>\n> a"), "a box is called 'Aside'; it must be one of"),
        (prose("<details><summary>More</summary>\n\na\n\n</details>"), "'More'; it"),
        (prose("<details>\n\na\n\n</details>"), "called ''; it must be Answer"),
        (prose("<details><summary>Answer</summary>\na</details>"), "ends in an empty"),
        (renamed("half"), "two cells have the id 'half'"),
        (renamed("3f1c0d2e"), "the id '3f1c0d2e'; give it a readable"),
        (renamed("a3f1c0d2"), "the id 'a3f1c0d2'; give it a readable"),
        (renamed(""), "the id ''; give it a readable"),
        (lambda cells: cells["run"].pop("id"), "the id ''; give it a readable"),
        (lambda cells: cells["run"].update(source="half("), "cell run: '('"),
        (
            lambda cells: cells["run"].update(source=LATER),
            "imports b.second, which comes later",
        ),
    ],
)
def test_a_notebook_is_refused(book, spoil, message, capsys):
    second = book / "book" / "b" / "second.ipynb"
    if "later" in message:
        write(second, FIRST)
    edit(book / "book" / "a" / "first.ipynb", spoil)
    notebook = second.read_bytes()
    assert run(book) == 1
    assert message in capsys.readouterr().err
    assert second.read_bytes() == notebook


def test_a_notebook_outside_the_contents_is_refused(book, capsys):
    write(book / "book" / "b" / "third.ipynb", {"run": "1"})
    assert run(book) == 1
    assert "book/b/third.ipynb is not in _toc.yml" in capsys.readouterr().err


def test_a_module_that_is_no_export_is_not_overwritten(book, capsys):
    """Such as `explore/views.py`, by a notebook `explore/views`."""
    module = book / "book" / "fieldguide" / "c" / "third.py"
    module.parent.mkdir()
    module.write_text("by hand\n")
    write(book / "book" / "c" / "third.ipynb", FIRST)
    toc = book / "_toc.yml"
    toc.write_text(toc.read_text().replace("b/second", "c/third"))
    (book / "book" / "b" / "second.ipynb").unlink()
    before = files(book)
    assert run(book) == 1
    assert "third.py is no export: rename third.ipynb" in capsys.readouterr().err
    assert files(book) == before


# What makes the book's own notebooks stale


@pytest.fixture(scope="module")
def keys():
    """The digest of each notebook, in the book as it is or in another folder."""
    code = {
        name: "\n".join(cell.source for cell in sources.code(notebook))
        for name, notebook in sources.in_order().items()
    }

    def of(book, *names):
        chosen = names or code
        return {name: digest.of_notebook(code[name], book) for name in chosen}

    return of


@pytest.fixture
def copied(tmp_path):
    """A copy of the book's package and of one of its assets."""
    skip = shutil.ignore_patterns("__pycache__")
    for part in "fieldguide", "_assets/next-token":
        shutil.copytree(ROOT / "book" / part, tmp_path / part, ignore=skip)
    return tmp_path


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


NEW = "\n\ndef unused(x):\n    return simple_attention(x, x, x)\n"


def test_a_new_cell_makes_nobody_stale_who_does_not_use_it(copied, keys):
    before = keys(copied)
    module = copied / "fieldguide" / "transformers" / "attention.py"
    module.write_text(module.read_text(encoding="utf-8") + NEW, encoding="utf-8")
    assert keys(copied) == before


def test_a_changed_definition_makes_those_stale_that_use_it(copied, keys):
    before = keys(copied)
    module = copied / "fieldguide" / "transformers" / "attention.py"
    change(module, "def causal_mask(", "def causal_mask(_=None, *, ")
    after = keys(copied)
    stale = {name for name in before if before[name] != after[name]}
    assert {"transformers/gpt", "transformers/training"} <= stale
    assert not stale & {"introduction/next-word", "efficiency/quantization-of-none"}
    assert "transformers/tokens" not in stale and "multimodal/contrastive" not in stale


def test_the_runtime_of_the_explorers_makes_nothing_stale(copied, keys):
    before = keys(copied, "transformers/attention", "transformers/gpt")
    for name in "browser/2-draw.js", "explorer.css":
        path = copied / "fieldguide" / "explore" / name
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert keys(copied, *before) == before


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("fieldguide/explore/twins/attention.js", "transformers/attention"),
        ("_assets/next-token/logits.npz", "transformers/gpt"),
        ("fieldguide/explore/views.py", "transformers/gpt"),
    ],
)
def test_files_and_apparatus_count_where_they_are_used(copied, keys, file, stale):
    others = "transformers/tokens", "introduction/next-word"
    before = keys(copied, stale, *others)
    path = copied / file
    if path.suffix == ".py":
        change(path, 'View("number",', 'View("another",')
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    after = keys(copied, *before)
    assert after[stale] != before[stale]
    if path.suffix != ".py":
        assert [after[name] for name in others] == [before[name] for name in others]


def test_a_comment_makes_nothing_stale_and_a_figures_text_does():
    code = '# why\ndef f():\n    """Title."""\n'
    assert digest.of_notebook(code) == digest.of_notebook(code.replace("# why\n", ""))
    assert digest.of_notebook(code) != digest.of_notebook(code.replace("Title", "T"))


def test_another_runtime_is_stored_without_a_run():
    path = ROOT / "book" / "transformers" / "attention.ipynb"
    stored = notebooks.read(path)
    ready = [
        output
        for cell in sources.code(stored)
        for output in cell.outputs
        if output.get("data", {}).get("text/plain") == repr(Ready())
    ]
    assert len(ready) == 1
    now = ready[0].data["text/html"]
    ready[0].data["text/html"] = "<script>yesterday's</script>"
    assert notebooks.is_current(stored, path, ROOT)
    notebooks.normalise(stored, stored.metadata.fieldguide.key)
    assert ready[0].data["text/html"] == now == Ready()._repr_html_()
