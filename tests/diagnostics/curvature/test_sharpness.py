import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.common.history import History
from steepest.diagnostics.curvature.figures import sharpness_over_time, spectrum
from steepest.diagnostics.curvature.lanczos import Density
from steepest.diagnostics.curvature.limits import (
    StepRecorder,
    UnknownLimitError,
    filter_limit,
    linear_steps,
    momentum_limit,
    weights_at,
)
from steepest.diagnostics.curvature.operator import Curvature
from steepest.diagnostics.curvature.sharpness import (
    FIELDS,
    Sharpness,
    eigenvalues_of,
    history_table,
    measure_sharpness,
    numbers_of,
)
from steepest.optim.autosgm import AutoSGM
from steepest.optim.classical import references
from steepest.optim.core.composite import Composite
from steepest.optim.spectral.budget import MuonAdamW

CURVATURE = 3.0


def composite(algorithm: str):
    return lambda params, **options: Composite([{"params": params, "algorithm": algorithm, **options}])


# Optimizers whose step is linear, without a learning rate: built at a rate and told their ratio to the edge.
LINEAR: dict[str, tuple[Any, dict[str, Any]]] = {
    "gradient descent": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "average": (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.8}),
    "coupled decay": (torch.optim.SGD, {"momentum": 0.5, "weight_decay": 0.4}),
    "ignored dampening": (torch.optim.SGD, {"dampening": 0.5}),
    "reference sgd": (references.SGD, {"weight_decay": 0.4}),
    "reference momentum": (references.HeavyBall, {"momentum": 0.9, "dampening": 0.3}),
    "reference nesterov": (references.Nesterov, {"momentum": 0.7}),
    "composite sgd": (composite("sgd"), {"momentum": 0.9, "nesterov": True}),
    "unlimited muon_sgd": (composite("muon_sgd"), {"momentum": 0.9, "spectral_budget": None}),
    "filter": (composite("autosgm"), {"adaptive": False, "debias": False, "gamma": 0.5528}),
    "smoother filter": (composite("autosgm"), {"adaptive": False, "debias": False, "beta": 0.6, "gamma": -0.5}),
    "very smooth filter": (composite("autosgm"), {"adaptive": False, "debias": False, "beta": 0.5, "gamma": -1.5}),
    "filter with gain": (composite("autosgm"), {"adaptive": False, "debias": False, "gain": 0.3}),
    "debiased filter": (composite("autosgm"), {"adaptive": False, "debias": True}),
    "decoupled decay": (
        composite("autosgm"),
        {"adaptive": False, "numerator": "constant", "debias": True, "decoupled_decay": True, "weight_decay": 0.4},
    ),
}


def matrix(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.full((1, 1), value, dtype=torch.float64))


def growth(make: Any, options: dict[str, Any], lr: float, steps: int = 400) -> float:
    """How many times |w| is larger after the second half of a run on a quadratic."""
    weight = matrix()
    optimizer = make([weight], lr=lr, **options)
    sizes = []
    for _ in range(steps):
        weight.grad = CURVATURE * weight.detach()
        optimizer.step()
        sizes.append(abs(weight.item()))
    return max(sizes[-20:]) / max(sizes[steps // 2 : steps // 2 + 20])


def ratio(optimizer: Any, weight: nn.Parameter) -> float:
    step = linear_steps([optimizer], [weight])
    scale, decay = step.scale([weight]), step.decay([weight])
    return float(scale**2 * (CURVATURE + decay))


@pytest.mark.parametrize("name", LINEAR)
def test_the_edge_is_where_the_optimizer_really_starts_to_diverge(name) -> None:
    make, options = LINEAR[name]
    low, high = 1e-6, 100.0
    for _ in range(40):  # the ratio grows with the rate
        middle = math.sqrt(low * high)
        weight = matrix()
        optimizer = make([weight], lr=middle, **options)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if "step" in optimizer.state[parameter]:
                    optimizer.state[parameter]["step"] += 1000
        low, high = (middle, high) if ratio(optimizer, weight) < 1 else (low, middle)
    assert growth(make, options, 0.99 * low) < 1
    assert growth(make, options, 1.01 * low) > 1


def test_the_table_of_limits() -> None:
    assert momentum_limit(0.0) == 2.0
    assert momentum_limit(0.9) == pytest.approx(3.8)
    assert momentum_limit(0.9, nesterov=True) == pytest.approx(3.8 / 2.8)
    assert momentum_limit(0.9, dampening=0.9) == pytest.approx(38.0)
    assert momentum_limit(0.9, dampening=0.9, decoupled=0.02) == pytest.approx(1.9 * 1.98 / 0.1)
    assert momentum_limit(0.9, dampening=1.0) == math.inf
    assert filter_limit(0.9, 0.0) == pytest.approx(38.0)
    assert filter_limit(0.9, 0.5528) == pytest.approx(3.8 * 0.4472 / (0.1 * 1.5528))
    assert filter_limit(0.9, -0.8) == pytest.approx(1.8 / 0.8)


def frozen(optimizer: Any, weight: nn.Parameter, squares: float) -> Any:
    """The optimizer with a second moment that no longer moves: its beta is 1 in float64, its correction done."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (group["betas"][0], 1 - 1e-16)
        for name in ("alpha", "denominator_beta"):
            if name in group:
                group[name] = 1 - 1e-16
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    for name in ("exp_avg_sq", "squares", "square_avg"):
        if name in state:
            state[name].fill_(squares)
    if "step" in state:
        state["step"] = torch.tensor(1e17, dtype=torch.float64) if state["step"].is_floating_point() else state["step"]
    return optimizer


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.Adam, {"weight_decay": 0.3}),
        (torch.optim.AdamW, {"weight_decay": 0.5, "eps": 0.1}),
        (torch.optim.Adam, {"betas": (0.5, 0.999), "weight_decay": 0.5, "decoupled_weight_decay": True}),
        (torch.optim.RMSprop, {"eps": 0.2}),
        (torch.optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
        (references.Adam, {}),
        (references.AdamW, {"weight_decay": 0.5}),
        (references.RMSprop, {}),
    ],
)
def test_the_edge_of_a_frozen_preconditioner(make, options) -> None:
    def built(lr: float) -> tuple[Any, nn.Parameter]:
        # Small enough that the second moment, whose beta is 1 to the last digit, does not notice any growth.
        weight = matrix(1e-8)
        return frozen(make([weight], lr=lr, **options), weight, 4.0), weight

    def growth_at(lr: float) -> float:
        optimizer, weight = built(lr)
        sizes = []
        for _ in range(160):
            weight.grad = CURVATURE * weight.detach()
            optimizer.step()
            sizes.append(abs(weight.item()))
        return max(sizes[-10:]) / max(sizes[70:80])

    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if ratio(*built(middle)) < 1 else (low, middle)
    assert growth_at(0.995 * low) < 1
    assert growth_at(1.005 * low) > 1


def trained(make: Any, steps: int = 3) -> tuple[Any, nn.Parameter, list[Tensor]]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimizer, gradients = make(weight), []
    for _ in range(steps):
        weight.grad = torch.randn_like(weight)
        gradients.append(weight.grad.clone())
        optimizer.step()
    return optimizer, weight, gradients


def second_moment(gradients: list[Tensor], beta: float) -> Tensor:
    total, share = torch.zeros_like(gradients[0]), 0.0
    for gradient in gradients:
        total, share = beta * total + (1 - beta) * gradient**2, beta * share + 1 - beta
    return total / share


@pytest.mark.parametrize(
    "make",
    [
        lambda w: torch.optim.Adam([w], lr=0.01),
        lambda w: references.Adam([w], lr=0.01),
        lambda w: composite("adamw")([w], lr=0.01),
        lambda w: MuonAdamW([w], lr=0.01, spectral_budget=None, weight_decay=0.0),
    ],
)
def test_adams_preconditioner_is_that_of_its_gradients(make) -> None:
    optimizer, weight, gradients = trained(make)
    step = linear_steps([optimizer], [weight])
    expected = 0.01 / 38 / (second_moment(gradients, 0.999).sqrt() + 1e-8) / (1 - 0.9**3)
    assert torch.allclose(step.scale([weight]), expected.sqrt().flatten(), rtol=1e-6)
    assert step.threshold == pytest.approx(3800)
    assert not step.plain


@pytest.mark.parametrize("numerator", ["constant", "markov", "maximum_bound", "elementwise_chebyshev"])
def test_autosgms_rate_is_the_one_it_tracks(numerator) -> None:
    def make(track: bool):
        numbers = {"constant": 0, "maximum_bound": 2, "markov": 3, "elementwise_chebyshev": 4}
        return lambda w: AutoSGM([w], lr_cfg=(True, 0.01, numbers[numerator]), track_dynamics=track)

    (plain, first, _), (tracked, second, _) = trained(make(False)), trained(make(True))
    assert torch.equal(first, second)
    found = linear_steps([plain], [first]).scale([first])
    assert torch.allclose(found, linear_steps([tracked], [second]).scale([second]), rtol=1e-9)
    if numerator == "constant":
        moment = second_moment(trained(make(False))[2], 0.999)
        root = (moment + 1e-10).sqrt() + 1e-10
        expected = 0.01 / (1 - 0.9**3) / root / filter_limit(0.9, 0.5528)
        assert torch.allclose(found, expected.sqrt().flatten(), rtol=1e-9)


def test_what_has_no_limit_says_why() -> None:
    weight = nn.Parameter(torch.ones(2, 2))

    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    class Renamed(torch.optim.SGD):
        pass

    cases: list[tuple[Any, str]] = [
        (composite("muon")([weight], lr=0.1), "step of muon is not linear"),
        (MuonAdamW([weight], lr=0.1), "step of muon_adamw is not linear"),
        (composite("lion")([weight], lr=0.1), "step of lion is not linear"),
        (torch.optim.LBFGS([weight]), "no stability limit is known for LBFGS"),
        (torch.optim.SGD([weight], lr=0.1, maximize=True), "SGD maximizes"),
        (Own([weight], lr=0.1), "Own has a step of its own"),
        (AutoSGM([weight], lr_cfg=(True, 0.1, 1)), "only with track_dynamics=True"),
        (AutoSGM([weight], rc_cfg=(1, 0, 0, 2, 1, 1, 10, 1, 0)), "only with track_dynamics=True"),
        (AutoSGM([weight], wd_cfg=(0.1, 1)), "decoupled decay at a varying rate"),
    ]
    for optimizer, reason in cases:
        with pytest.raises(UnknownLimitError, match=reason):
            linear_steps([optimizer], [weight])
    assert linear_steps([Renamed([weight], lr=0.1)], [weight]).threshold == pytest.approx(20)


# --- the measurement ------------------------------------------------------------------------------------------------


def regression() -> tuple[nn.Sequential, Any]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs, targets = torch.randn(20, 5).double(), torch.randn(20, 2).double()
    return network, lambda: functional.mse_loss(network(inputs), targets)


def hessian(network: nn.Module, loss: Any) -> Tensor:
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("kind", ["sgd", "groups", "decay", "adam"])
def test_everything_against_the_dense_hessian(kind) -> None:
    network, loss = regression()
    parameters = list(network.parameters())
    weights, biases = parameters[::2], parameters[1::2]
    if kind == "adam":
        optimizer: Any = torch.optim.Adam([{"params": weights}, {"params": biases, "lr": 0.003}], lr=0.01)
    elif kind == "groups":
        groups = [{"params": weights, "momentum": 0.9, "lr": 0.1}, {"params": biases, "momentum": 0.0, "lr": 0.5}]
        optimizer = torch.optim.SGD(groups)
    else:
        decay = 0.3 if kind == "decay" else 0.0
        groups = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)
    recorder = StepRecorder([optimizer], wanted=lambda: True)
    for _ in range(3):
        recorder.clear()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    before = recorder.weights_before(parameters)
    update = flat(parameters) - flat(before)
    with weights_at(parameters, before):
        step = linear_steps([optimizer], parameters, recorder.groups)
        curvature = Curvature([loss], parameters)
        found = measure_sharpness(
            curvature, count=3, tolerance=1e-10, max_products=40, step=step, update=update, radius=0.05,
            trace_probes=500, density_probes=20,
        )  # fmt: skip
        matrix, gradient, value = hessian(network, loss), curvature.gradient, float(loss().detach())
    recorder.remove()
    eigenvalues = torch.linalg.eigvalsh(matrix).flip(0)
    assert found.eigenvalues == pytest.approx(eigenvalues[:3].tolist(), rel=1e-7)
    assert max(found.residuals) < 1e-3
    rates, decays = [], []
    for name, parameter in network.named_parameters():
        state, bias = optimizer.state[parameter], name.endswith("bias")
        if kind == "adam":
            root = (state["exp_avg_sq"] / (1 - 0.999**3)).sqrt() + 1e-8
            rates.append((0.003 if bias else 0.01) / (1 - 0.9**3) / 38 / root)
        else:
            rate = {"groups": 0.5 / 2 if bias else 0.1 / 3.8}.get(kind, 0.1 / 3.0)
            rates.append(torch.full_like(parameter, rate))
        decays.append(torch.full_like(parameter, 0.3 if kind == "decay" and not bias else 0.0))
    scale = flat(rates).sqrt()
    expected = torch.linalg.eigvalsh(scale[:, None] * (matrix + torch.diag(flat(decays))) * scale).max()
    threshold = {"adam": 3800.0, "groups": 38.0}.get(kind, 30.0)
    assert found.ratio == pytest.approx(float(expected), rel=1e-6)
    assert found.threshold == pytest.approx(threshold)
    assert found.preconditioned == pytest.approx(float(expected) * threshold, rel=1e-6)
    if kind == "sgd":
        assert found.preconditioned == pytest.approx(found.eigenvalues[0])
    assert found.directional_ratio == pytest.approx(float(-(update @ matrix @ update) / (2 * gradient @ update)))
    with weights_at(parameters, before), torch.no_grad():
        shift = curvature.split(0.05 * gradient / gradient.norm())
        torch._foreach_add_(parameters, shift)  # type: ignore[arg-type]
        assert found.rise == pytest.approx(float(loss()) - value, rel=1e-9)
    assert found.trace is not None
    assert found.trace.value == pytest.approx(float(matrix.trace()), abs=4 * found.trace.error)
    assert found.density is not None
    mean = sum(node * weight for node, weight in zip(found.density.nodes, found.density.weights, strict=True))
    assert mean == pytest.approx(float(eigenvalues.mean()), abs=0.1 * float(eigenvalues.max()))
    assert found.gradient_norm == pytest.approx(float(gradient.norm()))


def test_gradient_descent_on_a_quadratic() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
    spectrum = torch.tensor([8.0, 3.0, 1.0, -2.0], dtype=torch.float64)
    optimizer = torch.optim.SGD([weight], lr=0.2)
    curvature = Curvature([lambda: 0.5 * (spectrum * weight.square()).sum()], [weight])
    update = -0.2 * curvature.gradient
    found = measure_sharpness(curvature, step=linear_steps([optimizer], [weight]), update=update)
    assert found.eigenvalues == pytest.approx((8.0,))
    assert found.ratio == pytest.approx(0.8)
    assert found.threshold == pytest.approx(10.0)
    # u = -lr g: lr/2 times the curvature along the gradient.
    gradient = curvature.gradient
    expected = 0.1 * float((spectrum * gradient**2).sum() / (gradient**2).sum())
    assert found.directional_ratio == pytest.approx(expected)


def test_a_rate_of_zero_is_stable() -> None:
    network, loss = regression()
    parameters = list(network.parameters())
    for optimizer in (torch.optim.SGD(parameters, lr=0.0), torch.optim.Adam(parameters, lr=0.0)):
        loss().backward()
        optimizer.step()
        found = measure_sharpness(Curvature([loss], parameters), step=linear_steps([optimizer], parameters))
        assert (found.ratio, found.threshold, found.preconditioned) == (0.0, math.inf, None)


def test_the_same_seed_gives_the_same_numbers() -> None:
    network, loss = regression()
    results = [
        measure_sharpness(Curvature([loss], list(network.parameters())), trace_probes=4, density_probes=1, seed=seed)
        for seed in (3, 3, 4)
    ]
    assert results[0] == results[1]
    assert results[0].trace != results[2].trace
    with pytest.raises(ValueError, match="above 0, got 0"):
        measure_sharpness(Curvature([loss], list(network.parameters())), radius=0.0)


def test_the_history_keeps_the_newest_and_comes_back() -> None:
    history = History(FIELDS, max_rows=4)
    for step in range(1, 8):
        eigenvalues = (float(step), 0.5)[: 1 + step % 2]
        history.add(step, numbers_of(Sharpness(0.0, 1.0, eigenvalues, (0.0,), 5, True, ratio=step / 10)))
    assert history.steps == [1, 5, 7]
    assert history["ratio"].tolist() == [0.1, 0.5, 0.7]
    assert all(map(math.isnan, history["rise"].tolist()))
    assert eigenvalues_of(history)[:, 0].tolist() == [1, 5, 7]
    again = History(FIELDS)
    again.load_state_dict(history.state_dict())
    assert str(history_table(again)) == str(history_table(history))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        History(FIELDS, max_rows=1)


def lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_the_figure_has_a_panel_more_where_the_optimizer_preconditions() -> None:
    plain, scaled = History(FIELDS), History(FIELDS)
    for step, value in ((10, 4.0), (20, 6.0)):
        common = {"products": 5, "converged": True, "residuals": (0.0,), "directional_ratio": None}
        one = Sharpness(0.1, 1.0, (value, 1.0), threshold=5.0, preconditioned=value, ratio=value / 5, **common)  # type: ignore[arg-type]
        other = Sharpness(0.1, 1.0, (value,), threshold=math.inf, preconditioned=900.0, ratio=0.1, **common)  # type: ignore[arg-type]
        plain.add(step, numbers_of(one))
        scaled.add(step, numbers_of(other))
    top, bottom = sharpness_over_time(plain).axes
    assert lines(top)["largest eigenvalue of the Hessian"] == [4.0, 6.0]
    assert lines(top)["stability threshold"] == [5.0, 5.0]
    assert lines(top)["the next ones"] == [1.0, 1.0]
    assert lines(bottom)["sharpness / threshold"] == [0.8, 1.2]
    assert bottom.get_xlabel() == "optimizer step"
    # An infinite threshold, of a learning rate of zero, is no line.
    assert "stability threshold" not in lines(sharpness_over_time(scaled).axes[0])
    last = Sharpness(0.1, 1.0, (2.0,), (0.0,), 5, True, threshold=800.0, preconditioned=900.0, ratio=1.1)
    scaled.add(30, numbers_of(last))
    panels = sharpness_over_time(scaled, "Gauss-Newton matrix").axes
    assert len(panels) == 3
    assert "largest eigenvalue of the Gauss-Newton matrix" in lines(panels[0])


def test_the_spectrum_integrates_to_one() -> None:
    figure = spectrum(Density((-1.0, 0.0, 5.0), (0.25, 0.5, 0.25)), 7, (5.0,))
    curve = figure.axes[0].get_lines()[0]
    grid, values = torch.tensor(curve.get_xdata()), torch.tensor(curve.get_ydata())
    assert float(torch.trapezoid(values, grid)) == pytest.approx(1.0, rel=1e-3)
    assert figure.axes[0].get_title(loc="left") == "Spectrum of the Hessian at step 7"


def test_a_step_that_cannot_be_recorded_is_taken_all_the_same() -> None:
    @contextmanager
    def exhausted() -> Iterator[None]:
        raise MemoryError("no room for a copy of the weights")
        yield

    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    recorder = StepRecorder([optimizer], wanted=lambda: True, timed=exhausted)
    weight.sum().backward()
    optimizer.step()
    assert weight.tolist() == [0.5, 0.5]
    with pytest.raises(MemoryError, match="no room"):
        recorder.check()
    recorder.check()
    assert recorder.groups == {}


def test_the_spectrum_is_a_sum_of_bells_of_the_weights() -> None:
    axes = spectrum(Density((-1.0, 0.0, 5.0), (0.25, 0.5, 0.25)), 7, (5.0, 4.0)).axes[0]
    points = dict(zip(*(numpy.round(each, 12) for each in axes.get_lines()[0].get_data()), strict=True))
    width = 0.008 * 6.0
    near = min(points, key=lambda x: abs(x))
    peak = 0.5 / (width * math.sqrt(2 * math.pi))
    assert points[near] == pytest.approx(peak * math.exp(-0.5 * (near / width) ** 2), rel=1e-6)
    assert (min(points), max(points)) == pytest.approx((-1.3, 5.3))
    assert [line.get_xdata()[0] for line in axes.get_lines()[1:]] == [5.0, 4.0, 0.0]
    assert axes.get_ylim()[1] == pytest.approx(4 * max(points.values()))


def test_ratios_far_from_the_edge_do_not_press_the_others_together() -> None:
    history = History(FIELDS)
    for step, ratio in ((10, 0.8), (20, 40.0)):
        sample = Sharpness(0.1, 1.0, (4.0,), (0.0,), 5, True, ratio=ratio, directional_ratio=-2.0)
        history.add(step, numbers_of(sample))
    bottom = sharpness_over_time(history).axes[-1]
    assert lines(bottom)["sharpness / threshold"] == [0.8, 40.0]
    assert bottom.get_ylim() == pytest.approx((-0.52, 3.0))
