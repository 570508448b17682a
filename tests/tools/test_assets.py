"""`assets.py`: what the book ships can be made anew, and by which command."""

import assets
import pytest


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "ASSETS", tmp_path)
    maker = tmp_path / "birds" / "make.py"
    maker.parent.mkdir()
    maker.write_text(
        "import sys\nfrom pathlib import Path\nfrom digest import digest_of\n"
        "if __name__ == '__main__':\n"
        "    Path(__file__).with_name('seen').write_text(' '.join(sys.argv[1:]))\n"
    )
    return maker.parent


def test_the_script_beside_the_asset_runs(shelf, monkeypatch):
    monkeypatch.setattr("sys.argv", ["assets.py"])
    assert assets.main(["birds", "wren", "tit"]) == 0
    assert (shelf / "seen").read_text() == "wren tit"


@pytest.mark.parametrize("names", [[], ["fish"], ["wren", "birds"]])
def test_a_name_that_is_no_asset_is_refused(shelf, names, capsys):
    assert assets.main(names) == 2
    assert "must be one of birds" in capsys.readouterr().err
    assert not (shelf / "seen").exists()


def test_each_maker_names_the_command_that_runs_it():
    for path in assets.ASSETS.glob("*/make.py"):
        command = f"python book/_tools/assets.py {path.parent.name}"
        assert command in path.read_text(encoding="utf-8"), path
