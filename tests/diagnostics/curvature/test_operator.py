import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from steepest.diagnostics.common.guards import undisturbed
from steepest.diagnostics.curvature.lanczos import Lanczos, largest_eigenvalues, spectral_density, trace
from steepest.diagnostics.curvature.operator import Curvature, CurvatureUnavailableError


class Attention(nn.Module):
    """One head of the fused kernel, on tokens looked up in an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 12)
        self.out = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.tokens((inputs[:, :3].abs() * 2).long().clamp(max=4))
        query, key, value = self.mix(hidden).unsqueeze(1).chunk(3, dim=-1)
        return self.out(functional.scaled_dot_product_attention(query, key, value, is_causal=True).mean((1, 2)))


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.use_reentrant = use_reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        def part(hidden: Tensor) -> Tensor:
            return torch.tanh(self.body(hidden))

        return self.head(checkpoint(part, self.first(inputs), use_reentrant=self.use_reentrant))


def image(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), *layers, nn.Flatten(), nn.LazyLinear(2))


NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)),
    "relu": lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Dropout(0.5), nn.Linear(5, 2)),
    "convolution": lambda: image(nn.Conv2d(1, 2, 2, padding=1), nn.SiLU()),
    "batch_norm": lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)),
    "layer_norm": lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)),
    "group_norm": lambda: image(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.GELU()),
    "rms_norm": lambda: nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4), nn.Linear(4, 2)),
    "attention": Attention,
    "checkpointing": lambda: Checkpointed(False),
    "compiled": lambda: torch.compile(NETWORKS["linear"](), backend="aot_eager"),
    "recurrent": lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.GRU(3, 3, batch_first=True), Last()),
}  # fmt: skip


class Last(nn.Module):
    def forward(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return outputs[0][:, -1]


def problem(name: str):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    inputs, labels = torch.randn(12, 6, dtype=torch.float64), torch.arange(12) % 2
    network = network.double()
    network(inputs[:2])
    return network, lambda: functional.cross_entropy(network(inputs), labels)


def differences(network: nn.Module, loss) -> Tensor:
    """The Hessian by central differences of gradients."""
    parameters, step, columns = list(network.parameters()), 1e-5, []

    def gradient() -> Tensor:
        gradients = torch.autograd.grad(loss(), parameters, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in gradients])

    for parameter in parameters:
        flat = parameter.data.view(-1)
        for index in range(flat.numel()):
            value = flat[index].item()
            flat[index] = value + step
            ahead = gradient()
            flat[index] = value - step
            columns.append((ahead - gradient()) / (2 * step))
            flat[index] = value
    return torch.stack(columns)


def dense(curvature: Curvature) -> Tensor:
    return torch.stack([curvature.product(unit) for unit in torch.eye(curvature.size, dtype=torch.float64)])


@pytest.mark.parametrize(("name", "batch_norm"), [*((name, "batch") for name in NETWORKS), ("batch_norm", "running")])
def test_products_are_those_of_the_dense_hessian(name, batch_norm) -> None:
    network, loss = problem(name)
    with undisturbed(network, batch_norm):
        curvature = Curvature([loss], list(network.parameters()))
        found, expected = dense(curvature), differences(network, loss)
    assert torch.allclose(found, expected, atol=1e-8)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, found.T, atol=1e-12)
    assert curvature.products == curvature.size


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("memory", ["retain", "recompute"])
def test_several_batches_are_averaged(matrix, memory) -> None:
    network, _ = problem("linear")
    inputs, labels = torch.randn(12, 6, dtype=torch.float64), torch.arange(12) % 2
    whole = Curvature([lambda: functional.cross_entropy(network(inputs), labels)], list(network.parameters()))
    halves = [
        lambda part=part: functional.cross_entropy(network(inputs[part]), labels[part])
        for part in (slice(0, 6), slice(6, 12))
    ]
    parts = Curvature(halves, list(network.parameters()), matrix=matrix, network=network, memory=memory)
    assert parts.loss == pytest.approx(whole.loss)
    assert torch.allclose(parts.gradient, whole.gradient)
    expected = dense(whole) if matrix == "hessian" else gauss_newton(network, inputs)
    assert torch.allclose(dense(parts), expected)


def test_batch_normalization_over_several_batches() -> None:
    network, _ = problem("batch_norm")
    inputs, labels = torch.randn(12, 6, dtype=torch.float64), torch.arange(12) % 2
    parameters = list(network.parameters())

    def loss_of(part: slice):
        return lambda: functional.cross_entropy(network(inputs[part]), labels[part])

    losses = [loss_of(slice(0, 6)), loss_of(slice(6, 12))]
    with undisturbed(network):
        expected = sum(dense(Curvature([loss], parameters)) for loss in losses) / 2
        assert torch.allclose(dense(Curvature(losses, parameters)), expected)
        assert torch.allclose(dense(Curvature(losses, parameters, memory="recompute")), expected)


def gauss_newton(network: nn.Module, inputs: Tensor) -> Tensor:
    """J' H_o J from the Jacobian of every output and the known Hessian of softmax and cross-entropy."""
    parameters = list(network.parameters())
    outputs = network(inputs)
    total: Tensor | float = 0.0
    for row in outputs:
        jacobian = torch.stack(
            [
                torch.cat(
                    [
                        g.reshape(-1)
                        for g in torch.autograd.grad(o, parameters, retain_graph=True, materialize_grads=True)
                    ]
                )
                for o in row
            ]
        )
        p = row.detach().softmax(0)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / len(inputs)
    assert isinstance(total, Tensor)
    return total


@pytest.mark.parametrize("name", ["relu", "layer_norm", "attention", "checkpointing", "compiled"])
def test_gauss_newton_is_the_one_of_the_jacobian(name) -> None:
    network, loss = problem(name)
    torch.manual_seed(0)
    with undisturbed(network):
        curvature = Curvature([loss], list(network.parameters()), matrix="gauss_newton", network=network)
        found = dense(curvature)
        inputs = next(cell.cell_contents for cell in loss.__closure__ if torch.is_tensor(cell.cell_contents)
                      and cell.cell_contents.is_floating_point())  # fmt: skip
        expected = gauss_newton(network, inputs)
        hessian = dense(Curvature([loss], list(network.parameters())))
    assert torch.allclose(found, expected, atol=1e-10)
    assert torch.linalg.eigvalsh(found).min() > -1e-10
    assert (found - hessian).abs().max() > 1e-4


def test_gauss_newton_is_refused_where_there_is_none() -> None:
    network, loss = problem("linear")
    with pytest.raises(CurvatureUnavailableError, match="does not depend on the parameters through its outputs alone"):
        Curvature(
            [lambda: loss() + 0.1 * network[0].weight.square().sum()],
            list(network.parameters()),
            matrix="gauss_newton",
            network=network,
        )
    with pytest.raises(CurvatureUnavailableError, match="neither its forward nor a child's returned one"):
        Curvature([network[0].weight.square().sum], [network[0].weight], matrix="gauss_newton", network=network)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient


def test_what_cannot_be_differentiated_twice_is_said_in_one_line() -> None:
    weight = nn.Parameter(torch.ones(1, 1, 4, 4))
    with pytest.raises(CurvatureUnavailableError, match="can be differentiated only once"):
        Curvature([lambda: Once.apply(weight).square().sum()], [weight])  # type: ignore[union-attr]
    sampled = Curvature([lambda: functional.hardsigmoid(weight / 9).square().sum()], [weight])
    with pytest.raises(CurvatureUnavailableError, match=r"^an operation of the network has no second derivative .*\)$"):
        sampled.product(torch.ones(16))
    reentrant = Checkpointed(True).double()
    with pytest.raises(CurvatureUnavailableError, match="use_reentrant=False"):
        Curvature([lambda: reentrant(torch.randn(3, 6).double()).square().sum()], list(reentrant.parameters()))
    sparse = nn.Embedding(3, 2, sparse=True)
    with pytest.raises(CurvatureUnavailableError, match="sparse=False"):
        Curvature([lambda: sparse(torch.tensor([1])).square().sum()], list(sparse.parameters()))


def test_a_loss_that_is_not_finite_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(3))
    with pytest.raises(FloatingPointError, match="not finite"):
        Curvature([lambda: (weight / 0).sum()], [weight])


def test_a_failing_rank_hands_in_nan_before_it_raises() -> None:
    handed: list[Tensor] = []

    def reduce(vector: Tensor) -> Tensor:
        handed.append(vector)
        return vector

    def fail() -> Tensor:
        raise ArithmeticError("only here")

    with pytest.raises(ArithmeticError):
        Curvature([fail], [nn.Parameter(torch.zeros(3))], reduce=reduce)
    assert [vector.isnan().tolist() for vector in handed] == [[True] * 4]


def test_the_loss_elsewhere_leaves_the_weights_to_the_bit() -> None:
    network, loss = problem("linear")
    before = [parameter.clone() for parameter in network.parameters()]
    curvature = Curvature([loss], list(network.parameters()))
    shift = 0.3 * curvature.gradient
    found = curvature.loss_at(shift)
    assert all(torch.equal(own, old) for own, old in zip(network.parameters(), before, strict=True))
    with torch.no_grad():
        for parameter, part in zip(network.parameters(), curvature.split(shift), strict=True):
            parameter += part
        assert found == pytest.approx(float(loss()), rel=1e-12)


def test_bad_arguments_are_named() -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="got 'fisher'"):
        Curvature([weight.sum], [weight], matrix="fisher")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'disk'"):
        Curvature([weight.sum], [weight], memory="disk")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the network"):
        Curvature([weight.sum], [weight], matrix="gauss_newton")
    with pytest.raises(ValueError, match="at least one loss"):
        Curvature([], [weight])


# --- eigenvalues ----------------------------------------------------------------------------------------------------


def symmetric(eigenvalues: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double())[0]
    return basis @ torch.diag(eigenvalues) @ basis.T, torch.randn(len(eigenvalues), generator=generator).double()


def search(eigenvalues: Tensor, seed: int, count: int) -> tuple[tuple[float, ...], list[float], float]:
    matrix, start = symmetric(eigenvalues, seed)
    found = largest_eigenvalues(
        lambda v: matrix @ v, start, count, tolerance=1e-14, max_products=200, generator=torch.Generator()
    )
    expected = eigenvalues.sort(descending=True).values[:count]
    return found.values, expected.tolist(), 1e-6 * (1 + eigenvalues.abs().max().item())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=30), st.integers(0, 99))
def test_the_largest_is_found_to_the_last_digit_when_asked_for(spectrum, seed) -> None:
    found, expected, error = search(torch.tensor(spectrum, dtype=torch.float64), seed, 1)
    assert found == pytest.approx(expected, abs=error)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(-50, 50), min_size=1, max_size=30), st.integers(0, 99), st.integers(2, 4))
def test_several_different_ones_are_found(spectrum, seed, count) -> None:
    found, expected, error = search(torch.tensor(sorted(spectrum), dtype=torch.float64), seed, count)
    assert found == pytest.approx(expected, abs=error)


def test_one_that_appears_several_times_is_found_as_often() -> None:
    found, expected, error = search(torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0], dtype=torch.float64), 0, 4)
    assert found == pytest.approx(expected, abs=error)


def test_eigenvectors_and_residuals() -> None:
    matrix, start = symmetric(torch.linspace(-5, 4, 40, dtype=torch.float64), 3)
    found = largest_eigenvalues(lambda v: matrix @ v, start, 3, tolerance=1e-3)
    assert found.vectors is not None
    assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(3, dtype=torch.float64), atol=1e-10)
    for value, residual, vector in zip(found.values, found.residuals, found.vectors, strict=True):
        assert float(torch.linalg.vector_norm(matrix @ vector - value * vector)) == pytest.approx(residual, abs=1e-10)
    assert max(found.values) <= 4.0 + 1e-10
    assert found.products < 40


def test_a_few_products_find_an_outlier_and_not_the_most_negative_value() -> None:
    eigenvalues = torch.cat([torch.tensor([-30.0, 20.0, 9.0]), torch.linspace(-1, 1, 500)]).double()
    matrix, start = symmetric(eigenvalues, 0)
    found = largest_eigenvalues(lambda v: matrix @ v, start)
    assert found.converged
    assert found.products <= 12
    assert found.values[0] == pytest.approx(20.0, rel=0.01)


def test_the_limit_on_products_is_kept_and_told() -> None:
    matrix, start = symmetric(torch.linspace(0, 1, 200, dtype=torch.float64), 0)
    found = largest_eigenvalues(lambda v: matrix @ v, start, tolerance=1e-9, max_products=5)
    assert (found.products, found.converged) == (5, False)


def test_more_steps_than_first_rows() -> None:
    matrix, start = symmetric(torch.linspace(0, 1, 60, dtype=torch.float64), 0)
    found = largest_eigenvalues(lambda v: matrix @ v, start, tolerance=1e-12, max_products=60)
    assert found.products > 16
    assert found.values[0] == pytest.approx(1.0, abs=1e-9)


def test_bad_numbers_are_named() -> None:
    start = torch.ones(3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        largest_eigenvalues(lambda v: v, start, 0)
    with pytest.raises(ValueError, match="above 0, got 0"):
        largest_eigenvalues(lambda v: v, start, tolerance=0.0)
    with pytest.raises(ValueError, match="max_products must be at least 1"):
        largest_eigenvalues(lambda v: v, start, max_products=0)
    with pytest.raises(FloatingPointError, match="of norm 0"):
        largest_eigenvalues(lambda v: v, torch.zeros(3))
    with pytest.raises(ValueError, match="at least 2 probes"):
        trace(lambda v: v, start, 1, torch.Generator())
    with pytest.raises(ValueError, match="got 0 of 20"):
        spectral_density(lambda v: v, start, 0, torch.Generator())


# --- estimates ------------------------------------------------------------------------------------------------------


def test_the_trace_lies_within_its_error_and_the_error_is_right() -> None:
    matrix, _ = symmetric(torch.linspace(-1, 5, 50, dtype=torch.float64), 1)
    exact = float(matrix.trace())
    generator = torch.Generator().manual_seed(0)
    found = [trace(lambda v: matrix @ v, matrix[0], 12, generator) for _ in range(200)]
    misses = torch.tensor([estimate.value - exact for estimate in found])
    # The variance of one probe is 2 (|A|^2 - sum of squares of the diagonal).
    spread = (2 * (matrix.square().sum() - matrix.diagonal().square().sum()) / 12).sqrt()
    assert misses.std() == pytest.approx(float(spread), rel=0.15)
    assert torch.tensor([estimate.error for estimate in found]).mean() == pytest.approx(float(spread), rel=0.15)
    assert abs(misses.mean()) < 4 * spread / 200**0.5


def test_the_density_has_the_moments_of_the_spectrum() -> None:
    eigenvalues = torch.linspace(-1, 5, 50, dtype=torch.float64)
    matrix, start = symmetric(eigenvalues, 1)
    density = spectral_density(lambda v: matrix @ v, start, 60, torch.Generator().manual_seed(0), steps=10)
    nodes, weights = torch.tensor(density.nodes), torch.tensor(density.weights)
    assert weights.sum() == pytest.approx(1.0, rel=1e-6)
    assert list(density.nodes) == sorted(density.nodes)
    for power in (1, 2, 3):
        expected = float(eigenvalues.pow(power).mean())
        assert float((weights * nodes.pow(power)).sum()) == pytest.approx(expected, rel=0.1)


def test_a_density_of_a_small_matrix_is_exact() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0, 4.0]).double())
    density = spectral_density(lambda v: matrix @ v, matrix[0], 2, torch.Generator())
    assert density.nodes == pytest.approx([1, 1, 2, 2, 4, 4])
    assert density.weights == pytest.approx([1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 4, 1 / 4])


def test_the_loss_elsewhere_is_the_mean_over_the_batches() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    losses = [lambda: weight.square().sum(), lambda: 3.0 * weight.sum()]
    curvature = Curvature(losses, [weight])
    assert curvature.loss == pytest.approx((5.0 + 9.0) / 2)
    assert curvature.loss_at(torch.tensor([1.0, -1.0])) == pytest.approx((5.0 + 9.0) / 2)  # at (2, 1)
    assert curvature.loss_at(torch.tensor([2.0, 0.0])) == pytest.approx((13.0 + 15.0) / 2)  # at (3, 2)
    assert weight.tolist() == [1.0, 2.0]


def test_an_exhausted_space_is_left_without_a_trace_of_it() -> None:
    matrix, _ = symmetric(torch.tensor([5.0, 5.0, 2.0, 2.0, 2.0, 1.0]).double(), 3)
    matrix = matrix.float()
    lanczos = Lanczos(lambda vector: matrix @ vector, torch.ones(6))
    while not lanczos.exhausted:
        lanczos.step()
    spent = len(lanczos.diagonal)
    assert spent == 3  # as many different eigenvalues
    lanczos.restart(torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0, 0.3]))
    lanczos.step()
    assert lanczos.off_diagonal[spent - 1] == 0.0
    basis = lanczos.basis.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
