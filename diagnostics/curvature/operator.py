"""Products of a loss's Hessian, or its Gauss-Newton part, with vectors, without ever forming the matrix."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steepest.diagnostics.common.guards import hooks_removed, values_restored

Matrix = Literal["hessian", "gauss_newton"]
Memory = Literal["retain", "recompute"]
Loss = Callable[[], Tensor]
Reduce = Callable[[Tensor], Tensor]


class CurvatureUnavailableError(RuntimeError):
    """The loss has no curvature that can be computed in this way; the message says why and what would help."""


class Curvature:
    """The Hessian H of a loss at the present weights, or the Gauss-Newton matrix J' H_o J, as an operator.

    Products are exact: gradients are differentiated once more in reverse mode, over a graph that is kept from product
    to product. (Forward over reverse mode is wrong through LayerNorm and BatchNorm, finite differences fail at the
    kinks of ReLU.) Run it under `steepest.diagnostics.common.guards.undisturbed`, without which fused attention and
    compiled modules cannot be differentiated twice; the weights must stay as they are as long as products are taken.

    Args:
        losses: Each computes the loss of one batch, with a graph; their mean is what is measured.
        parameters: The parameters to differentiate by; real, floating point, on one device.
        matrix: "hessian", or "gauss_newton": without the curvature of the network's outputs, hence without negative
            eigenvalues where the loss is convex in them (arXiv 1412.1193).
        network: For "gauss_newton" the module whose outputs the loss is computed from; see `network_outputs`.
        memory: "retain" keeps the graphs of all batches; "recompute" builds each anew for every product, which takes
            about twice the time and the memory of one gradient.
        reduce: Mean over all ranks, called once per product with a vector of all parameters' length; None for one rank.

    Attributes:
        loss: The loss, a number.
        gradient: Its gradient, a vector as long as all parameters together.
        products: How many products were taken.

    Raises:
        CurvatureUnavailableError: if the loss cannot be differentiated in this way.
        FloatingPointError: if the loss or its gradient is not finite.
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        losses: Sequence[Loss],
        parameters: Sequence[Tensor],
        *,
        matrix: Matrix = "hessian",
        network: nn.Module | None = None,
        memory: Memory = "retain",
        reduce: Reduce | None = None,
    ) -> None:
        if matrix not in ("hessian", "gauss_newton"):
            raise ValueError(f"matrix must be 'hessian' or 'gauss_newton', got {matrix!r}")
        if memory not in ("retain", "recompute"):
            raise ValueError(f"memory must be 'retain' or 'recompute', got {memory!r}")
        if matrix == "gauss_newton" and network is None:
            raise ValueError("the Gauss-Newton matrix needs the network whose outputs the loss is computed from")
        if not losses or not parameters:
            raise ValueError("curvature needs at least one loss and one parameter")
        self.losses = list(losses)
        self.parameters: list[Tensor] = list(parameters)
        self.network = network if matrix == "gauss_newton" else None
        self.memory = memory
        self.reduce = reduce
        self.products = 0
        self._graphs: list[_Graph] = []
        flat = self._over_ranks(self._first_pass, 1 + self.size)
        self.loss, self.gradient = float(flat[0]), flat[1:]

    @property
    def size(self) -> int:
        """Number of entries of all parameters."""
        return sum(parameter.numel() for parameter in self.parameters)

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector of length `size`.

        Raises:
            CurvatureUnavailableError: if the loss cannot be differentiated twice.
            FloatingPointError: if the product is not finite.
        """
        self.products += 1
        return self._over_ranks(lambda: self._mean(self._product_of, vector), self.size)

    def loss_at(self, shift: Tensor) -> float:
        """The loss at the present weights plus `shift`; gives up the graphs, so take products before.

        Raises:
            FloatingPointError: if it is not finite.
        """
        self._graphs.clear()

        def shifted() -> Tensor:
            with torch.no_grad(), values_restored(self.parameters):
                torch._foreach_add_(self.parameters, self.split(shift))
                return torch.stack([loss() for loss in self.losses]).mean().reshape(1)

        return float(self._over_ranks(shifted, 1))

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector of length `size` in the shapes of the parameters."""
        parts = vector.split([parameter.numel() for parameter in self.parameters])
        return [part.view_as(own).to(own.dtype) for part, own in zip(parts, self.parameters, strict=True)]

    def random(self, generator: torch.Generator) -> Tensor:
        """A vector of length `size` with normal entries, the same on all ranks; drawn on the CPU for any device."""
        vector = torch.randn(self.size, generator=generator, dtype=self.gradient.dtype).to(self.gradient.device)
        return vector if self.reduce is None else self.reduce(vector)

    # --- passes -----------------------------------------------------------------------------------------------------

    def _first_pass(self) -> Tensor:
        total: Tensor | None = None
        for loss in self.losses:
            graph = self._build(loss)
            flat = torch.cat([graph.loss.reshape(1), _flat(graph.gradients)])
            total = flat if total is None else total + flat
            if self.memory == "retain":
                self._graphs.append(graph)
        assert total is not None
        return total / len(self.losses)

    def _mean(self, product_of: Callable[["_Graph", Tensor], Tensor], vector: Tensor) -> Tensor:
        total: Tensor | None = None
        for index, loss in enumerate(self.losses):
            own = product_of(self._graphs[index] if self._graphs else self._build(loss), vector)
            total = own if total is None else total.add_(own)
        assert total is not None
        return total if len(self.losses) == 1 else total.div_(len(self.losses))

    def _build(self, loss: Loss) -> "_Graph":
        with torch.enable_grad(), differentiable_twice():
            if self.network is None:
                value = loss()
                gradients = torch.autograd.grad(value, self.parameters, create_graph=True, materialize_grads=True)
                _refuse(gradients)
                return _Graph(value.detach(), list(gradients))
            outputs, value = network_outputs(self.network, loss, self.parameters, CurvatureUnavailableError)
            gradients = torch.autograd.grad(value, self.parameters, retain_graph=True, materialize_grads=True)
            (slope,) = torch.autograd.grad(value, outputs, create_graph=True)
            # The gradient of <outputs, cotangent> is linear in the cotangent: differentiating it by the cotangent gives
            # J v by two passes in reverse mode.
            cotangent = torch.zeros_like(outputs, requires_grad=True)
            pulled = torch.autograd.grad(outputs, self.parameters, cotangent, create_graph=True, materialize_grads=True)
            _refuse([*gradients, slope, *pulled])
            return _Graph(value.detach(), list(gradients), outputs, slope, cotangent, list(pulled))

    def _product_of(self, graph: "_Graph", vector: Tensor) -> Tensor:
        with torch.enable_grad(), differentiable_twice():
            if graph.outputs is None:
                return _flat(_derivative(graph.gradients, self.split(vector), self.parameters))
            assert graph.slope is not None
            assert graph.cotangent is not None
            (moved,) = _derivative(graph.pulled, self.split(vector), [graph.cotangent])
            (bent,) = _derivative([graph.slope], [moved], [graph.outputs])
            return _flat(_derivative([graph.outputs], [bent], self.parameters))

    def _over_ranks(self, compute: Callable[[], Tensor], length: int) -> Tensor:
        # A rank that fails hands in NaN, upon which all raise: none is left waiting for the others.
        error: Exception | None = None
        try:
            local = compute().detach()
        except Exception as caught:
            error = caught
            local = torch.full((length,), math.nan, device=self.parameters[0].device, dtype=self.parameters[0].dtype)
        if error is None or self.reduce is not None:
            local = local if self.reduce is None else self.reduce(local)
        if error is not None:
            raise error
        if not math.isfinite(float(local.sum())):
            raise FloatingPointError("the loss, its gradient or its curvature is not finite on the probe batch")
        return local


@dataclass(frozen=True)
class _Graph:
    """One batch: loss, gradients with their graph, and for Gauss-Newton what is between weights, outputs and loss."""

    loss: Tensor
    gradients: list[Tensor]
    outputs: Tensor | None = None
    slope: Tensor | None = None
    cotangent: Tensor | None = None
    pulled: Sequence[Tensor] = ()


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Say in one line why a second derivative is not available.

    Raises:
        CurvatureUnavailableError: in place of PyTorch's own errors.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        line = (text.strip().splitlines() or [""])[0]
        if "torch.utils.checkpoint" in text or "use_reentrant" in text:
            raise CurvatureUnavailableError(
                "activation checkpointing with use_reentrant=True cannot be differentiated by torch.autograd.grad: "
                "pass use_reentrant=False to torch.utils.checkpoint"
            ) from error
        if any(phrase in text for phrase in ("double backward", "differentiate twice", "derivative for")):
            raise CurvatureUnavailableError(
                f"an operation of the network has no second derivative in PyTorch ({line})"
            ) from error
        raise


def _derivative(values: Sequence[Tensor], weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradient of <values, weights> by the inputs; the graph stays; what does not depend on them has none, zero."""
    pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(own) for own in inputs]
    kept, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(kept, inputs, weights, retain_graph=True, materialize_grads=True)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _refuse(gradients: Sequence[Tensor]) -> None:
    if any(gradient.is_sparse for gradient in gradients):
        raise CurvatureUnavailableError("sparse gradients cannot be differentiated: use sparse=False in the embedding")
    # Custom functions marked once_differentiable end in such a node, off the way to the weights: without this look the
    # second derivative would pass them by in silence.
    todo = [gradient.grad_fn for gradient in gradients]
    seen = set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if node.name() == "torch::autograd::Error":
                raise CurvatureUnavailableError("a custom function of the network can be differentiated only once")
            todo += [following for following, _ in node.next_functions]


AGREEMENT = 1e-3  # relative: rounding errors of a backward pass in float32 are 1e-6, of tensor cores 1e-4


def network_outputs(
    network: nn.Module,
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    unavailable: Callable[[str], Exception] = RuntimeError,
) -> tuple[Tensor, Tensor]:
    """The tensor that the loss is computed from, and the loss, in one graph.

    It is what the network's own `forward` returned while the loss was computed, or else what the last called of its
    children did. That the parameters act on the loss through this tensor alone is checked by the gradient.

    Args:
        network: The network, or the module around it that computes the loss.
        loss: Calls the network and computes a loss, a scalar.
        parameters: The parameters whose way to the loss is checked.
        unavailable: Makes the error from a message.

    Raises:
        RuntimeError: (or what `unavailable` makes) if there is no such tensor.
    """
    seen: dict[bool, Tensor] = {}  # by whether it is the network's own output

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 0 and output.requires_grad:
            seen[module is network] = output

    with hooks_removed([module.register_forward_hook(keep) for module in (network, *network.children())]):
        value = loss()
    outputs = seen.get(True, seen.get(False))
    name = type(network).__name__
    if outputs is None or outputs is value:
        raise unavailable(
            f"the Gauss-Newton matrix needs the outputs of {name} as one tensor, and neither its forward nor a child's "
            "returned one: use matrix='hessian'"
        )
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    slopes = torch.autograd.grad(value, outputs, retain_graph=True, materialize_grads=True)
    through = torch.autograd.grad(outputs, parameters, slopes, retain_graph=True, materialize_grads=True)
    missing = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(torch._foreach_sub(gradients, through))))
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if missing > AGREEMENT * total:
        raise unavailable(
            f"the loss of {name} does not depend on the parameters through its outputs alone (penalties, several calls "
            "or several outputs), so it has no Gauss-Newton matrix: use matrix='hessian'"
        )
    return outputs, value
