"""require: one kind of error, which names argument, value and what is allowed."""

import numpy as np
import pytest
import torch

from fieldguide.check import require


def message(value):
    with pytest.raises(ValueError) as error:
        require(False, "x", value, "right")
    return str(error.value)


def test_a_good_value_passes_in_silence():
    assert require(True, "d_k", 4, "positive") is None
    assert require(torch.tensor(1) > 0, "d_k", 1, "positive") is None


def test_the_message_names_argument_value_and_what_is_allowed():
    with pytest.raises(ValueError) as error:
        require(-1 > 0, "d_k", -1, "a positive width")
    assert str(error.value) == "d_k = -1, but it must be a positive width"


def test_a_long_value_is_cut():
    text = message("a" * 1000)
    assert text.startswith("x = 'aaa") and "...," in text and len(text) < 120
    assert "\n" not in message(np.array(0.5)) and "\n" not in message("a\nb")


def test_an_array_shows_its_shape_and_dtype():
    assert "<Tensor of shape (2, 3), torch.float32>" in message(torch.zeros(2, 3))
    assert "<ndarray of shape (5,), int8>" in message(np.zeros(5, np.int8))
    assert "tensor(2.)" in message(torch.tensor(2.0))


def test_a_broken_repr_does_not_hide_the_error():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert "<Broken>" in message(Broken())
