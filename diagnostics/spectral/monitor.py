"""Follows the singular values of a network's matrices over a training run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steepest.common.parameter_names import module_names, parameter_names
from steepest.diagnostics.spectral.convolution import (
    circular_singular_values,
    convolution_operator,
    is_circular,
    is_convolution,
)
from steepest.diagnostics.spectral.singular_values import (
    COLD_STEPS,
    WARM_STEPS,
    MatrixNorms,
    golub_kahan,
    matrix_norms,
    random_start,
)

Kind = Literal["linear", "convolution", "other"]


@dataclass(frozen=True)
class SpectralSample:
    """Singular values of every matrix; every tuple has one entry per matrix, NaN where not measured.

    Attributes:
        names: Parameter names, in the module's order.
        kinds: "linear" and "convolution" for the weights of such layers, "other" for embeddings, attention, ...
        sizes: Shorter side of the matrix, the number of its singular values.
        norms: Largest singular value of the weight, of a convolution that of the flattened kernel.
        stable_ranks: Squared Frobenius norm over squared largest singular value, between 1 and `sizes`.
        conditions: Largest over smallest singular value; infinite above 1e7. Only known where all were computed.
        operator_norms: Largest singular value of a convolution as an operator on its real input size.
        update_norms: Largest singular value of the last update.
        update_stable_ranks: As `stable_ranks`, of the update.
        update_conditions: As `conditions`, of the update.
        drifts: Relative error of the fast method for `norms`, where it was compared.
        update_drifts: The same for `update_norms`.
        operator_drifts: The same for `operator_norms`.
        spectra: All singular values of the weights, descending, by name, where kept.
        update_spectra: The same of the updates.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    sizes: tuple[int, ...]
    norms: tuple[float, ...]
    stable_ranks: tuple[float, ...]
    conditions: tuple[float, ...]
    operator_norms: tuple[float, ...]
    update_norms: tuple[float, ...]
    update_stable_ranks: tuple[float, ...]
    update_conditions: tuple[float, ...]
    drifts: tuple[float, ...]
    update_drifts: tuple[float, ...]
    operator_drifts: tuple[float, ...]
    spectra: dict[str, list[float]] = field(default_factory=dict)
    update_spectra: dict[str, list[float]] = field(default_factory=dict)

    @property
    def relative_updates(self) -> tuple[float, ...]:
        """Largest singular value of the update over that of the weight after it."""
        pairs = zip(self.update_norms, self.norms, strict=True)
        return tuple(update / norm if norm > 0 else math.nan for update, norm in pairs)

    @property
    def log10_product(self) -> float:
        """Decimal logarithm of the product of the norms of all linear layers and convolutions (as operators).

        In a chain of such layers and activations of slope at most 1 it bounds how much the output changes with the
        input (arXiv 1706.08498). With normalization layers, residual branches or attention it is a number to follow,
        no bound. NaN if the norm of a convolution is not known.
        """
        factors = [
            operator if kind == "convolution" else norm
            for kind, norm, operator in zip(self.kinds, self.norms, self.operator_norms, strict=True)
            if kind != "other"
        ]
        if not factors or any(math.isnan(factor) for factor in factors):
            return math.nan
        return sum(math.log10(factor) if factor > 0 else -math.inf for factor in factors)

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """Names of the weights with a NaN or infinite entry."""
        return tuple(name for name, norm in zip(self.names, self.norms, strict=True) if math.isnan(norm))

    def scalars(self) -> dict[str, float]:
        """A few numbers on all matrices, by tag; NaN where nothing was measured."""
        drifts = (*self.drifts, *self.operator_drifts)
        return {
            "spectral/norm_max": _over(self.norms, max),
            "spectral/norm_median": _over(self.norms, median),
            "spectral/operator_norm_max": _over(self.operator_norms, max),
            "spectral/log10_product": self.log10_product,
            "spectral/stable_rank_median": _over(self.stable_ranks, median),
            "spectral/stable_rank_min": _over(self.stable_ranks, min),
            "spectral/condition_max": _over(self.conditions, max) if not self._partly_known else math.nan,
            "spectral/update_norm_max": _over(self.update_norms, max),
            "spectral/relative_update_max": _over(self.relative_updates, max),
            "spectral/update_stable_rank_median": _over(self.update_stable_ranks, median),
            "spectral/drift_max": _over(drifts, max),
            "spectral/drift_median": _over(drifts, median),
            "spectral/update_drift_max": _over(self.update_drifts, max),
        }

    @property
    def _partly_known(self) -> bool:
        # Between exact measurements only small matrices are known: their maximum would jump up and down.
        return any(
            math.isnan(condition) and norm > 0 for condition, norm in zip(self.conditions, self.norms, strict=True)
        )


def _over(values: Sequence[float], function: Callable[[list[float]], float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return function(known) if known else math.nan


REFERENCE_STEPS = 30  # from a random start; by then the norm of a convolution does not move any more
OPERATOR_STEPS = 4  # their largest singular values lie closer together than those of matrices
LARGEST_BASIS = 2**26  # entries of the vectors kept during a search; large images get fewer steps


@dataclass(frozen=True)
class Matrix:
    """A parameter of two or more dimensions.

    Attributes:
        name: Plain name of the parameter.
        parameter: The parameter; dimensions after the second count as flattened into it.
        kind: "linear", "convolution" or "other", by the layer that owns it.
        layer: That layer's plain name.
        owner: That layer.
    """

    name: str
    parameter: nn.Parameter
    kind: Kind
    layer: str
    owner: nn.Module


def find_matrices(module: nn.Module) -> list[Matrix]:
    """Every parameter with two or more dimensions, in the module's order, shared ones once; frozen ones as well.

    Parametrized layers (such as those of torch.nn.utils.parametrizations) are "other": what is measured is the
    parameter that is trained.
    """
    found: dict[nn.Parameter, Matrix] = {}
    names = parameter_names(module)
    for owner, layer in module_names(module).items():
        for parameter in owner.parameters(recurse=False):
            if parameter.ndim < 2 or parameter.numel() == 0 or not parameter.is_floating_point():
                continue
            kind: Kind = "other"
            if isinstance(owner, nn.Linear):
                kind = "linear"
            elif is_convolution(owner) and parameter is getattr(owner, "weight", None):
                kind = "convolution"
            found.setdefault(parameter, Matrix(names[parameter], parameter, kind, layer, owner))
    return list(found.values())


class SpectralMonitor:
    """Measures all matrices of a module time and again, each search starting where the last one ended.

    A plain training loop:

        monitor = SpectralMonitor(network)
        shapes = convolution_input_shapes(network, lambda: network(images[:1]))
        for step, batch in enumerate(batches):
            train_on(batch)
            if step % 100 == 0:
                print(monitor.measure(input_shapes=shapes).scalars())

    Args:
        module: The network.
        exact_every: Measurements 1, 1 + exact_every and so on compute all singular values as well; they tell the
            condition numbers and how far the fast method has drifted.
        keep_spectra: Keep those singular values in the sample.

    Attributes:
        count: Measurements so far.

    Raises:
        ValueError: if `exact_every` is below 1.
    """

    def __init__(self, module: nn.Module, exact_every: int = 20, keep_spectra: bool = False) -> None:
        if exact_every < 1:
            raise ValueError(f"exact_every must be at least 1, got {exact_every}")
        self.exact_every = exact_every
        self.keep_spectra = keep_spectra
        self.matrices = find_matrices(module)
        self.count = 0
        self._vectors: dict[str, dict[str, Tensor]] = {"weights": {}, "updates": {}, "operators": {}}

    @property
    def next_is_exact(self) -> bool:
        """Whether the next measurement computes all singular values."""
        return self.count % self.exact_every == 0

    def measure(
        self,
        updates: Mapping[str, Tensor] | None = None,
        input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> SpectralSample:
        """Measure the weights as they are now.

        Args:
            updates: What the optimizer added to parameters, by plain name; None leaves updates out.
            input_shapes: Shape (channels, *sizes) of the input of each convolution, by plain name; those without are
                measured as flattened kernels only. See `convolution_input_shapes`.
        """
        exact = self.next_is_exact
        self.count += 1
        weights = {matrix.name: matrix.parameter for matrix in self.matrices}
        changed = {name: updates[name] for name in weights if updates is not None and name in updates}
        own = self._matrix_norms("weights", weights, exact, WARM_STEPS)
        # Updates turn much faster than weights do.
        step = self._matrix_norms("updates", changed, exact, COLD_STEPS)
        return self._sample(own, step, list(changed), self._operators(input_shapes or {}, exact))

    def _matrix_norms(self, kind: str, named: Mapping[str, Tensor], exact: bool, steps: int) -> MatrixNorms | None:
        if not named:
            return None
        found = matrix_norms(named, self._vectors[kind], exact, steps)
        self._vectors[kind].update(found.vectors)
        return found

    def _operators(self, shapes: Mapping[str, tuple[int, ...]], exact: bool) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for matrix in self.matrices:
            if matrix.kind == "convolution" and matrix.layer in shapes:
                shape = tuple(shapes[matrix.layer])
                found[matrix.name] = self._operator(matrix, shape, exact)
        return found

    def _operator(self, matrix: Matrix, shape: tuple[int, ...], exact: bool) -> Tensor:
        vectors, owner = self._vectors["operators"], matrix.owner
        operator = convolution_operator(owner, shape)
        weight = matrix.parameter.detach()
        like = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
        size = math.prod(shape)
        fresh = random_start(matrix.name, size, like)[None]
        warm = matrix.name in vectors and vectors[matrix.name].shape == (size,)
        start = vectors[matrix.name].to(like)[None] if warm else fresh
        largest = golub_kahan(operator, start, min(OPERATOR_STEPS if warm else COLD_STEPS, size))
        norm = fast = largest.norms[0]
        vector = largest.vectors[0]
        if exact:
            steps = min(REFERENCE_STEPS, max(COLD_STEPS, LARGEST_BASIS // size), size)
            reference = golub_kahan(operator, fresh, steps)
            norm, vector = reference.norms[0], reference.vectors[0]
            if is_circular(owner):
                groups, dilation = owner.groups, owner.dilation
                norm = circular_singular_values(weight, shape[1:], groups, dilation).max().to(fast)  # type: ignore
        vectors[matrix.name] = vector
        return torch.stack([norm, fast if exact else torch.full_like(fast, torch.nan)])

    def _sample(
        self, weights: MatrixNorms | None, updates: MatrixNorms | None, changed: list[str], operators: dict[str, Tensor]
    ) -> SpectralSample:
        names = tuple(matrix.name for matrix in self.matrices)
        own = _table(weights, list(names))
        step = _table(updates, changed)
        images = dict(zip(operators, torch.stack(list(operators.values())).tolist() if operators else [], strict=True))

        def column(table: dict[str, tuple[float, ...]], function: Any) -> tuple[float, ...]:
            return tuple(function(*table[name]) if name in table else math.nan for name in names)

        return SpectralSample(
            names=names,
            kinds=tuple(matrix.kind for matrix in self.matrices),
            sizes=tuple(min(_shape(matrix.parameter)) for matrix in self.matrices),
            norms=column(own, lambda frobenius, norm, smallest, fast: norm),
            stable_ranks=column(own, _stable_rank),
            conditions=column(own, _condition),
            operator_norms=column(images, lambda norm, fast: norm),
            update_norms=column(step, lambda frobenius, norm, smallest, fast: norm),
            update_stable_ranks=column(step, _stable_rank),
            update_conditions=column(step, _condition),
            drifts=column(own, _drift),
            update_drifts=column(step, _drift),
            operator_drifts=column(images, lambda norm, fast: _drift(0.0, norm, 0.0, fast)),
            spectra=_spectra(weights) if self.keep_spectra else {},
            update_spectra=_spectra(updates) if self.keep_spectra else {},
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to measure the same: the number of measurements and the starting vectors."""
        vectors = {kind: {name: vector.cpu() for name, vector in of.items()} for kind, of in self._vectors.items()}
        return {"count": self.count, "vectors": vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.count = state["count"]
        self._vectors = {kind: dict(vectors) for kind, vectors in state["vectors"].items()}


def _shape(parameter: Tensor) -> tuple[int, int]:
    return parameter.shape[0], parameter.shape[1:].numel()


def _table(found: MatrixNorms | None, names: list[str]) -> dict[str, tuple[float, ...]]:
    if found is None:
        return {}
    return dict(zip(names, zip(*found.values.tolist(), strict=True), strict=True))


def _stable_rank(frobenius: float, norm: float, smallest: float, fast: float) -> float:
    return (frobenius / norm) ** 2 if norm > 0 else math.nan


def _condition(frobenius: float, norm: float, smallest: float, fast: float) -> float:
    if math.isnan(smallest) or not norm > 0:
        return math.nan
    return norm / smallest if smallest > 0 else math.inf


def _drift(frobenius: float, norm: float, smallest: float, fast: float) -> float:
    return abs(fast / norm - 1.0) if norm > 0 else math.nan


def _spectra(found: MatrixNorms | None) -> dict[str, list[float]]:
    return {} if found is None else {name: values.tolist() for name, values in found.spectra.items()}


# Of a `History` of samples.
FIELDS = ("norms", "operator_norms", "stable_ranks", "conditions", "update_norms", "update_stable_ranks")
