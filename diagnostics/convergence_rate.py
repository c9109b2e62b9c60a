"""The rate of linear convergence, measured on a trajectory."""

import torch
from torch import Tensor

ONE_MODE = 1e-9  # relative misfit below which one power explains a coordinate


def fitted_rate(trajectory: Tensor) -> float:
    """Largest factor per step among the coordinates of a trajectory towards 0, by Prony's method.

    Every coordinate is taken for a sum of one or two powers z^t (complex ones swing). Those obey a recurrence
    w_{t+1} = p w_t + q w_{t-1}, whose coefficients follow by least squares, without waiting for the faster power to
    die out as the slope of a logarithm would.

    Args:
        trajectory: Shape (steps + 1, coordinates), at least 5 steps, the minimum at 0.

    Returns:
        The largest |z|: 0 for coordinates that arrive exactly, above 1 if one diverges.

    Raises:
        ValueError: if there are fewer than 5 steps or a value is not finite.
    """
    if len(trajectory) < 6:
        raise ValueError(f"a rate needs at least 5 steps, got {len(trajectory) - 1}")
    if not bool(torch.isfinite(trajectory).all()):
        raise ValueError("a rate needs finite weights, the trajectory overflowed")
    return max(_rate(column) for column in trajectory.double().T)


def _rate(weights: Tensor) -> float:
    # The first step may start from another state than a later one, such as an average's first velocity.
    weights = weights[1:]
    scale = weights.abs().max()
    if scale == 0:
        return 0.0
    older, old, new = weights[:-2] / scale, weights[1:-1] / scale, weights[2:] / scale
    if not bool(old.any()):
        return 0.0
    factor = (new @ old) / (old @ old)
    if (new - factor * old).norm() <= ONE_MODE * old.norm():
        return float(factor.abs())
    fitted = torch.linalg.lstsq(torch.stack([old, older], 1), new[:, None], driver="gelsd").solution.flatten()
    companion = torch.stack([fitted, torch.tensor([1.0, 0.0], dtype=torch.float64)])
    return float(torch.linalg.eigvals(companion).abs().max())
