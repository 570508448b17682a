"""The cells of scaling/compute-optimal against numpy."""

import math

import numpy as np
import pytest
import torch

from fieldguide.scaling import compute_optimal as page

SIZES = torch.tensor([2e3, 4e3, 1e4, 3e4, 5e4], dtype=torch.double)
CURVE = 2 + 0.05 * (SIZES.log() - math.log(9e3)) ** 2


def test_the_parabola_is_that_of_numpy():
    losses = CURVE * (1 + torch.tensor([3, -2, 4, -1, 2]) / 1000)
    x, y = SIZES.log().numpy(), losses.numpy()
    bend, slope, top = np.polyfit(x, y, 2, w=1 / y)  # of relative errors
    size, loss, bent = page.lowest_point(SIZES, losses)
    assert bent == pytest.approx(bend, rel=1e-6)
    assert math.log(size) == pytest.approx(-slope / 2 / bend, rel=1e-6)
    assert loss == pytest.approx(top - slope**2 / 4 / bend, rel=1e-6)
