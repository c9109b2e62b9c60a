"""The fast form equals the literal one in every mode, on every layout."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steepest.optim.autosgm import AutoSGM, ReferenceAutoSGM
from steepest.optim.autosgm.batches import CACHE_SIZE, batches, parts
from steepest.optim.autosgm.foreach import Scratch
from tests.optim.autosgm.problem import SHAPES, gradients, tensors, train

WINDOW = (1, 0, 0.1, 2, 1, 2, 20, 1, 0.1)


def configuration(numerator: int = 3, **changes: Any) -> dict[str, Any]:
    return {
        "lr_cfg": (True, 0.02, numerator),
        "beta_cfg": (0.95, 0.99, 0.9, 0.4, 0, True),
        "rc_cfg": WINDOW,
        "wd_cfg": (0.0, 0),
        "eps_cfg": (1e-10, True),
        **changes,
    }


def assert_equal_forms(
    shapes: list[tuple[int, ...]],
    steps: int,
    dtype: torch.dtype = torch.float64,
    rtol: float = 1e-10,
    atol: float = 1e-13,
    **configuration: Any,
) -> None:
    fast, literal = (tensors(shapes, dtype, zeros=True) for _ in range(2))
    start = [weight.detach().clone() for weight in fast]
    train(AutoSGM(fast, **configuration), fast, steps)
    train(ReferenceAutoSGM(literal, **configuration), literal, steps)
    assert any(not torch.equal(weight, old) for weight, old in zip(fast, start, strict=True))
    torch.testing.assert_close(fast, literal, rtol=rtol, atol=atol)


@pytest.mark.parametrize("numerator", range(5))
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("maximize", [False, True])
def test_numerators_and_decay(numerator: int, level: int, maximize: bool) -> None:
    # Upwards the weights grow without bound: few steps.
    steps = 10 if maximize else 60
    assert_equal_forms(SHAPES, steps, **configuration(numerator, wd_cfg=(0.1, level), maximize=maximize))


@given(
    lr_cfg=st.tuples(st.booleans(), st.floats(1e-5, 0.05), st.integers(0, 4)),
    poles=st.tuples(*[st.floats(0, 0.999)] * 3),
    # Of the gradient's pole, so that the zero is never above it.
    zero=st.floats(-1, 1),
    gain=st.sampled_from([0, 0.5, 1]),
    debias=st.booleans(),
    decay=st.tuples(st.sampled_from([0.0, 0.1]), st.integers(0, 1)),
    eps=st.tuples(st.sampled_from([1e-10, 1e-4]), st.booleans()),
)
@settings(max_examples=60, deadline=None)
def test_any_options(lr_cfg: Any, poles: Any, zero: float, gain: float, debias: bool, decay: Any, eps: Any) -> None:
    beta_cfg = (*poles, zero * poles[2], gain, debias)
    options = configuration(lr_cfg=lr_cfg, beta_cfg=beta_cfg, wd_cfg=decay, eps_cfg=eps)
    assert_equal_forms(SHAPES, 12, rtol=1e-8, atol=1e-10, **options)


@pytest.mark.parametrize("numerator", range(5))
def test_large_tensors_are_worked_on_in_slices(numerator: int) -> None:
    shapes = [(300, 80, 3, 3), (7,), (1, CACHE_SIZE + 5), (CACHE_SIZE + 5,)]
    assert_equal_forms(shapes, 3, **configuration(numerator))


@pytest.mark.parametrize("numerator", range(5))
def test_single_precision(numerator: int) -> None:
    assert_equal_forms(SHAPES, 20, torch.float32, rtol=1e-4, atol=1e-5, **configuration(numerator))


@pytest.mark.parametrize("numerator", [0, 3])
def test_memory_formats(numerator: int) -> None:
    def other_formats() -> list[Tensor]:
        first, second = tensors([(300, 80, 3, 3), (600, 400)])
        weights = [first.detach().to(memory_format=torch.channels_last), second.detach().t()]
        return [weight.requires_grad_() for weight in weights]

    fast, literal = other_formats(), other_formats()
    train(AutoSGM(fast, **configuration(numerator)), fast, 3)
    train(ReferenceAutoSGM(literal, **configuration(numerator)), literal, 3)
    torch.testing.assert_close(fast, literal, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("numerator", range(5))
def test_missing_gradients_do_not_advance_the_step(numerator: int) -> None:
    fast, literal = tensors(), tensors()
    for weights, optimizer in (
        (fast, AutoSGM(fast, **configuration(numerator))),
        (literal, ReferenceAutoSGM(literal, **configuration(numerator))),
    ):
        for step in range(12):
            for index, (weight, gradient) in enumerate(zip(weights, gradients(weights, step), strict=True)):
                weight.grad = gradient if step % (index + 1) == 0 else None
            optimizer.step()
    torch.testing.assert_close(fast, literal, rtol=1e-10, atol=1e-13)


@given(st.lists(st.lists(st.integers(0, 600), min_size=0, max_size=2), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_parts_hold_every_element_once(shapes: list[list[int]]) -> None:
    weights = [torch.zeros(shape) for shape in shapes]
    seen = []
    for indices, rows in batches(weights):
        seen += indices
        chosen = [weights[index] for index in indices]
        for part in parts(chosen, chosen, [{}] * len(chosen), (), rows, Scratch(), keep_updates=True):
            for weight in part.weights:
                weight += 1
    assert sorted(seen) == list(range(len(weights)))
    assert all(bool((weight == 1).all()) for weight in weights)
