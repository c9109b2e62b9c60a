"""Schedules of momentum, weight decay and other options than the learning rate."""

import copy
import io
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from steepest.optim import OPTIMIZERS, SCHEDULES, OptionSchedule
from steepest.optim.registry import ScheduleFactory
from steepest.optim.schedules import constant, factors, linear, one_cycle, step_decay
from steepest.optim.schedules.options import OptionScheduler


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def walk(optimizer: Optimizer, schedulers: list[LRScheduler], steps: int) -> list[list[dict[str, Any]]]:
    """Options of every group at each step."""
    seen = []
    for _ in range(steps):
        seen.append(
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        )
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return seen


def test_an_option_is_multiplied_by_the_factor() -> None:
    optimizer = OPTIMIZERS["adamw"](model(), weight_decay=0.3)
    expected = factors(linear(OPTIMIZERS["sgd"](model()), 10, floor=0.1), 10)
    schedules = {"weight_decay": OptionSchedule(partial(linear, floor=0.1))}
    seen = walk(optimizer, [OptionScheduler(optimizer, 10, schedules)], 10)
    decays = [[group["weight_decay"] for group in groups] for groups in seen]
    # Biases do not decay, and never begin to.
    assert [row[0] for row in decays] == pytest.approx([0.3 * factor for factor in expected])
    assert {row[1] for row in decays} == {0.0}
    assert {group["lr"] for groups in seen for group in groups} == {1e-3}


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adamw"])
def test_momentum_is_the_first_beta_of_others(name: str) -> None:
    """The warm-up from 0.85 to 0.95 that is usual for Muon."""
    options = {"betas": (0.95, 0.999)} if name == "adamw" else {"momentum": 0.95}
    optimizer = OPTIMIZERS[name](model(), **options)
    schedules = {"momentum": OptionSchedule(partial(constant, warmup=5), at_zero=0.85)}
    seen = walk(optimizer, [OptionScheduler(optimizer, 8, schedules)], 8)
    expected = [0.87, 0.89, 0.91, 0.93, 0.95, 0.95, 0.95, 0.95]
    if name == "adamw":
        assert [groups[0]["betas"][0] for groups in seen] == pytest.approx(expected)
        assert {groups[0]["betas"][1] for groups in seen} == {0.999}
    else:
        assert [groups[0]["momentum"] for groups in seen] == pytest.approx(expected)


def test_momentum_may_move_against_the_learning_rate() -> None:
    """`OneCycleLR` with `cycle_momentum`, which PyTorch lets fall to 0.85 at the peak of the rate."""
    theirs = torch.optim.SGD(model().parameters(), lr=0.1, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 0.1, total_steps=20, base_momentum=0.85, max_momentum=0.95, div_factor=1e9, final_div_factor=1.0
    )
    optimizer = OPTIMIZERS["momentum"](model(), lr=0.1, momentum=0.85)
    cycle = partial(one_cycle, div_factor=1e9, final_div_factor=1.0)
    schedulers = [cycle(optimizer, 20), OptionScheduler(optimizer, 20, {"momentum": OptionSchedule(cycle, 0.95)})]
    for groups in walk(optimizer, schedulers, 20):
        assert groups[0]["momentum"] == pytest.approx(theirs.param_groups[0]["momentum"])
        assert groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-9)
        theirs.step()
        if reference.last_epoch < 19:
            reference.step()


class Budgeted(torch.optim.SGD):
    """Stands for any optimizer with a number of its own in some of its groups."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__([{"params": parameters[:1], "spectral_budget": 0.4}, {"params": parameters[1:]}], lr=0.1)


def test_any_number_of_a_group_may_move() -> None:
    optimizer = Budgeted(list(model().parameters()))
    schedules = {"spectral_budget": OptionSchedule(partial(step_decay, step_size=2, gamma=0.5))}
    seen = walk(optimizer, [OptionScheduler(optimizer, 6, schedules)], 6)
    assert [groups[0]["spectral_budget"] for groups in seen] == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1, 0.1])
    assert all("spectral_budget" not in groups[1] for groups in seen)


def test_both_schedules_resume_from_a_file() -> None:
    def made() -> tuple[nn.Module, Optimizer, list[LRScheduler]]:
        module = model()
        optimizer = OPTIMIZERS["adamw"](module, weight_decay=0.3)
        schedules = {"weight_decay": OptionSchedule(linear), "momentum": OptionSchedule(linear, 0.5)}
        return module, optimizer, [linear(optimizer, 20), OptionScheduler(optimizer, 20, schedules)]

    def train(module: nn.Module, optimizer: Optimizer, schedulers: list[LRScheduler], steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            module.zero_grad()
            module(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()

    whole, first, second = made(), made(), made()
    train(*whole, range(20))
    train(*first, range(8))
    file = io.BytesIO()
    torch.save([first[0].state_dict(), first[1].state_dict(), [item.state_dict() for item in first[2]]], file)
    file.seek(0)
    weights, state, steps = torch.load(file, weights_only=True)
    second[0].load_state_dict(weights)
    second[1].load_state_dict(state)
    for scheduler, saved in zip(second[2], steps, strict=True):
        scheduler.load_state_dict(saved)
    train(*second, range(8, 20))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True))
    for one, other in zip(whole[1].param_groups, second[1].param_groups, strict=True):
        assert {**one, "params": None} == {**other, "params": None}


def test_a_scheduler_of_options_can_be_copied_and_pickled() -> None:
    optimizer = OPTIMIZERS["adamw"](model(), weight_decay=0.3)
    scheduler = OptionScheduler(optimizer, 10, {"weight_decay": OptionSchedule(linear)})
    scheduler.optimizer.step()
    scheduler.step()
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert twin.option_values() == scheduler.option_values()
        assert twin.optimizer is not optimizer


def stairs(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    return StepLR(optimizer, total_steps)


BAD: list[tuple[str, ScheduleFactory, float, str]] = [
    ("lr", linear, 0.0, "the learning rate is moved by the schedule itself"),
    ("momentun", linear, 0.0, "unknown option of AdamW to schedule 'momentun'. Did you mean 'momentum'?"),
    ("initial_lr", linear, 0.0, "unknown option of AdamW to schedule 'initial_lr'"),
    ("amsgrad", linear, 0.0, "option 'amsgrad' cannot be scheduled: its value False is not a real number"),
    ("weight_decay", linear, 0.0, "option 'weight_decay' cannot be scheduled: it is 0 in all parameter groups"),
    ("eps", linear, -1.0, "at_zero of eps must be a finite number in [0, inf), not -1.0"),
    ("momentum", linear, 5.0, "momentum at step 1 must be a finite number in [0, 1), not"),
    ("eps", partial(linear, floor=2.0), 0.0, "floor must be a finite number in [0, 1], not 2.0"),
    ("eps", stairs, 0.0, "only schedules that are a LambdaLR have a factor, a StepLR does not"),
]


@pytest.mark.parametrize(("option", "schedule", "at_zero", "message"), BAD)
def test_what_cannot_be_scheduled_is_refused_in_one_line(
    option: str, schedule: ScheduleFactory, at_zero: float, message: str
) -> None:
    optimizer = OPTIMIZERS["adamw"](model(), weight_decay=0.0)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        OptionScheduler(optimizer, 100, {option: OptionSchedule(schedule, at_zero)})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_can_move_an_option(name: str) -> None:
    optimizer = OPTIMIZERS["adamw"](model())
    scheduler = OptionScheduler(optimizer, 10, {"weight_decay": OptionSchedule(SCHEDULES[name])})
    seen = [groups[0]["weight_decay"] for groups in walk(optimizer, [scheduler], 10)]
    expected = factors(SCHEDULES.create(name, OPTIMIZERS["sgd"](model()), 10), 10)
    assert seen == pytest.approx([0.01 * factor for factor in expected])
