"""Clippings against PyTorch's functions, NumPy and literal loops."""

import copy
import io
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steepest.optim import CLIPPINGS
from steepest.optim.clipping import agc, autoclip, norm, value
from steepest.optim.clipping.base import refuse_thresholds, total_norm

every_clipping = pytest.mark.parametrize("name", CLIPPINGS.names())

SHAPES = [(3, 4), (5,), (2, 3, 2, 2), ()]


def parameters(seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Weights of several shapes with gradients of about the given scale."""
    generator = torch.Generator().manual_seed(seed)
    made = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).to(dtype)
    return made


def group(params: list[nn.Parameter], **options: Any) -> dict[str, Any]:
    return {"params": params, **options}


def gradients(params: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in params if parameter.grad is not None]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e6]), limit=st.floats(1e-3, 1e3))
def test_norm_equals_pytorch(seed: int, scale: float, limit: float) -> None:
    ours, theirs = parameters(seed, scale), parameters(seed, scale)
    before = norm(nn.Identity(), max_norm=limit).clip([group(ours[:2]), group(ours[2:])])
    expected = nn.utils.clip_grad_norm_(theirs, limit)
    assert float(before) == pytest.approx(float(expected), rel=1e-6)
    for one, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    assert float(total_norm(gradients(ours))) <= limit * (1 + 1e-6)


@pytest.mark.parametrize("limit", [0.01, 0.5, 100.0])
def test_value_equals_pytorch(limit: float) -> None:
    ours, theirs = parameters(), parameters()
    before = value(nn.Identity(), max_value=limit).clip([group(ours)])
    assert float(before) == pytest.approx(float(total_norm(gradients(theirs))))
    nn.utils.clip_grad_value_(theirs, limit)
    assert_equal(gradients(ours), gradients(theirs))


def test_each_group_by_itself() -> None:
    ours, theirs = parameters(), parameters()
    before = norm(nn.Identity(), max_norm=0.5, per_group=True).clip([group(ours[:2]), group(ours[2:])])
    assert float(before) == pytest.approx(float(total_norm(gradients(theirs))))
    nn.utils.clip_grad_norm_(theirs[:2], 0.5)
    nn.utils.clip_grad_norm_(theirs[2:], 0.5)
    assert_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("per_group", [False, True])
def test_a_groups_own_threshold_goes_before(per_group: bool) -> None:
    ours, theirs = parameters(), parameters()
    groups = [group(ours[:1], clip=0.1), group(ours[1:2], clip="none"), group(ours[2:])]
    before = norm(nn.Identity(), max_norm=0.5, per_group=per_group).clip(groups)
    assert float(before) == pytest.approx(float(total_norm(gradients(theirs))))
    nn.utils.clip_grad_norm_(theirs[:1], 0.1)
    nn.utils.clip_grad_norm_(theirs[2:], 0.5)
    assert_equal(gradients(ours), gradients(theirs))


@every_clipping
def test_a_groups_own_threshold_or_none(name: str) -> None:
    left, own = parameters(), parameters()
    CLIPPINGS.create(name, nn.Linear(2, 2)).clip([group(left, clip="none"), group(own, clip=1e-4)])
    assert_equal(gradients(left), gradients(parameters()))
    assert all(not torch.equal(a, b) for a, b in zip(gradients(own), gradients(parameters()), strict=True))
    if name in ("norm", "autoclip"):  # a fixed norm
        assert float(total_norm(gradients(own))) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("clip", ["never", 0.0, -1.0, float("nan"), True])
def test_bad_thresholds_of_groups_are_refused(clip: Any) -> None:
    with pytest.raises(ValueError, match=r"\Aclip of a parameter group must be a [^\n]+\Z"):
        norm(nn.Identity()).clip([group(parameters(), clip=clip)])


def test_a_threshold_without_a_clipping_is_refused() -> None:
    refuse_thresholds([group([]), group([], clip="none")])
    with pytest.raises(ValueError, match=r"clip=0\.5, but no clipping is chosen"):
        refuse_thresholds([group([]), group([], clip=0.5)])


def simulated_autoclip(norms: list[float], percentile: float, window: int) -> list[float]:
    """Norms after clipping, by the paper's two lines."""
    clipped = []
    for step, present in enumerate(norms):
        threshold = numpy.percentile(norms[max(0, step + 1 - window) : step + 1], percentile)
        clipped.append(min(present, float(threshold)))
    return clipped


@pytest.mark.parametrize("percentile", [0.0, 10.0, 37.5, 100.0])
@pytest.mark.parametrize("window", [1, 7, 1000])
def test_autoclip_follows_the_paper(percentile: float, window: int) -> None:
    clipping = autoclip(nn.Identity(), percentile=percentile, window=window)
    before, after = [], []
    for step in range(30):
        params = parameters(step, scale=1 + step % 5)
        before.append(float(clipping.clip([group(params)])))
        after.append(float(total_norm(gradients(params))))
    assert after == pytest.approx(simulated_autoclip(before, percentile, window), rel=1e-5)


def test_autoclip_keeps_a_history_for_each_group() -> None:
    together = autoclip(nn.Identity(), per_group=True)
    alone = autoclip(nn.Identity()), autoclip(nn.Identity())
    for step in range(10):
        ours, theirs = parameters(step), parameters(step)
        together.clip([group(ours[:2]), group(ours[2:])])
        alone[0].clip([group(theirs[:2])])
        alone[1].clip([group(theirs[2:])])
        assert_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_autoclip_forgets_norms_that_are_not_finite(bad: float) -> None:
    clean, disturbed = autoclip(nn.Identity(), window=4), autoclip(nn.Identity(), window=4)
    for step in range(12):
        if step % 3 == 0:
            broken = parameters(step)
            assert broken[1].grad is not None
            broken[1].grad[0] = bad
            disturbed.clip([group(broken)])
        ours, theirs = parameters(step), parameters(step)
        clean.clip([group(ours)])
        disturbed.clip([group(theirs)])
        assert_equal(gradients(ours), gradients(theirs))


@every_clipping
def test_a_clipping_resumes_from_a_file(name: str) -> None:
    options = {"window": 5} if name == "autoclip" else {}
    whole, first, second = (CLIPPINGS.create(name, nn.Linear(2, 2), **options) for _ in range(3))
    for step in range(20):
        if step == 8:
            file = io.BytesIO()
            torch.save(first.state_dict(), file)
            file.seek(0)
            second.load_state_dict(torch.load(file, weights_only=True))
        ours, theirs = parameters(step), parameters(step)
        whole.clip([group(ours)])
        (first if step < 8 else second).clip([group(theirs)])
        assert_equal(gradients(ours), gradients(theirs))


def test_a_saved_state_does_not_move_on() -> None:
    clipping = autoclip(nn.Identity(), window=5)
    clipping.clip([group(parameters())])
    state = copy.deepcopy(kept := clipping.state_dict())
    clipping.clip([group(parameters(1))])
    torch.testing.assert_close(kept, state, equal_nan=True)


def test_the_state_of_another_clipping_is_refused() -> None:
    clipping = autoclip(nn.Identity(), window=5)
    clipping.clip([group(parameters())])
    with pytest.raises(ValueError, match="has 5 places, not 6"):
        autoclip(nn.Identity(), window=6).load_state_dict(clipping.state_dict())
    with pytest.raises(ValueError, match="not belong to a NormClipping"):
        norm(nn.Identity()).load_state_dict(clipping.state_dict())
    norm(nn.Identity()).load_state_dict({})


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 2)]
    model = nn.Sequential(*layers)
    nn.init.zeros_(layers[3].bias)  # type: ignore[arg-type]
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn_like(parameter) * 10.0 ** (number % 4 - 3)
    assert model[3].weight.grad is not None
    model[3].weight.grad[1] = 0.0
    return model


def test_agc_follows_the_paper() -> None:
    """Equation 3 of arXiv 2102.06171, unit by unit."""
    model, factor, eps = network(), 0.02, 1e-3
    expected = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        rows = zip(parameter.detach(), parameter.grad, strict=True) if parameter.ndim > 1 else []
        units = list(rows) or [(parameter.detach(), parameter.grad)]
        clipped = []
        for weight, gradient in units:
            limit = factor * max(float((weight**2).sum() ** 0.5), eps)
            size = float((gradient**2).sum() ** 0.5)
            clipped.append(gradient * (limit / size) if size > limit and name != "4.weight" else gradient.clone())
        expected.append(torch.stack(clipped) if parameter.ndim > 1 else clipped[0])
    before = agc(model, clip_factor=factor, eps=eps).clip([group(list(model.parameters()))])
    assert float(before) == pytest.approx(float(total_norm([p.grad for p in network().parameters()])))  # type: ignore
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-12)


def test_agc_leaves_the_chosen_roles_alone() -> None:
    for exclude, kept in [(("head",), {"4.weight"}), ((), set()), (("bias", "norm"), {"biases"})]:
        model, before = network(), network()
        agc(model, clip_factor=1e-9, exclude=exclude).clip([group(list(model.parameters()))])
        pairs = zip(model.named_parameters(), before.parameters(), strict=True)
        same = {name for (name, one), other in pairs if torch.equal(one.grad, other.grad)}  # type: ignore[arg-type]
        assert same == ({"0.bias", "1.weight", "1.bias", "3.bias", "4.bias"} if kept == {"biases"} else kept)


def test_a_copy_of_agc_goes_with_the_copy_of_its_model() -> None:
    model = network()
    copied, clipping = copy.deepcopy((model, agc(model, clip_factor=1e-9)))
    for one, other in zip(copied.parameters(), model.parameters(), strict=True):
        one.grad = other.grad.clone()  # type: ignore[union-attr]
    clipping.clip([group(list(copied.parameters()))])
    assert torch.equal(copied[4].weight.grad, model[4].weight.grad)  # type: ignore[arg-type]
    assert not torch.equal(copied[3].weight.grad, model[3].weight.grad)  # type: ignore[arg-type]


@every_clipping
def test_large_gradients_become_smaller_and_tell_their_size(name: str) -> None:
    clipping = CLIPPINGS.create(name, nn.Linear(2, 2))
    # Two steps: a clipping by the past has one. A gain of 1e6 is above every sensible threshold.
    for scale in (1.0, 1e6):
        params = parameters(3, scale)
        before = gradients(params)
        assert float(clipping.clip([group(params)])) == pytest.approx(float(total_norm(before)))
        after = gradients(params)
        assert all((one.abs() <= other.abs() * (1 + 1e-6)).all() for one, other in zip(after, before, strict=True))
    assert float(total_norm(after)) < 0.9 * float(total_norm(before))


@every_clipping
def test_no_gradients_at_all(name: str) -> None:
    model = nn.Linear(2, 2)
    clipping = CLIPPINGS.create(name, model)
    for _ in range(2):
        assert float(clipping.clip([group(list(model.parameters())), group([], clip=1.0)])) == 0.0
    assert model.weight.grad is None


@every_clipping
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_type_keeps_its_type(name: str, dtype: torch.dtype) -> None:
    clipping = CLIPPINGS.create(name, nn.Linear(2, 2))
    for step in range(3):
        # The norm of these is above what float16 can hold.
        params = parameters(step, scale=1.5e4, dtype=dtype)
        exact = torch.cat([gradient.double().flatten() for gradient in gradients(params)]).norm()
        assert float(clipping.clip([group(params)])) == pytest.approx(float(exact), rel=1e-5)
        assert all(parameter.grad.dtype == dtype and parameter.grad.isfinite().all() for parameter in params)  # type: ignore


@pytest.mark.parametrize("name", ["norm", "value", "autoclip"])
def test_sparse_gradients_are_clipped_like_dense_ones(name: str) -> None:
    clipped = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(6, 3, sparse=sparse)
        clipping = CLIPPINGS.create(name, table, **({"percentile": 0.0} if name == "autoclip" else {}))
        for factor in (0.5, 5.0):  # the second is clipped
            table.weight.grad = None
            (factor * table(torch.tensor([1, 4, 1])) ** 2).sum().backward()
            clipping.clip([group([table.weight])])
        assert table.weight.grad is not None
        clipped.append(table.weight.grad.to_dense() if sparse else table.weight.grad)
    torch.testing.assert_close(*clipped)


def test_agc_refuses_sparse_gradients() -> None:
    table = nn.Embedding(6, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="agc does not support sparse gradients"):
        agc(table).clip([group([table.weight])])


BAD_OPTIONS = [
    ("norm", {"max_norm": 0.0}, "max_norm must be a finite number in (0, inf), not 0.0"),
    ("value", {"max_value": -1}, "max_value must be a finite number in (0, inf), not -1"),
    ("autoclip", {"percentile": 101}, "percentile must be a finite number in [0, 100], not 101"),
    ("autoclip", {"window": 0}, "window must be a whole number of steps, at least 1, not 0"),
    ("autoclip", {"window": 1.5}, "window must be a whole number of steps, at least 1, not 1.5"),
    ("agc", {"clip_factor": float("nan")}, "clip_factor must be a finite number in (0, inf), not nan"),
    ("agc", {"eps": 0.0}, "eps must be a finite number in (0, inf), not 0.0"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        CLIPPINGS.create(name, nn.Linear(2, 2), **options)
    assert str(error.value) == message


def test_agc_refuses_unknown_roles() -> None:
    with pytest.raises(ValueError, match=r"\Aexclude must name roles out of [^\n]*head[^\n]*, not 'heads'\Z"):
        CLIPPINGS.create("agc", nn.Linear(2, 2), exclude=["heads"])


@every_clipping
def test_the_help_text_describes_every_option(name: str) -> None:
    text = CLIPPINGS[name].__doc__ or ""
    for option in ("module", *CLIPPINGS.options(name)):
        assert f"\n        {option}: " in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@every_clipping
def test_no_wait_for_the_device_and_the_same_numbers(name: str) -> None:
    clippings = [CLIPPINGS.create(name, nn.Linear(2, 2)) for _ in range(2)]
    for step in range(5):
        ours, theirs = parameters(step, scale=3.0), parameters(step, scale=3.0)
        moved = [nn.Parameter(parameter.detach().cuda()) for parameter in ours]
        for one, other in zip(moved, ours, strict=True):
            one.grad = other.grad.cuda()  # type: ignore[union-attr]
        torch.cuda.set_sync_debug_mode("error")
        try:
            clippings[0].clip([group(moved)])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        clippings[1].clip([group(theirs)])
        for one, other in zip(moved, theirs, strict=True):
            torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-5, atol=1e-9)  # type: ignore[union-attr]
