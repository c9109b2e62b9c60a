"""How gradients flow through a network: norms, update sizes and non-finite entries, layer by layer."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

Role = Literal["weight", "bias", "scale"]

_HALF = (torch.float16, torch.bfloat16)
FIELDS = ("gradient_norms", "update_ratios")  # of a `History` of samples


@dataclass(frozen=True)
class GradientFlow:
    """One sample of the gradient flow; every tuple has one entry per parameter tensor, in the module's order.

    Attributes:
        names: Full parameter names, such as "network.0.weight".
        layers: Path of the module that owns the parameter, such as "network.0".
        roles: "weight" (two or more dimensions), "bias", or "scale" (another vector, as normalization layers have).
        gradient_norms: Euclidean norm of the gradient; zero where there is no gradient.
        weight_norms: Euclidean norm of the parameter.
        zero_fractions: Share of gradient entries that are exactly zero, in [0, 1].
        nonfinite_counts: Number of gradient entries that are NaN or infinite.
        update_norms: Euclidean norm of the change the optimizer made to the parameter; None if not measured.
        sizes: Number of entries.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    roles: tuple[Role, ...]
    gradient_norms: tuple[float, ...]
    weight_norms: tuple[float, ...]
    zero_fractions: tuple[float, ...]
    nonfinite_counts: tuple[int, ...]
    sizes: tuple[int, ...]
    update_norms: tuple[float, ...] | None = None

    @property
    def total_gradient_norm(self) -> float:
        """Norm of all gradients taken as one vector."""
        return math.hypot(*self.gradient_norms)

    @property
    def total_weight_norm(self) -> float:
        """Norm of all parameters taken as one vector."""
        return math.hypot(*self.weight_norms)

    @property
    def zero_fraction(self) -> float:
        """Share of all gradient entries that are exactly zero."""
        zeros = sum(fraction * size for fraction, size in zip(self.zero_fractions, self.sizes, strict=True))
        return zeros / max(1, sum(self.sizes))

    @property
    def nonfinite(self) -> int:
        """Number of gradient entries that are NaN or infinite."""
        return sum(self.nonfinite_counts)

    @property
    def first_nonfinite_layer(self) -> str | None:
        """The first layer, in the module's order, with a NaN or infinite gradient entry."""
        pairs = zip(self.layers, self.nonfinite_counts, strict=True)
        return next((layer for layer, count in pairs if count > 0), None)

    @property
    def update_ratios(self) -> tuple[float, ...] | None:
        """Norm of the update over the norm of the weight before it; about 1e-3 is a rule of thumb for matrices."""
        if self.update_norms is None:
            return None
        return tuple(
            _ratio(update, weight) for update, weight in zip(self.update_norms, self.weight_norms, strict=True)
        )

    @property
    def relative_update(self) -> float | None:
        """Norm of the whole update over the norm of all parameters."""
        return None if self.update_norms is None else _ratio(math.hypot(*self.update_norms), self.total_weight_norm)

    @property
    def largest_relative_update(self) -> float | None:
        """The largest update-to-weight ratio of a layer's weight (vectors start at zero: their ratio says little)."""
        ratios = self.update_ratios
        return None if ratios is None else max((ratios[index] for index in self._compared), default=None)

    @property
    def max_min_ratio(self) -> float:
        """Largest over smallest gradient norm of the layers' weights; infinite if a layer's weight gets no gradient."""
        norms = [self.gradient_norms[index] for index in self._compared]
        if not norms or not all(math.isfinite(norm) for norm in norms):
            return math.nan
        if max(norms) == 0.0:
            return math.inf
        return _ratio(max(norms), min(norms))

    @property
    def _compared(self) -> list[int]:
        # Matrices are compared with matrices; only a network without any is judged by its vectors.
        weights = [index for index, role in enumerate(self.roles) if role == "weight"]
        return weights or [index for index, role in enumerate(self.roles) if role == "scale"]

    def verdict(self, ratio_warning: float = 100.0) -> str:
        """One line on how the gradient norms of the layers' weights compare.

        Args:
            ratio_warning: Above this `max_min_ratio` the gradient counts as vanishing or exploding.

        Returns:
            "healthy", or what is wrong and in which layer.
        """
        if self.first_nonfinite_layer is not None:
            affected = sum(count > 0 for count in self.nonfinite_counts)
            return (
                f"non-finite gradients, first in layer '{self.first_nonfinite_layer}' "
                f"({affected} of {len(self.names)} parameter tensors)"
            )
        compared = self._compared
        silent = [self.layers[index] for index in compared if self.gradient_norms[index] == 0.0]
        if silent:
            more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
            return f"no gradient reaches layer '{silent[0]}'{more}"
        ratio = self.max_min_ratio
        if not ratio > ratio_warning:
            return "healthy"
        smallest = min(compared, key=lambda index: self.gradient_norms[index])
        largest = max(compared, key=lambda index: self.gradient_norms[index])
        # The gradient travels from the output, the last layer, to the input.
        words = "vanishing towards the input" if smallest < largest else "exploding towards the input"
        return (
            f"{words}: the gradient of '{self.layers[largest]}' is {ratio:.3g} times that of '{self.layers[smallest]}'"
        )


def gradient_flow(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    gradient_scale: float = 1.0,
    updates: Sequence[Tensor] | None = None,
) -> GradientFlow:
    """Measure gradients and weights as they are now, with one transfer to the host.

    Call it after `backward`; parameters that do not require a gradient are left out, those without one count as zero.

    Args:
        named_parameters: `module.named_parameters()`, or a part of it.
        gradient_scale: What the gradients are multiplied by at the moment (a loss scaler's scale); divided out.
        updates: What the optimizer added to each trainable parameter, in the same order; None leaves updates out.

    Raises:
        ValueError: if there is no trainable parameter, or the number of updates is another one.
    """
    trainable = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("gradient_flow needs at least one parameter that requires a gradient")
    if updates is not None and len(updates) != len(trainable):
        raise ValueError(f"expected {len(trainable)} updates, one for each trainable parameter, got {len(updates)}")
    names = tuple(name for name, _ in trainable)
    parameters = [parameter.detach() for _, parameter in trainable]
    gradients = [None if parameter.grad is None else _entries(parameter.grad) for _, parameter in trainable]
    present = [gradient for gradient in gradients if gradient is not None]

    rows = [norms(parameters), _scattered(norms(present), gradients), _scattered(_nonzeros(present), gradients)]
    if updates is not None:
        rows.append(norms(updates))
    weight_norms, gradient_norms, nonzeros, *update_rows = to_host(rows)

    sizes = tuple(parameter.numel() for parameter in parameters)
    nonfinite = [0] * len(names)
    for index, gradient in enumerate(gradients):
        if gradient is None:
            continue
        # Squares leave float32's range long before the entries do; only those few tensors are looked at again.
        if not math.isfinite(gradient_norms[index]) or (gradient_norms[index] == 0.0 and nonzeros[index] > 0):
            nonfinite[index] = int((~torch.isfinite(gradient)).sum())
            gradient_norms[index] = math.nan if nonfinite[index] else _scaled_norm(gradient)
    return GradientFlow(
        names=names,
        layers=tuple(_layer(name) for name in names),
        roles=tuple(role_of(name, parameter) for name, parameter in trainable),
        gradient_norms=tuple(norm / gradient_scale for norm in gradient_norms),
        weight_norms=tuple(weight_norms),
        zero_fractions=tuple(1.0 - count / max(1, size) for count, size in zip(nonzeros, sizes, strict=True)),
        nonfinite_counts=tuple(nonfinite),
        sizes=sizes,
        update_norms=tuple(update_rows[0]) if update_rows else None,
    )


def first_nonfinite_layer(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """The first layer whose gradient has a NaN or infinite entry; one transfer to the host when there is none."""
    named = [(name, _entries(parameter.grad)) for name, parameter in named_parameters if parameter.grad is not None]
    measured = norms([gradient for _, gradient in named]).tolist()
    for (name, gradient), norm in zip(named, measured, strict=True):
        # A norm may overflow though all entries are finite.
        if not math.isfinite(norm) and not bool(torch.isfinite(gradient).all()):
            return _layer(name)
    return None


def merge(flows: Sequence[GradientFlow], order: Sequence[str]) -> GradientFlow:
    """Samples of different parameters (of several optimizers, say) as one; the last sample of a parameter counts.

    Args:
        flows: At least one sample; updates are kept if all have them.
        order: Parameter names in the order wanted; names in no sample are left out.
    """
    place = {name: (flow, index) for flow in flows for index, name in enumerate(flow.names)}
    found = [place[name] for name in order if name in place]
    with_updates = all(flow.update_norms is not None for flow in flows)

    def column(field: str) -> tuple:
        return tuple(getattr(flow, field)[index] for flow, index in found)

    fields = ("names", "layers", "roles", "gradient_norms", "weight_norms", "zero_fractions", "nonfinite_counts")
    columns = {field: column(field) for field in (*fields, "sizes")}
    return GradientFlow(**columns, update_norms=column("update_norms") if with_updates else None)


def with_updates(flow: GradientFlow, update_norms: Sequence[float]) -> GradientFlow:
    """The same sample with the norms of the updates, one for each parameter."""
    return replace(flow, update_norms=tuple(update_norms))


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norms as one tensor, accumulated in float32 or better, without a transfer to the host.

    Args:
        tensors: Dense tensors of any floating type and device; the result lies on the device of the first.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(index)
    values: list[Tensor] = [torch.empty(0)] * len(tensors)
    for (_, dtype), indices in groups.items():
        wide = torch.float32 if dtype in _HALF else None
        measured = torch._foreach_norm([tensors[index] for index in indices], 2, dtype=wide)
        for index, norm in zip(indices, measured, strict=True):
            values[index] = norm
    return stacked(values)


def to_host(rows: Sequence[Tensor]) -> list[list[float]]:
    """Rows of numbers in one transfer; empty rows are allowed only if all are empty."""
    return torch.stack(_on_one_device(rows)).tolist()


def _entries(gradient: Tensor) -> Tensor:
    if gradient.layout is torch.strided:
        return gradient.detach()
    if gradient.layout is torch.sparse_coo:
        return gradient.detach().coalesce().values()  # rows that are not stored are zeros
    raise ValueError(f"gradient_flow handles dense and sparse COO gradients, got layout {gradient.layout}")


def _nonzeros(tensors: Sequence[Tensor]) -> Tensor:
    return stacked([torch.count_nonzero(tensor) for tensor in tensors])


def _scattered(values: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
    if values.numel() == len(gradients):
        return values
    places = [index for index, gradient in enumerate(gradients) if gradient is not None]
    full = torch.zeros(len(gradients), dtype=values.dtype, device=values.device)
    full[torch.tensor(places, dtype=torch.long, device=values.device)] = values
    return full


def stacked(values: Sequence[Tensor]) -> Tensor:
    """Single numbers as one tensor on the device of the first, in float64 where the device has it."""
    return torch.stack(_on_one_device(values)) if values else torch.empty(0)


def _on_one_device(values: Sequence[Tensor]) -> list[Tensor]:
    # Counts are exact in float64 to 2^53; Apple's devices have no float64.
    device = values[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return [value.to(device=device, dtype=dtype) for value in values]


def _scaled_norm(tensor: Tensor) -> float:
    largest = tensor.abs().max()
    wide = torch.float32 if tensor.dtype in _HALF else None
    return float(largest) * float(torch.linalg.vector_norm(tensor / largest, dtype=wide))


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def role_of(name: str, parameter: Tensor) -> Role:
    """Weight, bias or scale, by the parameter's name and number of dimensions."""
    if name.endswith("bias"):
        return "bias"
    return "weight" if parameter.ndim >= 2 else "scale"


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0.0:
        return math.inf if numerator > 0.0 else 0.0
    return numerator / denominator
