"""The cells of scaling/compute-optimal against closed forms and a fine search."""

import math

import numpy as np
import pytest
import torch

from fieldguide.scaling import compute_optimal as page

DOUBLE = torch.double


PUBLISHED = {
    92.6: (1.69, 406.4, 410.7, 0.34, 0.28),
    59.1: (1.6934, 406.4, 410.7, 0.3392, 0.2849),
    18.4: (1.8172, 482.01, 2085.43, 0.3478, 0.3658),
}
SIZES = torch.tensor([2e3, 4e3, 1e4, 3e4, 5e4], dtype=DOUBLE)
CURVE = 2 + 0.05 * (SIZES.log() - math.log(9e3)) ** 2


def loss_of(version, N, D):
    E, A, B, alpha, beta = version
    return E + A / N**alpha + B / D**beta


# The lowest point


def test_the_bottom_of_a_parabola_is_found():
    order = torch.tensor([3, 0, 4, 1, 2])
    found = page.lowest_point(SIZES[order], CURVE[order])
    assert found == pytest.approx((9e3, 2, 0.05), rel=1e-9)


def test_the_parabola_is_that_of_numpy():
    losses = CURVE * (1 + torch.tensor([3, -2, 4, -1, 2]) / 1000)
    x, y = SIZES.log().numpy(), losses.numpy()
    bend, slope, top = np.polyfit(x, y, 2, w=1 / y)  # of relative errors
    size, loss, bent = page.lowest_point(SIZES, losses)
    assert bent == pytest.approx(bend, rel=1e-6)
    assert math.log(size) == pytest.approx(-slope / 2 / bend, rel=1e-6)
    assert loss == pytest.approx(top - slope**2 / 4 / bend, rel=1e-6)


# Splits


@pytest.mark.parametrize(("ratio", "version"), PUBLISHED.items())
@pytest.mark.parametrize("budget", [1e22, 5.76e23, 4e25])
def test_no_other_split_is_better(ratio, version, budget):
    N, D = page.balance(*version, budget)
    assert pytest.approx(budget, rel=1e-9) == 6 * N * D
    assert budget != 5.76e23 or round(D / N, 1) == ratio
    sizes = np.geomspace(1e6, budget / 6, 200_000)[:-1]
    losses = loss_of(version, sizes, budget / 6 / sizes)
    assert loss_of(version, N, D) <= losses.min() * (1 + 1e-12)
    assert pytest.approx(sizes[losses.argmin()], rel=1e-3) == N


@pytest.mark.parametrize("version", PUBLISHED.values())
@pytest.mark.parametrize("loss", [1.9, 2.2, 4.0])
def test_the_cheapest_way_to_a_loss_is_a_best_split(version, loss):
    N, D = page.cheapest(*version, loss)
    assert loss_of(version, N, D) == pytest.approx(loss)
    assert page.balance(*version, 6 * N * D) == pytest.approx((N, D), rel=1e-6)
