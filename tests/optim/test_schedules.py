"""Schedules against PyTorch's own, closed forms and laws that hold for all lengths."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR, StepLR

from optim import SCHEDULES
from optim.schedules import constant, cosine_warm_restarts, factors, linear, one_cycle, step_decay, warmup_cosine

every_schedule = pytest.mark.parametrize("name", SCHEDULES.names())


def optimizer(lr: float = 0.1) -> Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=lr)


def learning_rates(schedule: LRScheduler, steps: int) -> list[float]:
    """The rate that each step of a training loop uses."""
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("T_mult", [1, 2, 3])
@pytest.mark.parametrize("T_0", [1, 7, 10])
def test_cosine_warm_restarts_equal_pytorch(T_0: int, T_mult: int) -> None:
    ours = cosine_warm_restarts(optimizer(), 100, T_0=T_0, T_mult=T_mult, floor=0.01)
    theirs = CosineAnnealingWarmRestarts(optimizer(), T_0, T_mult, eta_min=0.001)
    assert learning_rates(ours, 100) == pytest.approx(learning_rates(theirs, 100), rel=1e-9)


@pytest.mark.parametrize("T_mult", [1, 2])
def test_cosine_warm_restarts_follow_the_paper(T_mult: int) -> None:
    """Equation 5 of arXiv 1608.03983, walking through the periods one by one."""
    lr_max, lr_min, T_0 = 0.1, 0.001, 10
    expected = []
    period = T_0
    while len(expected) < 100:
        for position in range(period):
            expected.append(lr_min + 0.5 * (lr_max - lr_min) * (1 + math.cos(math.pi * position / period)))
        period *= T_mult
    schedule = cosine_warm_restarts(optimizer(lr_max), 100, T_0=T_0, T_mult=T_mult, floor=lr_min / lr_max)
    assert learning_rates(schedule, 100) == pytest.approx(expected[:100], rel=1e-9)


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.3, 0.5])
@pytest.mark.parametrize(("div_factor", "final_div_factor"), [(25.0, 1e4), (4.0, 10.0)])
def test_one_cycle_equals_pytorch(warmup: float, div_factor: float, final_div_factor: float) -> None:
    ours = one_cycle(optimizer(), 100, warmup, div_factor, final_div_factor)
    theirs = OneCycleLR(
        optimizer(),
        max_lr=0.1,
        total_steps=100,
        pct_start=warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,
    )
    expected = [theirs.optimizer.param_groups[0]["lr"]]
    for _ in range(99):
        theirs.optimizer.step()
        theirs.step()
        expected.append(theirs.optimizer.param_groups[0]["lr"])
    assert learning_rates(ours, 100) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_step_decay_equals_pytorch() -> None:
    ours = step_decay(optimizer(), 100, step_size=30, gamma=0.1)
    assert learning_rates(ours, 100) == pytest.approx(learning_rates(StepLR(optimizer(), 30, 0.1), 100), rel=1e-9)


def test_linear_is_two_straight_lines() -> None:
    assert factors(linear(optimizer(), 9, warmup=4, floor=0.5), 10) == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5]
    )


def test_warmup_cosine_is_a_line_and_half_a_cosine() -> None:
    values = factors(warmup_cosine(optimizer(), 12, warmup=4, floor=0.2), 12)
    decay = [0.6 + 0.4 * math.cos(math.pi * step / 8) for step in range(9)]
    assert values == pytest.approx([0.25, 0.5, 0.75, *decay])
    assert values[7] == pytest.approx(0.6)  # half way down


def test_constant_after_its_warmup() -> None:
    assert factors(constant(optimizer(), 6, warmup=0.5), 6) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert factors(constant(optimizer(), 6), 6) == [1.0] * 6


total = st.integers(1, 400)
fraction = st.floats(0, 1, exclude_max=True)
OPTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "constant": st.fixed_dictionaries({}, optional={"warmup": fraction}),
    "linear": st.fixed_dictionaries({}, optional={"warmup": fraction, "floor": st.floats(0, 1)}),
    "warmup_cosine": st.fixed_dictionaries({}, optional={"warmup": fraction, "floor": st.floats(0, 1)}),
    "cosine_warm_restarts": st.fixed_dictionaries(
        {},
        optional={
            "T_0": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "T_mult": st.integers(1, 4),
            "floor": st.floats(0, 1),
        },
    ),
    "one_cycle": st.fixed_dictionaries(
        {}, optional={"warmup": fraction, "div_factor": st.floats(1, 1e3), "final_div_factor": st.floats(1, 1e6)}
    ),
    "step_decay": st.fixed_dictionaries(
        {},
        optional={
            "step_size": st.floats(0, 1, exclude_min=True, exclude_max=True),
            "gamma": st.floats(0, 1, exclude_min=True),
        },
    ),
}


@every_schedule
@settings(deadline=None)
@given(data=st.data(), total_steps=total)
def test_factors_stay_between_zero_and_one(name: str, data: st.DataObject, total_steps: int) -> None:
    options = data.draw(OPTIONS[name])
    values = factors(SCHEDULES.create(name, optimizer(), total_steps, **options), total_steps + 2)
    assert all(math.isfinite(value) and 0 <= value <= 1 + 1e-12 for value in values)
    assert values[0] > 0
    assert max(values) == pytest.approx(1)


@pytest.mark.parametrize("name", ["linear", "warmup_cosine"])
@settings(deadline=None)
@given(total_steps=st.integers(2, 400), warmup=fraction, floor=st.floats(0, 1))
def test_the_floor_is_reached_at_the_last_step_and_kept(
    name: str, total_steps: int, warmup: float, floor: float
) -> None:
    values = factors(SCHEDULES.create(name, optimizer(), total_steps, warmup=warmup, floor=floor), total_steps + 3)
    assert values[total_steps - 1 :] == pytest.approx([floor] * 4, abs=1e-12)


@settings(deadline=None)
@given(total_steps=st.integers(2, 400))
def test_one_cycle_ends_at_its_lowest(total_steps: int) -> None:
    values = factors(one_cycle(optimizer(), total_steps), total_steps)
    assert values[-1] == min(values) == pytest.approx(1 / 25 / 1e4)


@every_schedule
def test_every_group_keeps_its_own_learning_rate(name: str) -> None:
    pair = nn.Linear(1, 1)
    groups = [{"params": [pair.weight], "lr": 0.5}, {"params": [pair.bias], "lr": 0.02}]
    schedule = SCHEDULES.create(name, torch.optim.SGD(groups, lr=0.1), 10)
    for factor in factors(schedule, 10):
        assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx(
            [0.5 * factor, 0.02 * factor]
        )
        schedule.optimizer.step()
        schedule.step()


@every_schedule
def test_a_saved_state_resumes_the_same_values(name: str) -> None:
    whole = learning_rates(SCHEDULES.create(name, optimizer(), 20), 20)
    first = SCHEDULES.create(name, optimizer(), 20)
    learning_rates(first, 8)
    saved = pickle.loads(pickle.dumps((first.state_dict(), first.optimizer.state_dict())))

    second = SCHEDULES.create(name, optimizer(), 20)
    second.optimizer.load_state_dict(saved[1])
    second.load_state_dict(saved[0])
    assert learning_rates(second, 12) == whole[8:]


@every_schedule
def test_the_state_holds_the_step_and_none_of_the_options(name: str) -> None:
    """So that a run resumed with more steps follows the schedule it asks for."""
    short, long = SCHEDULES.create(name, optimizer(), 20), SCHEDULES.create(name, optimizer(), 200)
    learning_rates(short, 8)
    expected = factors(long, 200)
    long.load_state_dict(short.state_dict())
    assert long.last_epoch == 8
    assert factors(long, 200) == expected


@every_schedule
def test_a_schedule_can_be_copied_and_pickled(name: str) -> None:
    schedule = SCHEDULES.create(name, optimizer(), 20)
    assert factors(pickle.loads(pickle.dumps(schedule)), 20) == factors(schedule, 20)
    assert factors(copy.deepcopy(schedule), 20) == factors(schedule, 20)


def test_a_length_is_a_fraction_below_one_and_steps_from_one_on() -> None:
    assert factors(linear(optimizer(), 40, warmup=0.25), 40) == factors(linear(optimizer(), 40, warmup=10), 40)
    assert factors(step_decay(optimizer(), 40, step_size=0.25), 40) == factors(
        step_decay(optimizer(), 40, step_size=10.0), 40
    )
    assert factors(cosine_warm_restarts(optimizer(), 40, T_0=0.1), 40) == factors(
        cosine_warm_restarts(optimizer(), 40, T_0=4), 40
    )
    assert factors(constant(optimizer(), 40, warmup=1), 40) == [1.0] * 40


@every_schedule
@pytest.mark.parametrize("total_steps", [0, -5, 2.5, float("inf"), True, None])
def test_a_bad_number_of_steps_is_refused(name: str, total_steps: Any) -> None:
    with pytest.raises(ValueError, match=r"\Atotal_steps must be a whole number, at least 1, not [^\n]+\Z"):
        SCHEDULES.create(name, optimizer(), total_steps)


BAD_OPTIONS = [
    ("linear", {"warmup": 10}, "warmup of 10 steps must be shorter than the run of 10 steps"),
    ("constant", {"warmup": 11}, "warmup of 11 steps must be shorter than the run of 10 steps"),
    ("linear", {"warmup": 2.5}, "warmup must be a fraction below 1 or a whole number of steps, not 2.5"),
    ("linear", {"warmup": -0.1}, "warmup must be a finite number in [0, inf), not -0.1"),
    ("linear", {"warmup": float("nan")}, "warmup must be a finite number in [0, inf), not nan"),
    ("linear", {"floor": 1.5}, "floor must be a finite number in [0, 1], not 1.5"),
    ("warmup_cosine", {"floor": -0.5}, "floor must be a finite number in [0, 1], not -0.5"),
    ("cosine_warm_restarts", {"T_0": 0}, "T_0 must be a finite number in (0, inf), not 0"),
    ("cosine_warm_restarts", {"T_0": 11}, "T_0 of 11 steps must fit into the run of 10 steps"),
    ("cosine_warm_restarts", {"T_mult": 0}, "T_mult must be a whole number, at least 1, not 0"),
    ("cosine_warm_restarts", {"T_mult": 1.5}, "T_mult must be a whole number, at least 1, not 1.5"),
    ("one_cycle", {"div_factor": 0.5}, "div_factor must be a finite number in [1, inf), not 0.5"),
    ("one_cycle", {"final_div_factor": 0}, "final_div_factor must be a finite number in [1, inf), not 0"),
    ("step_decay", {"gamma": 0.0}, "gamma must be a finite number in (0, 1], not 0.0"),
    ("step_decay", {"gamma": 1.1}, "gamma must be a finite number in (0, 1], not 1.1"),
    ("step_decay", {"step_size": 20}, "step_size of 20 steps must fit into the run of 10 steps"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        SCHEDULES.create(name, optimizer(), 10, **options)
    assert str(error.value) == message


def test_only_schedules_of_this_folder_can_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"\Aonly schedules of optim/schedules.py can be drawn, not a StepLR\Z"):
        factors(StepLR(optimizer(), 3), 10)


@every_schedule
def test_the_help_text_describes_every_option(name: str) -> None:
    text = SCHEDULES[name].__doc__ or ""
    for option in ("optimizer", "total_steps", *SCHEDULES.options(name)):
        assert f"\n        {option}: " in text
