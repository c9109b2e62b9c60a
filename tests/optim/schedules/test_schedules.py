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
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR, PolynomialLR, StepLR

from steepest.optim import SCHEDULES
from steepest.optim.schedules import (
    autosgm_window,
    constant,
    cosine_warm_restarts,
    factor_function,
    factors,
    inverse_sqrt,
    linear,
    one_cycle,
    polynomial,
    step_decay,
    warmup_cosine,
    warmup_stable_decay,
)

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


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_polynomial_equals_pytorch(power: float) -> None:
    ours = polynomial(optimizer(), 21, power=power, warmup=0)
    assert learning_rates(ours, 22) == pytest.approx(learning_rates(PolynomialLR(optimizer(), 20, power), 22), rel=1e-9)


def test_polynomial_warms_up_and_stops_at_its_floor() -> None:
    values = factors(polynomial(optimizer(), 8, power=3, warmup=4, floor=0.2), 9)
    assert values == pytest.approx([0.25, 0.5, 0.75, 1, *(0.2 + 0.8 * (left / 4) ** 3 for left in (3, 2, 1, 0, 0))])


def test_polynomial_of_power_one_is_linear() -> None:
    assert factors(polynomial(optimizer(), 30, power=1.0), 30) == factors(linear(optimizer(), 30), 30)


@pytest.mark.parametrize("warmup", [1, 7, 100])
def test_inverse_sqrt_is_that_of_the_transformer(warmup: int) -> None:
    """Equation 3 of arXiv 1706.03762, whose steps count from 1, relative to its highest rate."""
    expected = [min(step**-0.5, step * warmup**-1.5) * warmup**0.5 for step in range(1, 201)]
    assert factors(inverse_sqrt(optimizer(), 200, warmup=warmup), 200) == pytest.approx(expected)


def test_inverse_sqrt_without_warmup_falls_from_the_first_step() -> None:
    assert factors(inverse_sqrt(optimizer(), 9, warmup=0), 9) == pytest.approx([k**-0.5 for k in range(1, 10)])


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        ("linear", [0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * k / 4) for k in (1, 2, 3, 4)]),
        ("sqrt", [0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
    ],
)
def test_warmup_stable_decay_is_made_of_three_parts(shape: str, fall: list[float]) -> None:
    schedule = SCHEDULES.create("warmup_stable_decay", optimizer(), 10, warmup=2, decay=4, shape=shape)
    assert factors(schedule, 11) == pytest.approx([0.5, 1, 1, 1, 1, 1, *fall, 0.0])


def test_warmup_stable_decay_may_be_all_decay() -> None:
    all_decay = warmup_stable_decay(optimizer(), 10, warmup=0, decay=10)
    assert factors(all_decay, 10) == pytest.approx(factors(linear(optimizer(), 10, warmup=0), 10))


GOLDEN = [  # shape, order, the formula of the window at position f
    ("raised_cosine", 2.0, lambda f: math.cos(math.pi * f / 2) ** 2),
    ("polynomial", 1.5, lambda f: (1 - f) ** 1.5),
    ("beta_exponential", 0.3, lambda f: (0.3**f - 0.3) / 0.7),
    ("simple_polynomial", 3.0, lambda f: (1 - f**3) ** 2),
    ("logistic", 5.0, lambda f: (1 / (1 + 32 ** (2 * f - 1)) - 1 / 33) / (32 / 33 - 1 / 33)),
    ("late_logistic", 5.0, lambda f: (1 / (1 + 2 ** (10 * (f - 0.875))) - 1 / 33) / (32 / 33 - 1 / 33)),
]


@pytest.mark.parametrize(("shape", "order", "formula"), GOLDEN, ids=[row[0] for row in GOLDEN])
def test_windows_follow_their_formulas(shape: str, order: float, formula: Any) -> None:
    def values(**options: Any) -> list[float]:
        return factors(SCHEDULES.create("autosgm_window", optimizer(), 12, shape=shape, order=order, **options), 12)

    positions = [step / 12 for step in range(12)]
    assert values() == pytest.approx([formula(f) for f in positions])
    assert values(floor=0.25) == pytest.approx([0.25 + 0.75 * formula(f) for f in positions])
    assert values(full=True) == pytest.approx([formula(abs(2 * f - 1)) for f in positions], abs=1e-12)
    assert values(flat=0.5) == pytest.approx([1.0] * 6 + [formula(2 * f - 1) for f in positions[6:]])
    assert values(unit="epoch", epoch=4) == pytest.approx([formula(f) for f in (0, 1 / 3, 2 / 3) for _ in range(4)])
    assert values(unit="restart", epoch=4) == pytest.approx([formula(f) for f in (0, 0.25, 0.5, 0.75)] * 3)
    assert values(unit="restart", epoch=0.5) == pytest.approx([formula(k / 6) for k in range(6)] * 2)
    golden = sorted((formula(k * (math.sqrt(5) - 1) / 2 % 1) for k in range(12)), reverse=True)
    assert values(sequence="kronecker") == pytest.approx(golden)


def test_an_epoch_that_does_not_divide_the_run() -> None:
    values = factors(autosgm_window(optimizer(), 10, "polynomial", unit="epoch", epoch=4), 10)
    assert values == pytest.approx([1.0] * 4 + [2 / 3] * 4 + [1 / 3] * 2)


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
    "polynomial": st.fixed_dictionaries(
        {}, optional={"warmup": fraction, "floor": st.floats(0, 1), "power": st.floats(0.1, 10)}
    ),
    "inverse_sqrt": st.fixed_dictionaries({}, optional={"warmup": fraction}),
    "warmup_stable_decay": st.fixed_dictionaries(
        {},
        optional={
            "warmup": st.floats(0, 0.5),
            "decay": st.floats(0, 0.5, exclude_min=True),
            "floor": st.floats(0, 1),
            "shape": st.sampled_from(["linear", "cosine", "sqrt"]),
        },
    ),
    "autosgm_window": st.fixed_dictionaries(
        {},
        optional={
            "shape": st.sampled_from(["raised_cosine", "polynomial", "logistic"]),
            "order": st.floats(1, 10),
            "floor": st.floats(0, 1),
            "flat": st.floats(0, 1, exclude_max=True),
            "sequence": st.sampled_from(["ordered", "kronecker"]),
        },
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
@settings(deadline=None, max_examples=40)
@given(data=st.data(), total_steps=total)
def test_factors_stay_between_zero_and_one(name: str, data: st.DataObject, total_steps: int) -> None:
    options = data.draw(OPTIONS.get(name, st.just({})))
    values = factors(SCHEDULES.create(name, optimizer(), total_steps, **options), total_steps + 2)
    assert all(math.isfinite(value) and 0 <= value <= 1 + 1e-12 for value in values)
    assert values[0] > 0
    assert max(values) == pytest.approx(1)


@pytest.mark.parametrize("name", ["linear", "warmup_cosine", "polynomial", "warmup_stable_decay"])
@settings(deadline=None, max_examples=40)
@given(total_steps=st.integers(2, 400), warmup=fraction, floor=st.floats(0, 1))
def test_the_floor_is_reached_at_the_last_step_and_kept(
    name: str, total_steps: int, warmup: float, floor: float
) -> None:
    if name == "warmup_stable_decay":
        warmup *= 0.8  # it keeps a fifth of the run for its decay
    values = factors(SCHEDULES.create(name, optimizer(), total_steps, warmup=warmup, floor=floor), total_steps + 3)
    assert values[total_steps - 1 :] == pytest.approx([floor] * 4, abs=1e-12)


@settings(deadline=None, max_examples=40)
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
def test_a_bad_number_of_steps_is_refused(name: str) -> None:
    for total_steps in (0, -5, 2.5, float("inf"), True, None):
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
    ("polynomial", {"power": 0.0}, "power must be a finite number in (0, inf), not 0.0"),
    ("polynomial", {"floor": 2}, "floor must be a finite number in [0, 1], not 2"),
    ("inverse_sqrt", {"warmup": 10}, "warmup of 10 steps must be shorter than the run of 10 steps"),
    ("warmup_stable_decay", {"decay": 11}, "decay of 11 steps must fit into the run of 10 steps"),
    (
        "warmup_stable_decay",
        {"warmup": 4, "decay": 7},
        "warmup of 4 and decay of 7 steps must fit into the run of 10 steps",
    ),
    (
        "warmup_stable_decay",
        {"warmup": 0.5, "decay": 0.6},
        "warmup of 5 and decay of 6 steps must fit into the run of 10 steps",
    ),
    ("warmup_stable_decay", {"shape": "square"}, "shape must be one of linear, cosine, sqrt, not 'square'"),
    (
        "autosgm_window",
        {"shape": "none"},
        "shape must be one of raised_cosine, polynomial, beta_exponential, simple_polynomial, logistic, late_logistic, "
        "not 'none'",
    ),
    ("autosgm_window", {"sequence": "random"}, "sequence must be one of ordered, kronecker, not 'random'"),
    ("autosgm_window", {"order": 0.5}, "order of raised_cosine must be a finite number in [1, inf), not 0.5"),
    (
        "autosgm_window",
        {"shape": "beta_exponential"},
        "order of beta_exponential must be a finite number in (0, 1), not 1.0",
    ),
    ("autosgm_window", {"floor": 2.0}, "floor must be a finite number in [0, 1], not 2.0"),
    ("autosgm_window", {"flat": 1.0}, "flat must be a finite number in [0, 1), not 1.0"),
    ("autosgm_window", {"epoch": 3}, "epoch 3 is for the units 'epoch' and 'restart', not for 'step'"),
    (
        "autosgm_window",
        {"unit": "restart"},
        "unit 'restart' needs the length of an epoch: give epoch, a fraction of the run or steps",
    ),
    ("step_decay", {"step_size": 20}, "step_size of 20 steps must fit into the run of 10 steps"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        SCHEDULES.create(name, optimizer(), 10, **options)
    assert str(error.value) == message


def test_only_functions_of_the_step_can_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"\Aonly schedules that are a LambdaLR have a factor, a StepLR does not\Z"):
        factors(StepLR(optimizer(), 3), 10)


@every_schedule
def test_a_factor_is_known_without_an_optimizer(name: str) -> None:
    factor = factor_function(SCHEDULES[name], 20)
    assert [factor(step) for step in range(20)] == factors(SCHEDULES.create(name, optimizer(), 20), 20)


@every_schedule
def test_the_help_text_describes_every_option(name: str) -> None:
    text = SCHEDULES[name].__doc__ or ""
    for option in ("optimizer", "total_steps", *SCHEDULES.options(name)):
        assert f"\n        {option}: " in text
