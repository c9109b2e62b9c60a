import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.study.analysis.speed import performance_profiles, speed_ups, workload_times
from tests.steepest.study.results import ACCURACY, INF, NAN, metric, trial

# Four workloads: ratios of A are 1, 1, 2, 1; of B 2, 5 (too slow to count), 1, a miss.
TIMES = {"A": [10.0, 20.0, 40.0, 8.0], "B": [20.0, 100.0, 20.0, INF]}


def test_profile_by_hand() -> None:
    profiles = performance_profiles(TIMES, points=4)
    assert profiles["A"].taus == (1.0, 2.0, 3.0, 4.0)
    assert profiles["A"].ratios == (1.0, 1.0, 2.0, 1.0)
    assert profiles["B"].ratios == (2.0, 5.0, 1.0, INF)
    assert profiles["A"].shares == (0.75, 1.0, 1.0, 1.0)
    assert profiles["B"].shares == (0.25, 0.5, 0.5, 0.5)
    # Areas over [1, 4]: 0.75 x 1 + 1 x 2, and 0.25 x 1 + 0.5 x 2, by 3.
    assert profiles["A"].score == pytest.approx(2.75 / 3)
    assert profiles["B"].score == pytest.approx(1.25 / 3)


def test_score_is_the_area_under_the_shares() -> None:
    for profile in performance_profiles(TIMES, points=30_001).values():
        assert numpy.trapezoid(profile.shares, profile.taus) / 3 == pytest.approx(profile.score, abs=1e-4)


def test_a_workload_that_none_completes_and_times_of_zero() -> None:
    profiles = performance_profiles({"A": [INF, 0.0], "B": [INF, 3.0]})
    assert profiles["A"].ratios == (INF, 1.0)
    assert profiles["A"].score == 0.5
    assert profiles["B"].ratios == (INF, INF)
    assert profiles["B"].score == 0.0


def test_speed_ups_by_hand() -> None:
    # B against A: 1/2, 1/5 held at 1/4, 2, a miss counted as 1/4.
    found = speed_ups(TIMES, "A")
    assert found["A"] == 1.0
    assert found["B"] == pytest.approx((0.5 * 0.25 * 2 * 0.25) ** 0.25)
    assert speed_ups(TIMES, "B")["A"] == pytest.approx(1 / found["B"])
    assert speed_ups({"A": [INF, 2.0], "B": [INF, 1.0]}, "A")["B"] == pytest.approx(math.sqrt(2))


TABLES = st.integers(1, 5).flatmap(
    lambda workloads: st.lists(
        st.lists(st.floats(0.1, 1e4) | st.just(INF), min_size=workloads, max_size=workloads), min_size=1, max_size=4
    )
)


@given(TABLES, st.floats(0.1, 10), st.randoms(use_true_random=False))
def test_laws(rows, scale, random) -> None:
    times = {str(place): row for place, row in enumerate(rows)}
    profiles = performance_profiles(times, points=13)
    for profile in profiles.values():
        assert 0 <= profile.score <= 1
        assert list(profile.shares) == sorted(profile.shares)
        assert all(0 <= share <= 1 for share in profile.shares)
        # Left and right sums of a curve that never falls enclose its area.
        assert sum(profile.shares[:-1]) / 12 - 1e-9 <= profile.score <= sum(profile.shares[1:]) / 12 + 1e-9
    order = list(range(len(rows[0])))
    random.shuffle(order)
    shuffled = performance_profiles({name: [scale * row[place] for place in order] for name, row in times.items()})
    assert [each.score for each in shuffled.values()] == pytest.approx([each.score for each in profiles.values()])
    for name, value in speed_ups(times, "0").items():
        assert 0.25 - 1e-9 <= value <= 4 + 1e-9
        assert speed_ups(times, name)["0"] == pytest.approx(1 / value)


def reaching(labels: dict[str, str], seed: int, evaluations: int, status: str = "finished"):
    return trial(labels, seed, [0.1] * (evaluations - 1) + [0.95], status)


def test_seeds_are_instances_of_a_single_workload() -> None:
    results = [reaching({"optimizer": name}, seed, n) for name, n in (("A", 2), ("B", 3)) for seed in (0, 1)]
    results[3] = trial({"optimizer": "B"}, 1, (0.1,))
    assert workload_times(results, ACCURACY, "optimizer") == {"A": [20, 20], "B": [30, INF]}
    assert workload_times(results, ACCURACY, "optimizer", "seconds") == {"A": [4.0, 4.0], "B": [6.0, INF]}
    # A failed trial is no miss; its seed cannot be compared.
    results[0] = reaching({"optimizer": "A"}, 0, 2, "failed")
    assert workload_times(results, ACCURACY, "optimizer") == {"A": [20], "B": [INF]}


def test_workloads_are_medians_over_seeds() -> None:
    results = [
        reaching({"optimizer": optimizer, "task": task}, seed, n)
        for optimizer, task, counts in (("A", "x", (1, 2, 9)), ("A", "y", (3, 3, 4)), ("B", "x", (5, 5, 5)))
        for seed, n in enumerate(counts)
    ]
    assert workload_times(results, ACCURACY, "optimizer") == {"A": [20], "B": [50]}
    results += [trial({"optimizer": "B", "task": "y"}, seed, (0.1,)) for seed in (0, 1)]
    results += [reaching({"optimizer": "B", "task": "y"}, 2, 1, "diverged")]
    assert workload_times(results, ACCURACY, "optimizer") == {"A": [20, 30], "B": [50, INF]}


def test_what_never_got_through_its_tuning_has_missed() -> None:
    results = [reaching({"optimizer": name}, seed, n) for name, n in (("A", 2), ("B", 3)) for seed in (0, 1)]
    never = [{"optimizer": "C"}]
    expected = {"A": [20, 20], "B": [30, 30], "C": [INF, INF]}
    assert workload_times(results, ACCURACY, "optimizer", never=never) == expected
    results = [
        reaching({"optimizer": name, "task": task}, 0, 2)
        for name, task in (("A", "x"), ("A", "y"), ("B", "x"), ("C", "y"))
    ]
    never = [{"optimizer": "B", "task": "y"}, {"optimizer": "C", "task": "x"}]
    times = workload_times(results, ACCURACY, "optimizer", never=never)
    assert times == {"A": [20, 20], "B": [20, INF], "C": [INF, 20]}
    assert performance_profiles(times)["B"].score == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: performance_profiles({"A": [1.0], "B": [1.0, 2.0]}), r"same workloads, not \[1, 2\] times"),
        (lambda: performance_profiles({"A": []}), "every optimizer needs a time"),
        (lambda: performance_profiles({"A": [NAN]}), "infinite for a miss: A has nan"),
        (lambda: performance_profiles({"A": [1.0]}, largest_ratio=1), "a largest ratio above 1 and 2 points, not 1"),
        (lambda: speed_ups({"A": [1.0]}, "C"), "the baseline must be one of A, not C"),
        (lambda: speed_ups({"A": [1.0]}, "A", largest_ratio=0.5), "largest ratio must be above 1, not 0.5"),
        (lambda: workload_times([trial({"optimizer": "A"})], ACCURACY, "model"), "no axis model, only optimizer"),
        (lambda: workload_times([], ACCURACY, "optimizer", "days"), "clock must be step or seconds, not days"),  # type: ignore[arg-type]
        (lambda: workload_times([trial({"o": "A"})], metric(target=None), "o"), "val/accuracy has no target"),
    ],
)
def test_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
