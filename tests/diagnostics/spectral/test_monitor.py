import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.common.history import History
from steepest.diagnostics.spectral import figures as spectral_figures
from steepest.diagnostics.spectral.convolution import convolution_input_shapes
from steepest.diagnostics.spectral.monitor import (
    FIELDS,
    SpectralMonitor,
    SpectralSample,
    find_matrices,
)
from steepest.diagnostics.updates.recorders import ChangeRecorder


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Flatten(),
        nn.Linear(64, 96),
        nn.Linear(96, 80),
        nn.Linear(80, 3),
    )


SHAPES = {"0": (2, 8, 8), "3": (4, 4, 4)}


def operator_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    size = math.prod(shape)
    with torch.no_grad():
        images = layer(torch.eye(size).reshape(size, *shape)) - layer(torch.zeros(1, *shape))
    return float(torch.linalg.matrix_norm(images.flatten(1).double(), ord=2))


def test_a_sample_against_decompositions() -> None:
    module = network()
    updates = {name: torch.randn_like(p) * 1e-3 for name, p in module.named_parameters() if p.ndim > 1}
    del updates["7.weight"]
    monitor = SpectralMonitor(module, keep_spectra=True)
    sample = monitor.measure(updates, SHAPES)
    assert sample.names == ("0.weight", "3.weight", "5.weight", "6.weight", "7.weight")
    assert sample.kinds == ("convolution", "convolution", "linear", "linear", "linear")
    assert sample.sizes == (4, 4, 64, 80, 3)
    for index, name in enumerate(sample.names):
        flat = module.get_parameter(name).detach().double().flatten(1)
        values = torch.linalg.svdvals(flat)
        assert sample.norms[index] == pytest.approx(values[0].item(), rel=1e-6)
        assert sample.stable_ranks[index] == pytest.approx(float(flat.square().sum() / values[0] ** 2), rel=1e-5)
        assert sample.conditions[index] == pytest.approx(float(values[0] / values[-1]), rel=1e-4)
        assert sample.spectra[name] == pytest.approx(values.tolist(), rel=1e-4)
        if name in updates:
            change = updates[name].double().flatten(1)
            values = torch.linalg.svdvals(change)
            assert sample.update_norms[index] == pytest.approx(values[0].item(), rel=1e-6)
            assert sample.update_stable_ranks[index] == pytest.approx(float(change.square().sum() / values[0] ** 2))
            assert sample.relative_updates[index] == pytest.approx(sample.update_norms[index] / sample.norms[index])
        else:
            assert math.isnan(sample.update_norms[index])
    operators = [operator_norm(module[0], SHAPES["0"]), operator_norm(module[3], SHAPES["3"])]
    assert sample.operator_norms[:2] == pytest.approx(operators, rel=1e-4)
    assert all(math.isnan(norm) for norm in sample.operator_norms[2:])
    factors = [*operators, *sample.norms[2:]]
    assert sample.log10_product == pytest.approx(sum(math.log10(factor) for factor in factors), rel=1e-4)
    # Only the 96 x 80 matrix is too large for an exact value every time.
    assert [not math.isnan(drift) for drift in sample.drifts] == [False, False, False, True, False]
    assert [not math.isnan(drift) for drift in sample.operator_drifts] == [True, True, False, False, False]


def test_the_product_bounds_how_much_the_output_changes() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 4),
    )
    images = torch.randn(200, 1, 8, 8)
    shapes = convolution_input_shapes(module, lambda: module(images[:1]))
    bound = 10 ** SpectralMonitor(module).measure(input_shapes=shapes).log10_product
    with torch.no_grad():
        changes = (module(images[:100]) - module(images[100:])).norm(dim=1)
    ratios = changes / (images[:100] - images[100:]).flatten(1).norm(dim=1)
    assert 0.01 * bound < ratios.max() < bound


def test_without_input_shapes_there_is_no_product() -> None:
    sample = SpectralMonitor(network()).measure()
    assert math.isnan(sample.log10_product)
    assert all(math.isnan(norm) for norm in sample.operator_norms)
    assert math.isnan(sample.scalars()["spectral/operator_norm_max"])


def test_between_exact_measurements_only_small_matrices_have_a_condition() -> None:
    monitor = SpectralMonitor(network(), exact_every=3)
    samples = []
    for expected in (True, False, False, True):
        assert monitor.next_is_exact == expected
        samples.append(monitor.measure(input_shapes=SHAPES))
    for sample, exact in zip(samples, (True, False, False, True), strict=True):
        assert [math.isnan(condition) for condition in sample.conditions] == [False, False, False, not exact, False]
        assert math.isnan(sample.scalars()["spectral/condition_max"]) == (not exact)
        assert math.isnan(sample.scalars()["spectral/drift_max"]) == (not exact)
    assert samples[3].scalars()["spectral/drift_max"] < 1e-4  # the weights did not move
    assert samples[2].norms == pytest.approx(samples[3].norms, rel=1e-4)


def test_a_singular_value_that_overtakes_the_followed_one_is_found() -> None:
    module = nn.Linear(100, 100, bias=False)
    left, right = (torch.linalg.qr(torch.randn(100, 100))[0] for _ in range(2))
    spectrum = torch.full((100,), 0.1)
    monitor = SpectralMonitor(module, exact_every=3)
    norms = []
    for first, second in ((2.0, 1.0), (2.0, 1.0), (2.0, 1.0), (1.0, 3.0), (1.0, 3.0)):
        spectrum[:2] = torch.tensor([first, second])
        with torch.no_grad():
            module.weight.copy_(left @ torch.diag(spectrum) @ right)
        norms.append(monitor.measure().norms[0])
    assert norms == pytest.approx([2.0, 2.0, 2.0, 3.0, 3.0], rel=1e-4)


def test_which_parameters_are_matrices() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 5)
            self.head = nn.Linear(5, 7)
            self.head.weight = self.table.weight
            self.frozen = nn.Linear(5, 5)
            self.frozen.weight.requires_grad = False
            self.counts = nn.Parameter(torch.ones(2, 2, dtype=torch.long), requires_grad=False)
            self.attention = nn.MultiheadAttention(4, 2)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 2))

    found = {matrix.name: matrix.kind for matrix in find_matrices(Odd())}
    assert found == {
        "table.weight": "other",
        "frozen.weight": "linear",
        "attention.in_proj_weight": "other",
        "attention.out_proj.weight": "linear",
        "normed.parametrizations.weight.original0": "other",
        "normed.parametrizations.weight.original1": "other",
    }
    compiled = nn.ModuleDict({"net": torch.compile(nn.Conv1d(2, 3, 2), backend="eager")})
    assert [(matrix.name, matrix.layer) for matrix in find_matrices(compiled)] == [("net.weight", "net")]


def test_a_nan_concerns_its_own_matrix_only() -> None:
    module = network()
    with torch.no_grad():
        module[6].weight[0, 0] = torch.inf  # type: ignore[index, operator]
    sample = SpectralMonitor(module).measure(input_shapes=SHAPES)
    assert sample.nonfinite == ("6.weight",)
    assert not math.isnan(sample.norms[2])
    assert not math.isnan(sample.scalars()["spectral/norm_max"])


def test_zero_weights() -> None:
    module = nn.Linear(5, 3)
    nn.init.zeros_(module.weight)
    sample = SpectralMonitor(module).measure({"weight": torch.zeros(3, 5)})
    assert sample.norms == (0.0,)
    assert math.isnan(sample.stable_ranks[0])
    assert math.isnan(sample.relative_updates[0])
    assert sample.log10_product == -math.inf


def moved(module: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            updates[name] = 0.01 * torch.randn(parameter.shape, generator=generator)
            parameter += updates[name]
    return updates


def test_a_restored_monitor_measures_the_same() -> None:
    module = network()
    monitor = SpectralMonitor(module, exact_every=4)
    for seed in range(2):
        monitor.measure(moved(module, seed), SHAPES)
    file = io.BytesIO()
    torch.save(monitor.state_dict(), file)
    file.seek(0)
    other = SpectralMonitor(module, exact_every=4)
    other.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(2, 6):
        updates = moved(module, seed)
        assert repr(other.measure(updates, SHAPES)) == repr(monitor.measure(updates, SHAPES))


def test_measuring_changes_nothing() -> None:
    module = network()
    module(torch.randn(4, 2, 8, 8)).sum().backward()
    before = [tensor.clone() for tensor in (*module.state_dict().values(), *(p.grad for p in module.parameters()))]
    state = torch.get_rng_state()
    SpectralMonitor(module).measure(input_shapes=SHAPES)
    after = [*module.state_dict().values(), *(p.grad for p in module.parameters())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_exact_every_is_checked() -> None:
    with pytest.raises(ValueError, match="exact_every must be at least 1, got 0"):
        SpectralMonitor(network(), exact_every=0)


def test_changes_of_each_optimizer_are_recorded() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(2, 2)
    optimizers = torch.optim.SGD(first.parameters(), lr=0.1), torch.optim.Adam(second.parameters(), lr=0.1)
    named: dict[Any, Any] = {
        optimizer: [(name, module.weight)]
        for optimizer, module, name in zip(optimizers, (first, second), "ab", strict=True)
    }
    recorder = ChangeRecorder(optimizers, lambda optimizer: named[optimizer], lambda: True)
    before = {name: weight.detach().clone() for ((name, weight),) in named.values()}
    for _ in range(2):  # the first step counts
        second(first(torch.ones(1, 3))).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        if "after" not in before:
            after = {name: weight.detach().clone() for ((name, weight),) in named.values()}
            before["after"] = torch.empty(0)
    changes = {name: change for of in recorder.changes.values() for name, change in of.items()}
    assert changes.keys() == {"a", "b"}
    for name, change in changes.items():
        torch.testing.assert_close(change, after[name] - before[name])
    recorder.remove()
    assert recorder.changes == {}


def history(rows: int, **options: Any) -> tuple[History, SpectralSample]:
    module = network()
    monitor, found = SpectralMonitor(module, keep_spectra=True), History(FIELDS, by_layer=True, **options)
    for step in range(1, rows + 1):
        sample = monitor.measure(moved(module, step), SHAPES)
        found.append(step, sample)
    return found, sample


def test_history() -> None:
    found, sample = history(3)
    assert found.steps == [1, 2, 3]
    assert found["norms"].shape == (3, 5)
    for field in FIELDS:
        torch.testing.assert_close(found[field][-1], torch.tensor(getattr(sample, field)), equal_nan=True)
    other = History(FIELDS, by_layer=True)
    other.load_state_dict(found.state_dict())
    assert repr(other.table()) == repr(found.table())
    other = SpectralMonitor(nn.Linear(2, 2)).measure()  # of other matrices
    found.append(4, other)
    assert found.names == ["weight", *sample.names]


def test_history_is_bounded_and_keeps_the_newest() -> None:
    found, _ = history(9, max_rows=4)
    assert len(found) <= 4
    assert found.steps[-1] == 9
    with pytest.raises(ValueError, match="max_rows must be at least 2, got 1"):
        History(FIELDS, by_layer=True, max_rows=1)


def texts(figure: Any) -> set[str]:
    import matplotlib.text

    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def test_figures_show_every_matrix() -> None:
    found, sample = history(3)
    by_layer = spectral_figures.by_layer(sample, found)
    assert {"5.weight", "weight", "convolution as an operator", "last update", "range over the run"} <= texts(by_layer)
    heat_maps = spectral_figures.heat_maps(sample, found)
    titles = {"Norm of the weight", "Relative update", "Stable rank of the weight", "Stable rank of the update"}
    assert {"5.weight", *titles} <= texts(heat_maps)
    module = network()
    exact = SpectralMonitor(module, keep_spectra=True).measure(moved(module, 0))
    spectra = spectral_figures.spectra(exact, 1)
    assert [len(axes.lines) for axes in spectra.axes[:2]] == [5, 5]
    assert {"0.weight", "5.weight", "7.weight"} <= texts(spectra)


def test_figures_without_updates_and_of_zeros() -> None:
    module = nn.Linear(3, 2)
    nn.init.zeros_(module.weight)
    sample = SpectralMonitor(module, keep_spectra=True).measure()
    found = History(FIELDS, by_layer=True)
    found.append(1, sample)
    assert "last update" not in texts(spectral_figures.by_layer(sample, found))
    assert "Relative update" not in texts(spectral_figures.heat_maps(sample, found))
    assert len(spectral_figures.spectra(sample, 1).axes[0].lines) == 0


def test_what_has_no_singular_values_is_no_matrix() -> None:
    module = nn.Linear(3, 2)
    module.empty = nn.Parameter(torch.empty(0, 4))
    module.whole = nn.Parameter(torch.zeros(2, 2, dtype=torch.int64), requires_grad=False)
    assert [matrix.name for matrix in find_matrices(module)] == ["weight"]
