"""`make modes`: each notebook and its tests, in each mode, and a failure is seen."""

import modes


def test_every_notebook_comes_with_its_tests():
    paths = modes.files([])
    assert len(paths) == 2 * len(set(paths[::2])) and len(paths) >= 32
    assert all((modes.ROOT / path).is_file() for path in paths)
    assert modes.files(["transformers/real-model"]) == [
        "book/transformers/real-model.ipynb",
        "tests/notebooks/test_transformers_real_model.py",
    ]
