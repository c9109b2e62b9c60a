import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.study.analysis.speed import Crossing, crossing, first_crossing, time_to_target
from tests.steepest.study.results import ACCURACY, INF, NAN, metric, trial


@pytest.mark.parametrize(
    ("points", "target", "mode", "expected"),
    [
        ([[10, 1.5, 0.5], [20, 3.0, 0.9], [30, 4.5, 0.7]], 0.9, "max", Crossing(20, 3.0)),  # reached stays reached
        ([[10, 1.5, 0.5], [20, 3.0, 0.9], [30, 4.5, 0.7]], 0.6, "min", Crossing(10, 1.5)),
        ([[10, 1.5, 0.5], [20, 3.0, 0.9]], 0.91, "max", Crossing(INF, INF)),
        ([[10, None, 0.95]], 0.9, "max", Crossing(10, NAN)),  # no clock ran
        ([[10, 1.0, NAN], [20, 2.0, None], [30, 3.0, 0.95]], 0.9, "max", Crossing(30, 3.0)),
        ([], 0.9, "max", Crossing(INF, INF)),
    ],
)
def test_first_crossing(points, target, mode, expected) -> None:
    found = first_crossing(points, target, mode)
    assert (found.step, found.seconds) == pytest.approx((expected.step, expected.seconds), nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_a_harder_target_takes_no_less(values, one, other) -> None:
    points = [[step, 0.5 * step, value] for step, value in enumerate(values, 1)]
    easy, hard = (first_crossing(points, target, "max") for target in sorted((one, other)))
    assert easy.step <= hard.step
    assert easy.reached is any(value >= min(one, other) for value in values)
    mirrored = [[step, seconds, -value] for step, seconds, value in points]
    assert first_crossing(mirrored, -min(one, other), "min") == easy


def test_misses_take_part_in_median_and_mean() -> None:
    fast, slow, missed = trial({}, 0, (0.9,)), trial({}, 1, (0.1, 0.2, 0.95)), trial({}, 2, (0.5, 0.6))
    # Good before it diverged: no use.
    diverged, failed = trial({}, 3, (0.95, 0.1), "diverged"), trial({}, 4, (), "failed")
    assert crossing(diverged, ACCURACY) == Crossing(INF, INF)
    found = time_to_target([fast, slow, missed], ACCURACY)
    assert str(found) == "2 of 3 reached"
    assert (found.median_steps, found.mean_steps, found.median_seconds, found.mean_seconds) == (30, INF, 6.0, INF)
    found = time_to_target([fast, slow], ACCURACY)
    assert (found.median_steps, found.mean_steps, found.mean_seconds) == (20, 20, 4.0)
    found = time_to_target([fast, missed, diverged, failed], ACCURACY)
    assert (found.count, found.reached, found.median_steps) == (3, 1, INF)
    nothing = time_to_target([failed], ACCURACY)
    assert (nothing.count, nothing.reached) == (0, 0)
    assert nothing.median_steps != nothing.median_steps


def test_refused() -> None:
    with pytest.raises(ValueError, match="the metric val/accuracy has no target"):
        time_to_target([trial({})], metric(target=None))
    with pytest.raises(ValueError, match="mode must be max or min, not most"):
        first_crossing([], 0.9, "most")  # type: ignore[arg-type]
