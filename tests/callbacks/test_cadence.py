import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.callbacks.cadence import NEVER, Cadence, steps_until_affordable


@given(every=st.integers(1, 100), step=st.integers(0, 10_000))
def test_the_next_step_is_the_smallest_multiple_above(every, step) -> None:
    following = Cadence(every_n_steps=every).next_step(step)
    assert following % every == 0
    assert step < following <= step + every


@given(steps=st.sets(st.integers(1, 50), min_size=1), step=st.integers(0, 60))
def test_listed_steps_come_in_order(steps, step) -> None:
    later = [listed for listed in steps if listed > step]
    assert Cadence(at_steps=list(steps)).next_step(step) == min(later, default=NEVER)


def test_the_first_step_on_request() -> None:
    assert Cadence(every_n_steps=50, first=True).next_step(0) == 1
    assert Cadence(every_n_steps=50, first=True).next_step(1) == 50


def test_epochs() -> None:
    cadence = Cadence(every_n_epochs=3)
    assert [epoch for epoch in range(9) if cadence.epoch_due(epoch)] == [2, 5, 8]
    assert cadence.next_step(7) == NEVER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one .* got none"),
        ({"every_n_steps": 2, "at_steps": [3]}, r"exactly one .* got every_n_steps=2, at_steps=\[3\]"),
        ({"every_n_steps": 0}, "counted from 1, got every_n_steps=0"),
        ({"every_n_epochs": -1}, "counted from 1, got every_n_epochs=-1"),
        ({"at_steps": []}, r"counted from 1, got at_steps=\[\]"),
        ({"at_steps": [4, 0]}, r"counted from 1, got at_steps=\[4, 0\]"),
    ],
)
def test_bad_cadences_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Cadence(**arguments)


@given(
    spent=st.floats(0.0, 100.0),
    cost=st.floats(0.001, 10.0),
    share=st.floats(0.001, 0.5),
    trained=st.floats(0.01, 1000.0),
    steps=st.integers(1, 10_000),
)
def test_the_next_measurement_keeps_to_its_share_and_is_not_later_than_that(spent, cost, share, trained, steps) -> None:
    wait = steps_until_affordable(spent, cost, share, trained, steps)
    seconds_a_step = trained / steps
    assert wait >= 1
    assert (spent + cost) / (trained + wait * seconds_a_step) <= share * (1 + 1e-9)
    if wait > 1:
        assert (spent + cost) / (trained + (wait - 1) * seconds_a_step) > share * (1 - 1e-9)
