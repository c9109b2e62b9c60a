"""Surfaces over two weights, from the literature of unconstrained optimization (Moré, Garbow and Hillstrom 1981)."""

from collections.abc import Sequence

from torch import Tensor

from steepest.lightning_modules.objectives.base import Objective


class Beale(Objective):
    """Beale's function: a flat valley between steep walls, its minimum 0 at (3, 0.5).

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (1.0, 1.0)) -> None:
        super().__init__(start, [[3.0, 0.5]], 0.0, ((-1.0, 4.5), (-1.5, 2.0)))

    def value(self, points: Tensor) -> Tensor:
        """The sum over k = 1, 2, 3 of (c_k - x (1 - y^k))^2."""
        x, y = points.unbind(-1)
        return (1.5 - x * (1 - y)) ** 2 + (2.25 - x * (1 - y**2)) ** 2 + (2.625 - x * (1 - y**3)) ** 2


class Himmelblau(Objective):
    """Himmelblau's function: four minima of value 0 around a hill.

    Args:
        start: Where the weights start; it decides which minimum is found.
    """

    def __init__(self, start: Sequence[float] = (0.0, 0.0)) -> None:
        minima = [
            [3.0, 2.0],
            [-2.805118086952745, 3.131312518250573],
            [-3.779310253377747, -3.283185991286170],
            [3.584428340330492, -1.848126526964404],
        ]
        super().__init__(start, minima, 0.0, ((-5.0, 5.0), (-5.0, 5.0)))

    def value(self, points: Tensor) -> Tensor:
        """(x^2 + y - 11)^2 + (x + y^2 - 7)^2."""
        x, y = points.unbind(-1)
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


class Booth(Objective):
    """Booth's function: a tilted quadratic of curvatures 2 and 18, its minimum 0 at (1, 3).

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (-4.0, -3.0)) -> None:
        super().__init__(start, [[1.0, 3.0]], 0.0, ((-5.0, 6.0), (-4.0, 7.0)))

    def value(self, points: Tensor) -> Tensor:
        """(x + 2y - 7)^2 + (2x + y - 5)^2."""
        x, y = points.unbind(-1)
        return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


class Matyas(Objective):
    """Matyas' function: a plate with a long flat diagonal, curvatures 0.04 and 1, its minimum 0 at the origin.

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (8.0, 5.0)) -> None:
        super().__init__(start, [[0.0, 0.0]], 0.0, ((-10.0, 10.0), (-10.0, 10.0)))

    def value(self, points: Tensor) -> Tensor:
        """0.26 (x^2 + y^2) - 0.48 x y."""
        x, y = points.unbind(-1)
        return 0.26 * (x**2 + y**2) - 0.48 * x * y


class ThreeHumpCamel(Objective):
    """The three-hump camel: its minimum 0 at the origin, and a worse one on either side.

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (-0.8, 1.5)) -> None:
        super().__init__(start, [[0.0, 0.0]], 0.0, ((-2.5, 2.5), (-2.5, 2.5)))

    def value(self, points: Tensor) -> Tensor:
        """2 x^2 - 1.05 x^4 + x^6 / 6 + x y + y^2."""
        x, y = points.unbind(-1)
        return 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2


class GoldsteinPrice(Objective):
    """The function of Goldstein and Price: values from 3, the minimum at (0, -1), to a million a step away.

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (0.5, -0.5)) -> None:
        super().__init__(start, [[0.0, -1.0]], 3.0, ((-2.0, 2.0), (-2.5, 1.5)))

    def value(self, points: Tensor) -> Tensor:
        """A product of two polynomials of degree four."""
        x, y = points.unbind(-1)
        first = 1 + (x + y + 1) ** 2 * (19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2)
        second = 30 + (2 * x - 3 * y) ** 2 * (18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2)
        return first * second


class Saddle(Objective):
    """A saddle at the origin between two minima (0, -1) and (0, 1) of value -1/4.

    The start lies almost on the ridge: how soon an optimizer leaves it is what there is to see.

    Args:
        start: Where the weights start.
    """

    def __init__(self, start: Sequence[float] = (1.0, 1e-3)) -> None:
        super().__init__(start, [[0.0, -1.0], [0.0, 1.0]], -0.25, ((-1.5, 1.5), (-1.6, 1.6)))

    def value(self, points: Tensor) -> Tensor:
        """x^2 / 2 - y^2 / 2 + y^4 / 4."""
        x, y = points.unbind(-1)
        return 0.5 * x**2 - 0.5 * y**2 + 0.25 * y**4
