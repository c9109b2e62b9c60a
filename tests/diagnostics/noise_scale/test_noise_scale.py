import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from steepest.common.history import History
from steepest.diagnostics.noise_scale.figures import noise_scale
from steepest.diagnostics.noise_scale.noise_scale import (
    FIELDS,
    NoiseSample,
    NoiseScaleAverage,
    noise_sample,
    numbers_of,
)
from steepest.diagnostics.noise_scale.parts import PartRecorder, equal_parts, gradients_of_parts, square_norm
from tests.diagnostics.figures import band, curve


def of_gradients(gradients: Tensor, sizes: list[int]) -> NoiseSample:
    """From the parts' gradients, of shape (parts, parameters)."""
    return noise_sample(gradients.square().sum(1).tolist(), float(gradients.mean(0).square().sum()), sizes)


class Problem:
    """A small classifier with every example's gradient, so that the truth is known."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(1500, 8, generator=generator, dtype=torch.float64)
        noise = torch.randn(1500, generator=generator, dtype=torch.float64)
        self.targets = (self.inputs[:, :3] + 0.7 * noise[:, None]).argmax(1)
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.3)
        for _ in range(60):
            optimizer.zero_grad()
            self.loss(torch.arange(1500)).backward()
            optimizer.step()
        optimizer.zero_grad()
        weights = {name: parameter.detach() for name, parameter in self.network.named_parameters()}

        def single(weights, image, target):
            scores = torch.func.functional_call(self.network, weights, (image[None],))
            return nn.functional.cross_entropy(scores, target[None])

        gradients = torch.func.vmap(torch.func.grad(single), (None, 0, 0))(weights, self.inputs, self.targets)
        self.gradients = torch.cat([gradients[name].flatten(1) for name in weights], dim=1)
        self.gradient_square = float(self.gradients.mean(0).square().sum())
        self.trace = float(self.gradients.var(0, correction=0).sum())

    def loss(self, chosen: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.network(self.inputs[chosen]), self.targets[chosen])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def test_within_five_percent_of_the_truth_where_the_naive_estimator_fails(problem) -> None:
    truth = problem.trace / problem.gradient_square
    generator = torch.Generator().manual_seed(3)
    average, naive = NoiseScaleAverage(decay=1.0), []
    for _ in range(1500):
        rows = problem.gradients[torch.randint(1500, (128,), generator=generator)]
        average.add(of_gradients(rows.unflatten(0, (4, 32)).mean(1), [32] * 4))
        naive.append(float(rows.var(0).sum() / rows.mean(0).square().sum()))
    found = average.result()
    assert found.scale == pytest.approx(truth, rel=0.05)
    assert found.gradient_square == pytest.approx(problem.gradient_square, rel=0.05)
    assert found.trace == pytest.approx(problem.trace, rel=0.02)
    assert found.low < truth < found.high
    assert found.effective_count == pytest.approx(1500)
    # The squared mean of a batch still holds its noise: tr S / (|G|² + tr S / 128) or less.
    assert sorted(naive)[750] < 0.7 * truth


def test_gradients_of_parts_are_means_of_those_of_the_examples(problem) -> None:
    chosen = torch.arange(40)
    parameters = list(problem.network.parameters())
    losses = [partial(problem.loss, part) for part in equal_parts(chosen, 4)]
    squares, total = gradients_of_parts(losses, parameters)
    expected = problem.gradients[:40].unflatten(0, (4, 10)).mean(1)
    torch.testing.assert_close(squares, expected.square().sum(1))
    torch.testing.assert_close(torch.cat([gradient.flatten() for gradient in total]), expected.sum(0))
    assert all(parameter.grad is None for parameter in parameters)


def test_a_parameter_that_is_not_used_counts_as_zero() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    squares, total = gradients_of_parts([lambda: used.sum(), lambda: 2 * used.sum()], [used, unused])
    assert squares.tolist() == pytest.approx([2.0, 8.0])
    assert [gradient.tolist() for gradient in total] == [[3.0, 3.0], [0.0, 0.0, 0.0]]


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 5))
def test_formulas(seed, parts, size) -> None:
    gradients = torch.randn(parts, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = of_gradients(gradients, [size] * parts)
    small, large = float(gradients.square().sum(1).mean()), float(gradients.mean(0).square().sum())
    whole = parts * size
    # McCandlish et al., appendix A.
    assert found.gradient_square == pytest.approx((whole * large - size * small) / (whole - size), rel=1e-9, abs=1e-12)
    assert found.trace == pytest.approx((small - large) / (1 / size - 1 / whole), rel=1e-9)
    differences = [
        float((gradients[i] - gradients[j]).square().sum()) / 2 for i in range(parts) for j in range(i + 1, parts)
    ]
    assert found.half_difference == pytest.approx(sum(differences) / len(differences), rel=1e-9)
    assert (found.batch_size, found.part_size) == (whole, pytest.approx(size))


def test_parts_of_different_sizes_are_unbiased() -> None:
    torch.manual_seed(0)
    sizes, mean = [2, 3, 8], torch.full((5,), 0.3, dtype=torch.float64)
    deviations = torch.tensor(sizes, dtype=torch.float64).rsqrt()[:, None]
    samples = [of_gradients(mean + deviations * torch.randn(3, 5, dtype=torch.float64), sizes) for _ in range(20000)]
    assert sum(sample.trace for sample in samples) / 20000 == pytest.approx(5.0, rel=0.02)
    assert sum(sample.gradient_square for sample in samples) / 20000 == pytest.approx(0.45, rel=0.05)


@pytest.mark.parametrize(("decay", "signal"), [(1.0, 3.0), (0.85, 3.0), (1.0, 0.3)])
def test_the_interval_covers_the_truth_as_often_as_it_says(decay, signal) -> None:
    torch.manual_seed(1)
    mean = torch.full((30,), signal / math.sqrt(30), dtype=torch.float64)
    truth = 8 * 30 / signal**2  # parts of 8, unit covariance of their mean
    covered = open_ended = 0
    for _ in range(500):
        average = NoiseScaleAverage(decay)
        for gradients in mean + torch.randn(25, 4, 30, dtype=torch.float64):
            average.add(of_gradients(gradients, [8] * 4))
        found = average.result()
        covered += found.low <= truth <= found.high
        open_ended += math.isinf(found.high)
    assert 0.91 <= covered / 500 <= 0.985
    # A gradient far below its noise cannot be bounded away from zero.
    assert open_ended == 0 if signal == 3.0 else open_ended > 250


def test_effective_count_of_a_decaying_average() -> None:
    average = NoiseScaleAverage(decay=0.9)
    for _ in range(300):
        average.add(NoiseSample(1.0, 2.0, 1.0, 8, 2))
    found = average.result()
    assert found.effective_count == pytest.approx(1.9 / 0.1)
    assert (found.scale, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    average.add(NoiseSample(1.0, 42.0, 1.0, 8, 2))
    assert average.result().trace == pytest.approx(2.0 + 40.0 * 0.1)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12), st.floats(0.5, 1.0))
def test_running_sums_equal_weighted_moments(values, decay) -> None:
    average = NoiseScaleAverage(decay)
    for x, y in values:
        average.add(NoiseSample(x, y, 0.0, 8, 2))
    weights = torch.tensor([decay ** (len(values) - 1 - place) for place in range(len(values))], dtype=torch.float64)
    table = torch.tensor(values, dtype=torch.float64)
    mean = (weights[:, None] * table).sum(0) / weights.sum()
    found = average.result()
    assert (found.gradient_square, found.trace) == pytest.approx(tuple(mean.tolist()), abs=1e-9)
    centered = table - mean
    covariance = centered.mT @ (weights[:, None] * centered)
    expected = [covariance[0, 0].item(), covariance[1, 1].item(), covariance[0, 1].item()]
    assert average.state_dict()["sums"][4:] == pytest.approx(expected, abs=1e-9)


def test_undefined_is_said() -> None:
    average = NoiseScaleAverage()
    assert math.isnan(average.result().scale)
    average.add(NoiseSample(-1.0, 2.0, 1.0, 8, 2))
    assert average.result().verdict == (
        "undefined: the gradient behind its noise cannot be estimated yet (effective count 1.0)"
    )
    average.add(NoiseSample(5.0, 2.0, 1.0, 8, 2))
    assert math.isnan(average.result().low)
    assert average.result().verdict.startswith("0.963 samples, of unknown accuracy")
    zero = NoiseScaleAverage()
    zero.add(NoiseSample(1.0, 0.0, 0.0, 8, 2))
    assert "undefined: the noise cannot be estimated yet" in zero.result().verdict
    for square, trace, missing in ((-1.0, 0.5, "the gradient behind its noise"), (1.0, -0.5, "the noise")):
        lost = NoiseScaleAverage()
        lost.add(NoiseSample(square, trace, 0.5, 8, 2))
        assert lost.result().verdict == f"undefined: {missing} cannot be estimated yet (effective count 1.0)"
    assert NoiseScaleAverage().result().effective_count == 0.0


def test_a_restored_average_goes_on() -> None:
    average, other = NoiseScaleAverage(), NoiseScaleAverage()
    for number in range(6):
        average.add(NoiseSample(1.0 + number, 2.0 - number / 7, 1.0, 8, 2))
    other.load_state_dict(average.state_dict())
    for one in (average, other):
        one.add(NoiseSample(3.0, 3.0, 1.0, 8, 2))
    assert other.result() == average.result()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"decay must be in \(0, 1\], got 0"):
        NoiseScaleAverage(0.0)
    with pytest.raises(ValueError, match="expected two or more parts, each with a size, got 1 and 1"):
        noise_sample([1.0], 1.0, [4])
    with pytest.raises(ValueError, match=r"at least 1 sample, got \[4, 0\]"):
        noise_sample([1.0, 1.0], 1.0, [4, 0])
    with pytest.raises(ValueError, match="must be finite, got estimates nan"):
        NoiseScaleAverage().add(NoiseSample(math.nan, 1.0, 1.0, 8, 2))
    with pytest.raises(ValueError, match="a batch of 3 samples cannot be cut into 4 parts"):
        equal_parts(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="unknown samples"):
        equal_parts("text", 2)
    with pytest.raises(ValueError, match="max_rows"):
        History(FIELDS, max_rows=1)


def test_equal_parts_of_nested_batches() -> None:
    images, labels = torch.arange(14).reshape(7, 2), torch.arange(7)
    first, second = equal_parts({"images": images, "more": (labels, "name", torch.tensor(3))}, 2)
    assert torch.equal(first["images"], images[:3])
    assert torch.equal(second["images"], images[3:6])
    assert torch.equal(second["more"][0], labels[3:6])
    assert (second["more"][1], int(second["more"][2])) == ("name", 3)


@pytest.mark.parametrize("sparse", [False, True])
def test_recorder_sees_each_backward_pass_alone(sparse) -> None:
    torch.manual_seed(0)
    table, head = nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 2)
    parameters = [table.weight, head.weight, head.bias]
    losses = [
        lambda part=part: head(head(table(part)).repeat(1, 2)).square().mean()  # used twice: the sum arrives
        for part in torch.tensor([[0, 1], [1, 5], [2, 2]])
    ]
    expected = [[gradient.to_dense() for gradient in torch.autograd.grad(loss(), parameters)] for loss in losses]
    recorder = PartRecorder(parameters)
    for loss in losses:
        loss().backward()
        recorder.end_part(2)
    sums = [sum(float(gradient.double().square().sum()) for gradient in part) for part in expected]
    assert torch.stack(recorder.squares).tolist() == pytest.approx(sums, rel=1e-6)
    assert recorder.sizes == [2, 2, 2]
    accumulated = square_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    whole = [sum(part[index] for part in expected) for index in range(3)]
    assert accumulated.item() == pytest.approx(sum(float(total.double().square().sum()) for total in whole), rel=1e-6)
    recorder.remove()
    head(table(torch.tensor([3]))).sum().backward()
    recorder.end_part(1)
    assert recorder.sizes == [2, 2, 2]


def test_recorder_notices_gradients_that_come_in_pieces() -> None:
    from torch.utils.checkpoint import checkpoint

    layer = nn.Linear(3, 3)
    for reentrant in (False, True):
        recorder = PartRecorder([layer.weight, layer.bias])
        inputs = torch.randn(2, 3, requires_grad=True)
        hidden = checkpoint(layer, checkpoint(layer, inputs, use_reentrant=reentrant), use_reentrant=reentrant)
        assert isinstance(hidden, Tensor)
        hidden.sum().backward()
        recorder.remove()
        assert recorder.divided == reentrant


def test_history_is_bounded_and_restored() -> None:
    history, average = History(FIELDS, max_rows=4), NoiseScaleAverage()
    for step in range(1, 10):
        sample = NoiseSample(1.0, float(step), 0.5, 8, 2)
        average.add(sample)
        history.add(step, numbers_of(sample, average.result()))
    assert len(history) <= 4
    assert history.steps[-1] == 9
    assert history["trace"][-1] == average.result().trace
    other = History(FIELDS)
    other.load_state_dict(history.state_dict())
    assert repr(other.table()) == repr(history.table())
    assert history.table().keys() == {"steps", *FIELDS}


def test_figure_with_gaps() -> None:
    history, average = History(FIELDS), NoiseScaleAverage()
    for step in range(1, 12):
        sample = NoiseSample(-0.5 if step < 3 else 1.0 + step % 3, 100.0 + step, 3.0, 128, 32)
        average.add(sample)
        history.add(step, numbers_of(sample, average.result()))
    figure = noise_scale(average.result(), history)
    above, below = figure.axes
    assert "95 % interval" in above.get_title(loc="left")
    (line, _) = above.lines
    assert math.isnan(line.get_ydata()[0])  # type: ignore[index]
    assert line.get_ydata()[-1] == average.result().scale  # type: ignore[index]
    assert below.get_xlabel() == "optimizer step"
    figure.canvas.draw()


def test_the_interval_of_few_samples_is_where_students_test_does_not_reject() -> None:
    generator = torch.Generator().manual_seed(1)
    bottom = 4.0 + torch.randn(6, generator=generator).double().numpy()
    top = 9.0 + 2.0 * torch.randn(6, generator=generator).double().numpy()
    average = NoiseScaleAverage(decay=1.0)
    for x, y in zip(bottom, top, strict=True):
        average.add(NoiseSample(float(x), float(y), 0.5, 8, 2))
    found = average.result()
    assert found.effective_count == pytest.approx(6.0)
    assert found.scale == pytest.approx(top.mean() / bottom.mean())
    for end in (found.low, found.high):
        # Six samples: with the normal quantile the level would be 0.11, with 6 degrees of freedom 0.058.
        assert stats.ttest_1samp(top - end * bottom, 0.0).pvalue == pytest.approx(0.05, rel=0.03)
    assert found.low < found.scale < found.high


def test_the_figure_holds_scale_interval_signal_and_noise() -> None:
    history, average = History(FIELDS), NoiseScaleAverage()
    generator = torch.Generator().manual_seed(0)
    for step in range(10, 130, 10):
        square, trace = (5.0 + torch.rand(2, generator=generator)).tolist()
        sample = NoiseSample(square, 40 * trace, 3.0 + step, 128, 32)
        average.add(sample)
        history.add(step, numbers_of(sample, average.result()))
    above, below = noise_scale(average.result(), history).axes
    last = average.result()
    assert band(above.collections[0], 120) == pytest.approx((last.low, last.high))
    scale, batch = above.lines
    assert curve(scale)[-1] == pytest.approx((120, last.trace / last.gradient_square))
    assert set(batch.get_ydata()) == {128}
    difference, signal, noise = below.lines
    assert curve(difference) == [(step, 3.0 + step) for step in range(10, 130, 10)]
    assert curve(signal)[-1] == pytest.approx((120, last.gradient_square))
    assert curve(noise)[-1] == pytest.approx((120, last.trace / 128))
    low, high = above.get_ylim()
    assert low < min(last.low, 128)
    assert high > max(last.high, 128)
