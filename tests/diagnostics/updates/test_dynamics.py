import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.diagnostics.updates.dynamics import DynamicsSample, products, sample_of, scalars
from steepest.diagnostics.updates.recorders import DynamicsRecorder, optimizer_parameters
from steepest.optim.autosgm import AutoSGM
from steepest.optim.classical.sam import SAM
from steepest.optim.core.composite import Composite
from steepest.optim.spectral.budget import MuonSGD
from steepest.optim.spectral.muon import orthogonalize


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4)).double()


def recorder_of(module: nn.Module, *optimizers: Optimizer, **options: Any) -> DynamicsRecorder:
    yes = lambda: True  # noqa: E731
    return DynamicsRecorder(
        optimizers, lambda own: optimizer_parameters(module, own), **{"wanted": yes, "measured": yes, **options}
    )


def follow(module: nn.Module, optimizer: Optimizer, steps: int, gradients: list[Tensor] | None = None) -> Any:
    """Samples of steps on the same gradients, whatever the weights are."""
    recorder = recorder_of(module, optimizer)
    if gradients is None:
        gradients = [torch.randn_like(parameter) for parameter in module.parameters()]
    samples = []
    for _ in range(steps):
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        samples.append(recorder.sample())
        recorder.turn(keep=True)
    return gradients, samples


def test_gradient_descent() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    weights = [float(parameter.detach().norm()) for parameter in module.parameters()]
    gradients, (first, second) = follow(module, optimizer, 2)
    assert first.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert first.roles == ("weight", "bias", "weight", "bias")
    assert first.values["effective_lr"] == pytest.approx([0.3] * 4)
    assert first.values["cosine_to_gradient"] == pytest.approx([1.0] * 4)
    sizes = [0.3 * float(gradient.norm()) / weight for gradient, weight in zip(gradients, weights, strict=True)]
    assert first.values["relative_size"] == pytest.approx(sizes)
    assert all(math.isnan(value) for value in first.values["cosine_to_previous"])
    assert second.values["cosine_to_previous"] == pytest.approx([1.0] * 4)
    assert first.totals["effective_lr"] == pytest.approx(0.3)
    assert second.totals["cosine_to_previous"] == pytest.approx(1.0)


def test_momentum_on_a_constant_gradient() -> None:
    """The velocity after t steps is (1 - b^t) / (1 - b) times the gradient."""
    module = network()
    _, samples = follow(module, torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.8), 6)
    for step, sample in enumerate(samples, 1):
        expected = 0.01 * (1 - 0.8**step) / (1 - 0.8)
        assert sample.values["effective_lr"] == pytest.approx([expected] * 4)
        assert sample.values["cosine_to_gradient"] == pytest.approx([1.0] * 4)
        assert step == 1 or sample.values["cosine_to_previous"] == pytest.approx([1.0] * 4)


def test_first_step_of_adam_is_a_sign_step() -> None:
    module = network()
    gradients, (sample,) = follow(module, torch.optim.Adam(module.parameters(), lr=1e-3, eps=0.0), 1)
    ones = [float(gradient.abs().sum()) for gradient in gradients]
    twos = [float(gradient.norm()) for gradient in gradients]
    roots = [math.sqrt(gradient.numel()) for gradient in gradients]
    assert sample.values["effective_lr"] == pytest.approx([1e-3 * a / b**2 for a, b in zip(ones, twos, strict=True)])
    cosines = [a / b / root for a, b, root in zip(ones, twos, roots, strict=True)]
    assert sample.values["cosine_to_gradient"] == pytest.approx(cosines)


def test_decay_counts_and_gradient_ascent_is_negative() -> None:
    module = network()
    gradients, (sample,) = follow(module, torch.optim.SGD(module.parameters(), lr=0.1, maximize=True), 1)
    assert sample.values["effective_lr"] == pytest.approx([-0.1] * 4)
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    decayed = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=2.0)
    _, (sample,) = follow(module, decayed, 1, gradients)
    for found, weight, gradient in zip(sample.values["effective_lr"], weights, gradients, strict=True):
        assert found == pytest.approx(0.1 + 0.2 * float((weight * gradient).sum() / gradient.square().sum()))


@given(seed=st.integers(0, 2**32), scale=st.floats(1e-8, 1e8))
def test_measures_follow_scales(seed: int, scale: float) -> None:
    """Scaling the gradient by c divides the effective learning rate by c and leaves angles alone."""
    generator = torch.Generator().manual_seed(seed)
    change, gradient, before = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))

    def measured(gradient: Tensor) -> DynamicsSample:
        rows = products([change], [gradient], torch.tensor([2.0], dtype=torch.float64), [before])
        return sample_of(["w"], ["weight"], rows.T.tolist(), {})

    one, other = measured(gradient), measured(scale * gradient)
    (rate,), (cosine,) = one.values["effective_lr"], one.values["cosine_to_gradient"]
    assert other.values["effective_lr"][0] == pytest.approx(rate / scale)
    assert other.values["cosine_to_gradient"][0] == pytest.approx(cosine)
    assert cosine == pytest.approx(-float(nn.functional.cosine_similarity(change.flatten(), gradient.flatten(), dim=0)))
    expected = float(nn.functional.cosine_similarity(change.flatten(), before.flatten(), dim=0))
    assert one.values["cosine_to_previous"][0] == pytest.approx(expected)
    # The part of the update along the gradient is lr_eff times the gradient.
    rest = -change - rate * gradient
    assert float((rest * gradient).sum()) == pytest.approx(0.0, abs=1e-9)


def test_sixteen_bits_and_sparse_gradients() -> None:
    module = nn.Embedding(50, 300, sparse=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    recorder = recorder_of(module, optimizer)
    module(torch.tensor([3, 7, 7])).square().sum().backward()
    optimizer.step()
    sample = recorder.sample()
    assert sample is not None
    assert sample.values["effective_lr"] == pytest.approx((0.5,), rel=1e-5)
    ones = torch.full((100_000,), 1e-2, dtype=torch.bfloat16)
    rows = products([-ones], [ones], torch.ones(1), [ones])
    sample = sample_of(["w"], ["weight"], rows.T.tolist(), {})
    assert sample.values["cosine_to_gradient"] == pytest.approx((1.0,), rel=1e-3)
    assert sample.values["cosine_to_previous"] == pytest.approx((-1.0,), rel=1e-3)


def test_zero_gradients_and_parameters_without_one() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    recorder = recorder_of(module, optimizer)
    module[0].weight.grad = torch.zeros_like(module[0].weight)  # type: ignore[union-attr, arg-type]
    module[1].weight.grad = torch.ones_like(module[1].weight)  # type: ignore[union-attr, arg-type]
    optimizer.step()
    sample = recorder.sample()
    assert sample is not None
    assert sample.names == ("0.weight", "1.weight")
    assert math.isnan(sample.values["effective_lr"][0])
    assert sample.values["effective_lr"][1] == pytest.approx(0.1)
    optimizer.zero_grad()
    recorder.turn(keep=False)
    optimizer.step()
    assert recorder.sample() is None


def test_the_step_before_must_be_the_one_before() -> None:
    """A step that is not recorded breaks the chain, and so does a second one after a recorded one."""
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    wanted = [True]
    recorder = recorder_of(module, optimizer, wanted=lambda: wanted[0])

    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    def cosine() -> float:
        sample = recorder.sample()
        assert sample is not None
        recorder.turn(keep=True)
        return sample.totals["cosine_to_previous"]

    step()
    assert math.isnan(cosine())
    step()
    assert not math.isnan(cosine())
    wanted[0] = False
    step()
    wanted[0] = True
    step()
    assert math.isnan(cosine())
    step()
    step()  # only the first of a batch is recorded
    assert not math.isnan(cosine())
    step()
    assert math.isnan(cosine())


def test_the_noted_gradient_counts_not_what_a_closure_or_clipping_leaves() -> None:
    module = nn.Linear(3, 1, bias=False).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    recorder = recorder_of(module, optimizer)
    module.weight.grad = torch.tensor([[30.0, 40.0, 0.0]]).double()
    recorder.note_gradients(optimizer, scale=10.0)
    module.weight.grad *= 0.01
    recorder.note_gradients(optimizer)  # of a further evaluation: does not count
    optimizer.step()
    sample = recorder.sample()
    assert sample is not None
    assert sample.values["effective_lr"] == pytest.approx((0.1 * 0.1,))  # clipped to a tenth of what it was
    recorder.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def told(optimizer: Any, module: nn.Module, source: Any = None) -> tuple[DynamicsSample, dict[str, Any]]:
    source = source or optimizer
    recorder = recorder_of(module, optimizer)
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(3)).double()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(inputs).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        recorder.turn(keep=True)
        assert not source.record_statistics
        optimizer.step(closure)
    sample = recorder.sample()
    assert sample is not None
    assert not source.record_statistics  # as it was
    return sample, source.last_stats


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("solver", ["dual_ascent", "frank_wolfe", "spectral_clip"])
def test_statistics_of_inner_solvers(solver: str, wrapped: bool) -> None:
    module = network()
    named = list(module.named_parameters())
    inner = MuonSGD(named, lr=5.0, spectral_budget=0.1, inner_solver=solver)
    sample, stats = told(SAM(inner, module) if wrapped else inner, module, inner)
    assert set(stats) == {"0.weight", "1.weight"}
    for key in ("iterations", "relative_gap", "residual", "budget_used", "budget_active"):
        for name, value in zip(sample.names, sample.values[key], strict=True):
            assert value == pytest.approx(float(stats[name][key])) if name in stats else math.isnan(value)
    assert scalars(sample)["update/budget_active_layers"] == 1.0
    gaps = [float(of["relative_gap"]) for of in stats.values()]
    assert scalars(sample)["update/solver_gap_max"] == pytest.approx(max(gaps))
    iterations = [float(of["iterations"]) for of in stats.values()]
    assert scalars(sample)["update/solver_iterations_median"] == pytest.approx(sum(iterations) / 2)


def test_statistics_of_unnamed_parameters() -> None:
    module = network()
    sample, stats = told(MuonSGD(module.parameters(), lr=5.0, spectral_budget=0.1), module)
    found = dict(zip(sample.names, sample.values["budget_used"], strict=True))
    assert found["1.weight"] == pytest.approx(float(stats["0.1"]["budget_used"]))


@pytest.mark.parametrize(("start", "expected"), [(-1.0, 0.0), (0.0, 1.0), (1.0, 2.0)])
def test_residual_of_frank_wolfe(start: float, expected: float) -> None:
    """Muon with decay is Frank-Wolfe on a ball of radius 1 / decay: at its optimum -r polar(G) nothing is left."""
    gradient = torch.randn(6, 9, generator=torch.Generator().manual_seed(1)).double()
    module = nn.Linear(9, 6, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(start * 2.0 * orthogonalize(gradient, "exact", dtype=torch.float64))
    group = {"params": list(module.named_parameters()), "algorithm": "muon", "lr": 0.1, "weight_decay": 0.5}
    optimizer = Composite([{**group, "momentum": 0.0, "method": "exact"}])
    _, (sample,) = follow(module, optimizer, 1, [gradient])
    assert sample.values["frank_wolfe_residual"] == pytest.approx((expected,), abs=1e-6)
    assert scalars(sample)["update/frank_wolfe_residual_max"] == pytest.approx(expected, abs=1e-6)


def test_filter_of_autosgm() -> None:
    module = network()
    sample, stats = told(AutoSGM(module.named_parameters(), track_dynamics=True), module)
    for name, alpha, r in zip(sample.names, sample.values["alpha_mean"], sample.values["r_mean"], strict=True):
        assert alpha == pytest.approx(float(stats[name]["alpha_mean"]))
        assert r == pytest.approx(float(stats[name]["r_mean"]))
    rolled = scalars(sample)
    weights = [float(stats[name]["alpha_mean"]) for name in ("0.weight", "1.weight")]
    assert (rolled["update/alpha_min"], rolled["update/alpha_max"]) == pytest.approx((min(weights), max(weights)))
    spreads = [float(stats[name]["e_std"]) for name in ("0.weight", "1.weight")]
    assert rolled["update/e_max"] == pytest.approx(max(spreads))


def test_a_module_of_vectors_is_rolled_up_too() -> None:
    module = nn.LayerNorm(4)
    _, (sample,) = follow(module, torch.optim.SGD(module.parameters(), lr=0.2), 1)
    assert scalars(sample)["update/effective_lr_min"] == pytest.approx(0.2)
