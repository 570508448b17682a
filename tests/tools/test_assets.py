"""`assets.py`: what the book ships can be made anew, and is as of today."""

import json

import assets
import pytest

REMADE = [
    n for n, p in assets.makers().items() if "\ndef remade(" in p.read_text("utf8")
]
# Whose records hold what a model wrote
WRITTEN = ["hallucination", "retrieval", "preferences", "constitution", "robustness"]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    maker = tmp_path / "birds" / "make.py"
    maker.parent.mkdir()
    maker.write_text(
        "import sys\nfrom pathlib import Path\n\n\ndef main():\n"
        "    Path(__file__).with_name('seen').write_text(' '.join(sys.argv[1:]))\n\n\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    return maker.parent


@pytest.mark.parametrize("names", [[], ["fish"], ["--restamp"], ["--restamp", "fish"]])
def test_a_name_that_is_no_asset_is_refused(shelf, names, capsys):
    assert assets.main(names) == 2
    assert "must be one of birds" in capsys.readouterr().err
    assert not (shelf / "seen").exists()


PARTS = """
from fieldguide.transformers.gpt import GPTConfig
from assets import make_parts

STEPS, DEPTH = 3, 4


def record_wren():
    return GPTConfig, STEPS


def tit():
    print("tit")


make_parts(record_wren, tit)
"""


def test_a_part_made_by_other_definitions_is_stale(shelf, capsys):
    """One that the maker does not know, too, and one that is missing."""
    maker, command = shelf / "make.py", "python book/_tools/assets.py birds"
    maker.write_text(PARTS)

    def stale():
        assert all(command in text for text in assets.stale(maker))
        return [text.split()[1] for text in assets.stale(maker)]

    assert stale() == ["tit", "wren"]
    assert assets.main(["--restamp", "birds", "wren"]) == 0 and stale() == ["tit"]
    assert assets.main(["--restamp", "birds"]) == 0 and stale() == []
    assert assets.main(["--restamp", "birds", "fish"]) == 2
    assert "'fish', but it must be one of wren, tit" in capsys.readouterr().err
    for old, new, found in [
        ("STEPS, DEPTH = 3", "STEPS, DEPTH = 2", ["wren"]),
        ("return GPTConfig", "return 2 * STEPS, GPTConfig", []),
        ("GPTConfig", "GPT", ["wren"]),
        ('"tit"', "2", []),
        ("(record_wren, tit)", "(tit)", ["wren"]),
    ]:
        maker.write_text(PARTS.replace(old, new))
        assert stale() == found, f"{old} -> {new}"


@pytest.mark.parametrize("name", assets.makers())
def test_each_asset_is_as_of_today(name):
    path = assets.makers()[name]
    command = f"python book/_tools/assets.py {name}"
    assert command in path.read_text(encoding="utf-8"), "it names the command"
    assert assets.stale(path) == []


@pytest.mark.parametrize("name", REMADE)
def test_the_cheapest_slice_of_a_record_remade_agrees(name):
    """A maker's `remade()` yields what it stored, what today gives, the tolerance."""
    for kept, again, tolerance in assets.load(assets.makers()[name]).remade():
        assert again == pytest.approx(kept, rel=0, abs=tolerance)


def test_words_that_nobody_has_read(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    (tmp_path / "reviewed").mkdir()
    listed = json.dumps(["the", "capital", "is", "york", "yaoundé"])
    (tmp_path / "reviewed" / "words.json").write_text(listed, encoding="utf-8")
    assert assets.unread("The capital is Yaoundé 12_000.") == []
    assert assets.unread("Zyzzx: Capitals' york-yor") == ["Zyzzx", "Capitals", "yor"]
    assert assets.unread("Zyzzx is yor", cut=True) == ["Zyzzx"]
    assert assets.unread("Zyzzx is ork", cut=True) == ["Zyzzx", "ork"]
    assert assets.unread("Yor.", cut=True) == ["Yor"]
    assert assets.reviewed("The Zyzzx is yor, Yaoundé.") == "The ... is ..., Yaoundé."


@pytest.mark.parametrize("name", WRITTEN)
def test_a_record_holds_no_word_that_nobody_has_read(name):
    records = sorted((assets.ASSETS / name).glob("*.json"))
    assert records
    for path in records:
        record, texts = assets.read_json(path), []
        if isinstance(record, dict):
            record = {k: v for k, v in record.items() if k not in ("digest", "machine")}
        left = [record]
        while left:
            each = left.pop()
            texts += [each] if isinstance(each, str) else []
            left += each.values() if isinstance(each, dict) else ()
            left += each if isinstance(each, list) else ()
        cut = path.name == "marks.json"  # as long as asked, wherever a word ends
        found = [word for text in texts for word in assets.unread(text, cut)]
        assert found == [], f"{path.name}: read these words, then list them"
