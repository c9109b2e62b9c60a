"""AutoSGM's windows against the author's numbers and their own laws."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.optim.autosgm.windows import check_window, window, window_factors

GOLDEN = json.loads((Path(__file__).parent / "golden" / "autosgm_windows.json").read_text())
COSINE: dict[str, Any] = {"rcm": 1, "inseq": 0, "x": 0.0, "n": 2, "m": 1, "tau": 4, "spe": 10, "cfact": 1, "e": 0.0}
ORDERS = {0: (1, 3), 1: (1, 4), 2: (1, 4), 3: (0.02, 0.98), 4: (1.1, 4), 5: (0.5, 8)}


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.sampled_from(sorted(ORDERS)))
    return {
        "rcm": shape,
        "inseq": draw(st.integers(0, 1)),
        "x": draw(st.floats(0, 1)),
        "n": draw(st.floats(*ORDERS[shape])),
        "m": draw(st.integers(0, 1)),
        "tau": draw(st.integers(1, 5)),
        "spe": draw(st.integers(1, 9)),
        "cfact": draw(st.integers(0, 2)),
        "e": draw(st.floats(0, 0.9)),
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_the_factors_are_the_authors(name: str) -> None:
    mode, n, half, floor, flat = (float(part.split("=")[1]) for part in name.split(","))
    options = {**COSINE, "rcm": int(mode), "n": n, "m": int(half), "x": floor, "e": flat}
    check_window(**options)
    assert window_factors(40, **options) == pytest.approx(GOLDEN[name], abs=1e-12)


@given(windows(), st.integers(1, 60))
def test_a_factor_is_between_the_floor_and_one(options: dict[str, Any], step: int) -> None:
    check_window(**options)
    assert options["x"] - 1e-12 <= window(step, **options) <= 1 + 1e-12


@given(windows())
def test_the_second_epoch_repeats_the_first_when_the_window_restarts(options: dict[str, Any]) -> None:
    steps = options["spe"]
    factors = window_factors(2 * steps, **{**options, "cfact": 2})
    assert factors[:steps] == factors[steps:]


@given(windows())
def test_a_window_in_epochs_changes_between_epochs_only(options: dict[str, Any]) -> None:
    steps, epochs = options["spe"], options["tau"]
    by_epoch = window_factors(epochs * steps, **{**options, "cfact": 0})
    by_step = window_factors(epochs, **{**options, "spe": 1, "cfact": 1})
    assert by_epoch == [factor for factor in by_step for _ in range(steps)]


def test_kroneckers_sequence_falls_through_the_shape_at_golden_ratio_positions() -> None:
    factors = window_factors(40, **{**COSINE, "inseq": 1, "x": 0.1})
    positions = [k * (math.sqrt(5) - 1) / 2 % 1 for k in range(40)]
    expected = sorted((0.1 + 0.9 * math.cos(math.pi * f / 2) ** 2 for f in positions), reverse=True)
    assert factors == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("inseq", [0, 1])
@pytest.mark.parametrize("m", [0, 1])
def test_the_factor_stays_at_the_floor_after_the_window(inseq: int, m: int) -> None:
    options = {**COSINE, "inseq": inseq, "m": m, "x": 0.25}
    assert [window(step, **options) for step in (41, 42, 1000)] == pytest.approx([0.25] * 3)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("rcm", 7), ("inseq", 2), ("m", 2), ("cfact", 3), ("tau", 0), ("spe", 2.5), ("x", 1.5), ("e", 1.0), ("n", 0.5)],
)
def test_an_argument_out_of_range_is_named(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"\A[^\n]*\b{argument}\b[^\n]*{value}[^\n]*\Z"):
        check_window(**{**COSINE, argument: value})


@pytest.mark.parametrize("rcm", [*sorted(ORDERS.keys() - {0}), 6])
def test_the_end_of_a_window_is_that_of_its_shape_in_either_order(rcm: int) -> None:
    options = {**COSINE, "rcm": rcm, "n": 0.5 if rcm == 3 else 2, "x": 0.1}
    # Shape 6 has its inflection at 7/8, and the range of the logistic curve with it in the middle.
    logistic = [1 / (1 + 2 ** (4 * distance)) for distance in (-0.5, 0.5, 1 - 0.875)]
    end = (logistic[2] - logistic[1]) / (logistic[0] - logistic[1]) if rcm == 6 else 0.0
    assert (end > 0.1) is (rcm == 6)
    for inseq in (0, 1):
        for step in (41, 60):
            assert window(step, **{**options, "inseq": inseq}) == pytest.approx(0.1 + 0.9 * end, abs=1e-12)
