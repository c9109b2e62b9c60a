"""Figures of singular values, read off their axes."""

import math
from typing import Any

import numpy
import pytest

from steepest.common.history import History
from steepest.diagnostics.spectral.figures import OPERATOR, UPDATE, WEIGHT, by_layer, heat_maps, spectra
from steepest.diagnostics.spectral.monitor import FIELDS, SpectralSample
from tests.diagnostics.figures import curve, dots, edges, segments, shades

NAN = math.nan
NAMES = ("conv.weight", "head.weight")


def sample(**values: Any) -> SpectralSample:
    nothing = dict.fromkeys(
        ("conditions", "update_conditions", "drifts", "update_drifts", "operator_drifts"), (NAN, NAN)
    )
    return SpectralSample(names=NAMES, kinds=("convolution", "linear"), sizes=(8, 3), **nothing, **values)


def samples() -> tuple[SpectralSample, History]:
    first = sample(
        norms=(2.0, 5.0), stable_ranks=(4.0, 1.5), operator_norms=(3.0, NAN), update_norms=(0.2, 0.5),
        update_stable_ranks=(2.0, 1.0), spectra={}, update_spectra={},
    )  # fmt: skip
    last = sample(
        norms=(4.0, 2.5), stable_ranks=(2.0, 3.0), operator_norms=(6.0, NAN), update_norms=(0.1, 0.0),
        update_stable_ranks=(1.0, NAN), spectra={"conv.weight": [4.0, 2.0, 0.0], "head.weight": [2.5]},
        update_spectra={"conv.weight": [0.1, 0.01, 0.001]},
    )  # fmt: skip
    history = History(FIELDS, by_layer=True)
    history.append(100, first)
    history.append(300, last)
    return last, history


def colored(axes: Any, color: str) -> list[list[tuple[float, float]]]:
    from matplotlib.colors import to_rgba

    marks = [own for own in axes.collections if len(own.get_offsets()) and not hasattr(own, "get_segments")]
    return [dots(own) for own in marks if tuple(own.get_facecolor()[0]) == pytest.approx(to_rgba(color))]


def test_by_layer_shows_last_values_and_ranges() -> None:
    left, right = by_layer(*samples()).axes
    assert colored(left, WEIGHT) == [[(4.0, 0), (2.5, 1)]]
    assert colored(left, OPERATOR) == [[(6.0, 0)]]
    assert colored(left, UPDATE) == [[pytest.approx((0.1, 0))]]  # a zero has no place on a logarithmic axis
    weights, operators, updates = [(0, 2, 4), (1, 2.5, 5)], [(0, 3, 6)], [(0, 0.1, 0.2)]
    assert numpy.allclose(segments(left), [*weights, *operators, *updates])
    assert colored(right, WEIGHT) == [[(2.0, 0), (3.0, 1)]]
    assert colored(right, UPDATE) == [[(1.0, 0)]]
    assert colored(right, "black") == [[(8.0, 0), (3.0, 1)]]  # the full rank
    assert numpy.allclose(segments(right), [(0, 2, 4), (1, 1.5, 3), (0, 1, 2)])


def test_heat_maps_show_logarithms_relative_to_weight_and_rank() -> None:
    norms, updates, ranks, update_ranks = heat_maps(*samples()).axes[:4]
    assert edges(norms) == [0.0, 200.0, 400.0]
    assert numpy.allclose(shades(norms), numpy.log10([[2, 4], [5, 2.5]]))
    assert numpy.allclose(shades(updates), numpy.log10([[0.1, 0.025], [0.1, NAN]]), equal_nan=True)
    assert numpy.allclose(shades(ranks), numpy.log10([[4 / 8, 2 / 8], [1.5 / 3, 3 / 3]]))
    assert numpy.allclose(shades(update_ranks), numpy.log10([[2 / 8, 1 / 8], [1 / 3, NAN]]), equal_nan=True)
    assert norms.collections[0].get_clim() == pytest.approx((math.log10(2) - 0.02, math.log10(5) + 0.02))


def test_spectra_are_relative_to_the_largest() -> None:
    weights, updates = spectra(samples()[0], 300).axes[:2]
    long, short = weights.lines
    numpy.testing.assert_allclose(curve(long), [(0.0, 1.0), (0.5, 0.5), (1.0, NAN)])
    assert curve(short) == [(0.0, 1.0)]
    (update,) = updates.lines
    numpy.testing.assert_allclose(curve(update), [(0.0, 1.0), (0.5, 0.1), (1.0, 0.01)], rtol=1e-6)
    assert long.get_color() == update.get_color()
