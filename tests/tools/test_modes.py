"""`make modes`: each notebook and its tests, in each mode, and a failure is seen."""

import modes

SEEN = """
import os
def test_{name}():
    found = {{k: v for k, v in os.environ.items() if k in {names!r}}}
    with open({log!r}, "a") as file:
        print(sorted(found.items()), file=file)
    assert {holds}
"""


def test_every_notebook_comes_with_its_tests():
    paths = modes.files([])
    assert len(paths) == 2 * len(set(paths[::2])) and len(paths) >= 32
    assert all((modes.ROOT / path).is_file() for path in paths)
    assert modes.files(["transformers/real-model"]) == [
        "book/transformers/real-model.ipynb",
        "tests/notebooks/test_transformers_real_model.py",
    ]


def test_a_name_that_is_no_notebook_is_refused(capsys):
    assert modes.main(["transformers/none"]) == 2
    assert "'transformers/none'" in capsys.readouterr().err


def test_the_modes_are_set_and_a_failure_in_one_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "from outside")
    log = tmp_path / "log"
    test = tmp_path / "test_seen.py"
    names, holds = sorted(modes.NAMES), "'MKL_CBWR' not in os.environ"
    test.write_text(SEEN.format(name="it", names=names, log=str(log), holds=holds))
    monkeypatch.setattr(modes, "files", lambda names: [str(test)])
    assert modes.main([]) == 1
    told = capsys.readouterr().out
    assert told.count("FAILED ") == 1 and told.count("passed ") == len(modes.MODES) - 1
    expected = [str(sorted(mode.items())) for mode in modes.MODES.values()]
    assert log.read_text().splitlines() == expected


def test_where_no_mode_fails_all_is_well(monkeypatch):
    monkeypatch.setattr(modes, "run", lambda mode, paths: True)
    assert modes.main(["transformers/attention"]) == 0
