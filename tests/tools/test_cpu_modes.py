"""`make modes`: each notebook and its tests, in each mode, and a failure is seen."""

import cpu_modes


def test_every_notebook_comes_with_its_tests():
    paths = cpu_modes.files([])
    assert len(paths) == 2 * len(set(paths[::2])) and len(paths) >= 32
    assert all((cpu_modes.ROOT / path).is_file() for path in paths)
    assert cpu_modes.files(["transformers/real-model"]) == [
        "book/transformers/real-model.ipynb",
        "tests/notebooks/test_transformers_real_model.py",
    ]
