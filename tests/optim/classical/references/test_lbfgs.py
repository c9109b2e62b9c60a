"""The readable L-BFGS against PyTorch's, dense formulas and the conditions of its line searches."""

import io
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steepest.optim import OPTIMIZERS
from steepest.optim.classical.references import LBFGS
from steepest.optim.classical.references.lbfgs import two_loop
from steepest.optim.classical.references.line_search import Evaluate, Point, _between, backtracking, strong_wolfe
from tests.optim.classical.references.problems import Landscape, closure_of, network, rosenbrock, train, weights

SEARCHES = ["strong_wolfe", "backtracking"]


def quadratic(condition: float) -> Callable[[Tensor], Tensor]:
    curvature = torch.logspace(0, math.log10(condition), 8, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    return lambda point: ((rotation @ point - 1).square() * curvature).sum() / 2


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    ("function", "start"),
    [
        (quadratic(1.0), [3.0] * 8),
        (quadratic(1e4), [3.0] * 8),
        (rosenbrock, [-1.2, 1.0]),
        (rosenbrock, [-1.2, 1.0, -1.2, 1.0, 0.5, 2.0]),
    ],
    ids=["sphere", "ill-conditioned", "rosenbrock", "rosenbrock in six dimensions"],
)
def test_finds_the_minimum_that_pytorch_finds(function, start, search) -> None:
    ours, theirs = Landscape(function, start), Landscape(function, start)
    found = ours.minimize(LBFGS(ours.parameters(), lr=1.0, line_search=search), 120)
    exact = torch.optim.LBFGS(
        theirs.parameters(), tolerance_grad=0.0, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )
    expected = theirs.minimize(exact, 10)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-8)
    assert function(found) < 1e-15


def test_its_work_is_of_the_order_of_pytorchs() -> None:
    def evaluations(optimizer_class, **options) -> int:
        landscape = Landscape(rosenbrock, [-1.2, 1.0])
        optimizer = optimizer_class(landscape.parameters(), **options)
        for _ in range(100):
            if landscape.minimize(optimizer, 1).sub(1).abs().max() < 1e-6:
                break
        return landscape.evaluations

    theirs = evaluations(
        torch.optim.LBFGS, max_iter=1, max_eval=25, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )
    assert evaluations(LBFGS, lr=1.0) < 1.5 * theirs < 150


def dense_direction(gradient: Tensor, steps: Tensor, changes: Tensor) -> Tensor:
    """The same matrix written out: the inverse BFGS update of every pair on a multiple of the identity."""
    eye = torch.eye(len(gradient), dtype=gradient.dtype)
    s, y = steps[-1], changes[-1]
    inverse = (s @ y) / (y @ y) * eye
    for s, y in zip(steps, changes, strict=True):
        r = 1 / (s @ y)
        inverse = (eye - r * torch.outer(s, y)) @ inverse @ (eye - r * torch.outer(y, s)) + r * torch.outer(s, s)
    return -inverse @ gradient


@settings(deadline=None, max_examples=40)
@given(dimensions=st.integers(1, 7), pairs=st.integers(1, 5), seed=st.integers(0, 1000))
def test_two_loops_equal_the_dense_matrix(dimensions: int, pairs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(dimensions, dtype=torch.float64)
    steps = torch.randn(pairs, dimensions, generator=generator, dtype=torch.float64)
    changes = steps @ hessian
    gradient = torch.randn(dimensions, generator=generator, dtype=torch.float64)
    found = two_loop(gradient, steps, changes)
    torch.testing.assert_close(found, dense_direction(gradient, steps, changes), rtol=1e-8, atol=1e-8)
    empty = torch.zeros(3, dimensions, dtype=torch.float64)
    torch.testing.assert_close(two_loop(gradient, torch.cat([empty, steps]), torch.cat([empty, changes])), found)
    assert gradient @ found < 0
    # The newest pair is met exactly.
    torch.testing.assert_close(two_loop(-changes[-1], steps, changes), steps[-1], rtol=1e-6, atol=1e-6)


def test_without_pairs_the_direction_is_the_steepest_descent() -> None:
    gradient = torch.tensor([1.0, -2.0])
    assert torch.equal(two_loop(gradient, torch.zeros(2, 2), torch.zeros(2, 2)), -gradient)


def line(function: Callable[[Tensor], Tensor]) -> Evaluate:
    def evaluate(step: float) -> Point:
        place = torch.tensor(step, dtype=torch.float64, requires_grad=True)
        loss = function(place)
        (slope,) = torch.autograd.grad(loss, place)
        return Point(step, loss.item(), slope.item(), slope)

    return evaluate


LINES: dict[str, Callable[[Tensor], Tensor]] = {
    "quadratic": lambda t: (t - 3) ** 2,
    "far away": lambda t: (t - 5000) ** 2,
    "steep": lambda t: 1e6 * (t - 1e-3) ** 2,
    "quartic": lambda t: (t - 2) ** 4,
    "waves": lambda t: -torch.sin(5 * t) - 0.5 * t + 0.01 * t**2,
    "logarithm": lambda t: -torch.log(1.5 - t) - 3 * t,  # not a number beyond 1.5
    "flat then wall": lambda t: torch.exp(10 * (t - 2)) - 0.1 * t,
}


@pytest.mark.parametrize("name", LINES)
@settings(deadline=None, max_examples=25)
@given(first=st.floats(1e-3, 100.0))
def test_line_searches_keep_their_promise(name: str, first: float) -> None:
    evaluate = line(LINES[name])
    start = evaluate(0.0)
    for search in (backtracking, strong_wolfe):
        point = search(evaluate, start, first)
        assert point.step > 0
        assert point.loss <= start.loss + 1e-4 * point.step * start.slope
    assert abs(point.slope) <= 0.9 * abs(start.slope)
    assert point == evaluate(point.step)


def test_line_searches_stay_where_nothing_is_lower() -> None:
    evaluate = line(lambda t: t.abs() + 1e-9)
    start = Point(0.0, 1e-9, -1.0, torch.zeros(()))  # a slope that is not true
    assert backtracking(evaluate, start, 1.0) is start
    assert strong_wolfe(evaluate, start, 1.0) is start


@pytest.mark.parametrize("search", SEARCHES)
def test_pairs_are_of_one_batch(search: str) -> None:
    """Each pair satisfies y = H s exactly for the batch it was made on, though the batches differ."""
    module = nn.Linear(6, 3, bias=False, dtype=torch.float64)
    optimizer = LBFGS(module.parameters(), lr=1.0, history_size=4, line_search=search)
    for batch in range(4):
        optimizer.step(closure_of(module, optimizer, batch))
    state = optimizer.state[module.weight]
    for batch in range(4):
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(batch), dtype=torch.float64)
        hessian = 2 / 48 * inputs.T @ inputs  # of a mean over 16 rows of 3
        torch.testing.assert_close(state["changes"][batch], state["steps"][batch] @ hessian)


def test_resumes_to_the_bit_and_has_its_state_from_the_start() -> None:
    whole, first, second = network(), network(), network()
    optimizer = OPTIMIZERS.create("reference_lbfgs", whole, history_size=3)
    keys = {index: sorted(entry) for index, entry in optimizer.state_dict()["state"].items()}
    assert keys == {index: ["changes", "steps"] for index in range(6)}
    train(whole, optimizer, 8)

    optimizer = OPTIMIZERS.create("reference_lbfgs", first, history_size=3)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second.load_state_dict(first.state_dict())
    resumed = OPTIMIZERS.create("reference_lbfgs", second, history_size=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(second, resumed, 3, first=5)
    assert torch.equal(weights(second), weights(whole))
    assert not torch.equal(weights(second), weights(first))


@pytest.mark.parametrize("search", SEARCHES)
def test_lr_zero_freezes(search: str) -> None:
    module = network()
    train(module, OPTIMIZERS.create("reference_lbfgs", module, lr=0.0, line_search=search), 2)
    assert torch.equal(weights(module), weights(network()))


def test_parameters_without_a_gradient_and_minima_stay() -> None:
    module = nn.Linear(2, 1, dtype=torch.float64)
    start = weights(module)
    optimizer = LBFGS(module.parameters(), lr=1.0)

    def constant() -> Tensor:
        return torch.ones(())

    assert optimizer.step(constant) == 1.0
    assert torch.equal(weights(module), start)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module.weight.square().sum()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert torch.equal(weights(module)[2:], start[2:])
    torch.testing.assert_close(weights(module)[:2], torch.zeros(2, dtype=torch.float64))


def test_weights_stay_where_they_are_in_memory() -> None:
    module = network()
    places = [parameter.data_ptr() for parameter in module.parameters()]
    train(module, OPTIMIZERS.create("reference_lbfgs", module), 2)
    assert [parameter.data_ptr() for parameter in module.parameters()] == places


def test_bad_input_is_refused_in_one_line() -> None:
    cases = [
        ({"lr": -1.0}, r"lr must be a finite number in \[0, inf\), not -1.0"),
        ({"history_size": 0}, "history_size must be a whole number, at least 1, not 0"),
        ({"history_size": 2.5}, "history_size must be a whole number, at least 1, not 2.5"),
        ({"line_search": "wolf"}, "line_search must be one of strong_wolfe, backtracking, not 'wolf'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=rf"\A{message}\Z"):
            OPTIMIZERS.create("reference_lbfgs", nn.Linear(2, 2), **options)
    with pytest.raises(ValueError, match=r"\Areference_lbfgs evaluates the model several times in a step: .*\Z"):
        OPTIMIZERS.create("reference_lbfgs", nn.Linear(2, 2)).step()
    with pytest.raises(ValueError, match=r"\Athe closure returned no loss: a line search needs it\Z"):
        OPTIMIZERS.create("reference_lbfgs", nn.Linear(2, 2)).step(lambda: None)
    with pytest.raises(ValueError, match="LBFGS takes one parameter group"):
        LBFGS([{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))]}], lr=1.0)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.0, 1.5), 1.0),  # x^3 - 3 x is lowest at 1
        ((1.5, 0.0), 1.0),
        ((0.3, 2.5), 1.0),
        ((0.98, 2.0), 1.49),  # too near an end: the middle
        ((2.0, 3.0), 2.5),  # it rises all the way
    ],
)
def test_the_next_point_is_where_the_cubic_through_both_ends_is_lowest(ends, expected) -> None:
    low, high = (Point(x, x**3 - 3 * x, 3 * x * x - 3, torch.zeros(1)) for x in ends)
    assert _between(low, high) == pytest.approx(expected)
