"""The gradient noise scale: how many samples a batch needs before its gradient is more signal than noise.

From arXiv 1812.06162: a batch of b samples has a gradient of expected square |G|² + tr(S)/b, with G the true gradient
and S the covariance of the gradients of single samples. Two sizes tell both; tr(S)/|G|² is the noise scale, in samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Fewer independent samples say nothing about their own spread.
LEAST_COUNT = 4.0


@dataclass(frozen=True)
class NoiseSample:
    """Unbiased estimates from the gradients of one step's parts; single ones are noisy, and may be negative.

    Attributes:
        gradient_square: Estimate of |G|², the squared norm of the true gradient.
        trace: Estimate of tr(S), the variance of the gradient of a single sample, summed over all parameters.
        half_difference: Mean of |g1 - g2|²/2 over all pairs of parts: the noise in a part's gradient, tr(S)/b.
        batch_size: Samples in all parts together.
        part_size: Samples in a part, b.
    """

    gradient_square: float
    trace: float
    half_difference: float
    batch_size: float
    part_size: float


def noise_sample(part_squares: Sequence[float], mean_square: float, part_sizes: Sequence[int]) -> NoiseSample:
    """Estimates from squared norms.

    Args:
        part_squares: Squared norm of each part's gradient; two parts or more.
        mean_square: Squared norm of the mean of those gradients, every part with the same weight.
        part_sizes: Samples in each part; they may differ.

    Raises:
        ValueError: if there are fewer than two parts, the numbers differ, or a part is empty.
    """
    if len(part_squares) < 2 or len(part_squares) != len(part_sizes):
        raise ValueError(f"expected two or more parts, each with a size, got {len(part_squares)} and {len(part_sizes)}")
    if min(part_sizes) < 1:
        raise ValueError(f"every part must have at least 1 sample, got {list(part_sizes)}")
    inverse_sizes = sum(1.0 / size for size in part_sizes)
    return noise_sample_of_sums(sum(part_squares), mean_square, len(part_squares), inverse_sizes, sum(part_sizes))


def noise_sample_of_sums(
    square_sum: float, mean_square: float, parts: float, inverse_size_sum: float, samples: float
) -> NoiseSample:
    """As `noise_sample`, from sums over the parts, which ranks can add up.

    Args:
        square_sum: Sum of the squared norms.
        mean_square: Squared norm of the mean gradient.
        parts: Number of parts, at least 2.
        inverse_size_sum: Sum of 1 / size.
        samples: Sum of the sizes.
    """
    # Parts of different sizes: the harmonic mean b of the sizes, and parts * b for all together, keep this unbiased.
    small, inverse_size = square_sum / parts, inverse_size_sum / parts
    half_difference = (small - mean_square) * parts / (parts - 1.0)
    return NoiseSample(
        gradient_square=(parts * mean_square - small) / (parts - 1.0),
        trace=half_difference / inverse_size,
        half_difference=half_difference,
        batch_size=samples,
        part_size=1.0 / inverse_size,
    )


@dataclass(frozen=True)
class NoiseScale:
    """What the samples so far say; in samples of the batch (of a language model: sequences).

    Attributes:
        scale: tr(S)/|G|², the ratio of the averages; NaN while the average of either is not positive.
        low: Lower end of the interval that covers the true ratio with 95 %; NaN if unknown.
        high: Upper end; infinite if the gradient cannot be distinguished from its noise, NaN if unknown.
        gradient_square: Average of the estimates of |G|².
        trace: Average of the estimates of tr(S).
        effective_count: Number of equally weighted samples that would be as good as the weighted average.
    """

    scale: float
    low: float
    high: float
    gradient_square: float
    trace: float
    effective_count: float

    @property
    def verdict(self) -> str:
        """One line on the scale, or on why there is none."""
        count = f"effective count {self.effective_count:.1f}"
        if math.isnan(self.scale):
            missing = "the noise" if not self.trace > 0 else "the gradient behind its noise"
            return f"undefined: {missing} cannot be estimated yet ({count})"
        if math.isnan(self.low):
            return f"{self.scale:.4g} samples, of unknown accuracy ({count})"
        upper = f"{self.high:.4g}" if math.isfinite(self.high) else "infinity"
        return f"{self.scale:.4g} samples, 95 % interval {self.low:.4g} to {upper} ({count})"


class NoiseScaleAverage:
    """Averages both estimates, with weights that fall back in time, and divides last: a mean of ratios is biased.

    Args:
        decay: Weight of the sample before, relative to the newest, in (0, 1]; 1 weighs all alike. 0.95 lets about 39
            samples count, which is some 10 % of the scale.

    Raises:
        ValueError: if `decay` is out of range.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        self.decay = decay
        # Sum of weights and of their squares; means of |G|² and tr(S); weighted sums of squared deviations, mixed last.
        self._state = [0.0] * 7

    def add(self, sample: NoiseSample) -> None:
        """Take in a sample.

        Raises:
            ValueError: if it is not finite.
        """
        x, y = sample.gradient_square, sample.trace
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"the gradients' squared norms must be finite, got estimates {x} and {y}")
        weight, squares, mean_x, mean_y, xx, yy, xy = self._state
        weight, squares = self.decay * weight + 1.0, self.decay**2 * squares + 1.0
        dx, dy = x - mean_x, y - mean_y
        mean_x, mean_y = mean_x + dx / weight, mean_y + dy / weight
        xx, yy, xy = (
            self.decay * total + one * other
            for total, one, other in ((xx, dx, x - mean_x), (yy, dy, y - mean_y), (xy, dx, y - mean_y))
        )
        self._state = [weight, squares, mean_x, mean_y, xx, yy, xy]

    def result(self) -> NoiseScale:
        """What the samples so far say; all NaN before the first."""
        weight, squares, mean_x, mean_y, xx, yy, xy = self._state
        if weight == 0.0:
            return NoiseScale(*[math.nan] * 5, effective_count=0.0)
        count = weight**2 / squares
        low = high = math.nan
        if count >= LEAST_COUNT:
            # Variances and covariance of the two weighted means.
            scale = 1.0 / (weight * (count - 1.0))
            low, high = _ratio_interval(mean_y, mean_x, yy * scale, xx * scale, xy * scale, _quantile(count - 1.0))
        defined = mean_x > 0.0 and mean_y > 0.0
        return NoiseScale(mean_y / mean_x if defined else math.nan, low, high, mean_x, mean_y, count)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": list(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._state = [float(value) for value in state["sums"]]


def _ratio_interval(
    top: float, bottom: float, top_variance: float, bottom_variance: float, covariance: float, quantile: float
) -> tuple[float, float]:
    """Fieller's interval for a ratio of means, cut off at zero; (NaN, NaN) if it is of no use."""
    square = quantile**2
    # The ratios r with |top - r bottom| <= quantile * its deviation: a r² - 2 b r + c <= 0.
    a = bottom**2 - square * bottom_variance
    b = top * bottom - square * covariance
    c = top**2 - square * top_variance
    root = math.sqrt(max(0.0, b * b - a * c))
    if a > 0.0 and bottom > 0.0:
        return (c / (b + root) if c > 0.0 else 0.0), (b + root) / a
    if a <= 0.0 and c > 0.0 and b + root > 0.0:
        return c / (b + root), math.inf  # the denominator may be zero, the numerator not
    return math.nan, math.nan


def _quantile(freedom: float) -> float:
    """97.5 % quantile of Student's t distribution, by its expansion around the normal one (within 1 % from 3 on)."""
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


# Of a `History` of measurements.
FIELDS = ("scale", "low", "high", "gradient_square", "trace", "half_difference", "batch_size", "part_size")


def numbers_of(sample: NoiseSample, result: NoiseScale) -> dict[str, float]:
    """A measurement and what the average says with it, by `FIELDS`."""
    found = {**vars(sample), **vars(result)}  # the average's values of |G|² and tr(S)
    return {field: float(found[field]) for field in FIELDS}
