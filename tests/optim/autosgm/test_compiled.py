"""The kernels of the compiled step, run as they are written, and what is around them; no compiler takes part."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.optim import AutoSGM
from steepest.optim.autosgm import compiled
from tests.optim.autosgm.forms import LIMITS, NUMERATORS, assert_close, assert_same_bits, configuration, trained
from tests.optim.autosgm.problem import SHAPES, gradients, tensors, train


@pytest.fixture
def kernels_as_written() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield
    compiled._prepared.cache_clear()


@pytest.mark.usefixtures("kernels_as_written")
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("lr_cfg", NUMERATORS)
def test_it_equals_the_list_form(lr_cfg: Any, level: int, dtype: torch.dtype) -> None:
    gain, debias = ((0, True), (0.5, False))[level]
    options = configuration(
        lr_cfg=lr_cfg,
        beta_cfg=(0.95, 0.99, 0.9, 0.4, gain, debias),
        wd_cfg=(0.1, level),
        eps_cfg=(1e-10, bool(level)),
    )
    assert_close(trained(dtype, 40, True, **options), trained(dtype, 40, False, **options))
    upwards = {**options, "maximize": True}
    assert_close(trained(dtype, 3, True, **upwards), trained(dtype, 3, False, **upwards))


def spread(weights: list[Tensor], layout: str) -> list[Tensor]:
    """The same values in another order of memory."""
    laid_out = []
    for weight in weights:
        value = weight.detach()
        if layout == "channels_last" and value.ndim == 4:
            value = value.to(memory_format=torch.channels_last)
        elif layout == "transposed" and value.ndim == 2:
            value = value.t().contiguous().t()
        elif layout == "with gaps" and value.ndim:
            value = torch.stack([value, value], -1)[..., 0]
        laid_out.append(value.requires_grad_())
    return laid_out


@pytest.mark.usefixtures("kernels_as_written")
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "with gaps"])
@pytest.mark.parametrize("gradients_too", [False, True])
def test_any_order_of_memory(layout: str, gradients_too: bool) -> None:
    runs = []
    for own_layout in (layout, "contiguous"):
        weights = spread(tensors(), own_layout)
        optimizer = AutoSGM(weights, compiled=True, **configuration())
        for step in range(10):
            found = gradients(weights, step)
            for weight, gradient in zip(weights, found, strict=True):
                weight.grad = gradient if gradients_too else gradient.contiguous()
            optimizer.step()
        runs.append(weights)
    assert_close(*runs)


@pytest.mark.usefixtures("kernels_as_written")
def test_gradients_that_are_missing_are_left_alone_and_empty_tensors_are_passed_over() -> None:
    shapes = [*SHAPES, (0, 3)]
    runs = []
    for own in (True, False):
        weights = tensors(shapes)
        optimizer = AutoSGM(weights, compiled=own, **configuration(wd_cfg=(0.1, 0)))
        for step in range(12):
            for index, (weight, gradient) in enumerate(zip(weights, gradients(weights, step), strict=True)):
                weight.grad = gradient if step % (index + 1) == 0 else None
            kept = [None if weight.grad is None else weight.grad.clone() for weight in weights]
            optimizer.step()
            for weight, old in zip(weights, kept, strict=True):
                assert (weight.grad is None) == (old is None)
                assert old is None or torch.equal(weight.grad, old)  # type: ignore[arg-type]
        runs.append(weights)
    assert runs[0].pop().shape == runs[1].pop().shape == (0, 3)
    assert_close(*runs)


@pytest.mark.usefixtures("kernels_as_written")
def test_autograd_notices_that_the_weight_has_changed() -> None:
    weight = torch.ones(3, requires_grad=True)
    loss = weight.square().sum()
    weight.grad = torch.ones(3)
    AutoSGM([weight], compiled=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("kernels_as_written")
@pytest.mark.parametrize("lr_cfg", NUMERATORS)
def test_statistics_are_those_of_the_list_form_and_change_nothing(lr_cfg: Any) -> None:
    measured, runs = {}, []
    for own, record, track in ((True, True, True), (True, False, False), (False, True, True)):
        weights = tensors(zeros=True)
        optimizer = AutoSGM(weights, compiled=own, track_dynamics=track, **configuration(lr_cfg=lr_cfg))
        optimizer.record_statistics = record
        train(optimizer, weights, 4)
        runs.append(weights)
        if record:
            measured[own] = optimizer.last_stats
    assert_same_bits(runs[0], runs[1])
    torch.testing.assert_close(measured[True], measured[False], rtol=1e-9, atol=1e-15)


@pytest.mark.usefixtures("kernels_as_written")
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("lr_cfg", NUMERATORS)
def test_checkpoints_do_not_depend_on_it(lr_cfg: Any, saved: bool) -> None:
    weights = tensors()
    optimizer = AutoSGM(weights, compiled=saved, **configuration(lr_cfg=lr_cfg))
    train(optimizer, weights, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    if not saved:
        del content["param_groups"][0]["compiled"]  # as in a checkpoint that is older than the option
    others = [weight.detach().clone().requires_grad_() for weight in weights]
    loaded = AutoSGM(others, compiled=not saved, **configuration(lr_cfg=lr_cfg))
    loaded.load_state_dict(content)
    assert loaded.param_groups[0]["compiled"] is not saved
    assert {name: value.shape for name, value in loaded.state[others[0]].items()} == {
        name: value.shape for name, value in optimizer.state[weights[0]].items()
    }
    train(optimizer, weights, 5, first=5)
    train(loaded, others, 5, first=5)
    assert_close(others, weights)


@pytest.mark.usefixtures("kernels_as_written")
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(duplicate: Callable[[Any], Any]) -> None:
    weights = tensors()
    optimizer = AutoSGM(weights, compiled=True, **configuration())
    train(optimizer, weights, 3)
    optimizer.zero_grad()
    other, others = duplicate((optimizer, weights))
    assert other.param_groups[0]["compiled"]
    train(optimizer, weights, 3, first=3)
    train(other, others, 3, first=3)
    assert_same_bits(others, weights)


@pytest.mark.usefixtures("kernels_as_written")
@pytest.mark.parametrize("rounding", ["nearest", "kahan", "stochastic"])
def test_parameters_of_16_bits(rounding: Any) -> None:
    found, expected = (trained(torch.bfloat16, 10, own, rounding=rounding, **configuration()) for own in (True, False))
    # A step computed to 1e-7 may be rounded the other way, by the distance of two neighbours.
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)
    equal = torch.cat([(ours == theirs).flatten() for ours, theirs in zip(found, expected, strict=True)])
    assert equal.float().mean() > 0.9


def test_without_a_compiler_it_is_refused_in_one_line(steepest: Any, tiny: str) -> None:
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        with pytest.raises(ValueError, match=r"\Acompiled=True needs a C\+\+ compiler [^\n]*\bCXX\b[^\n]*\Z"):
            AutoSGM(tensors(), compiled=True)
        outcome = steepest("fit", "--config", tiny, "--optimizer", "autosgm", "--optimizer.compiled", "true")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "compiled=True needs a C++ compiler" in outcome.err


def test_a_device_without_compiled_kernels_is_named() -> None:
    with pytest.raises(ValueError, match=r"\Acompiled=True [^\n]* cpu or cuda, not on meta[^\n]*\Z"):
        AutoSGM([torch.ones(3, device="meta", requires_grad=True)], compiled=True)
