"""Muon: momentum whose matrices are orthogonalized (Jordan et al. 2024; arXiv 2502.16982)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.optim.checks import check_number
from steepest.optim.core.algorithm import Algorithm, State, Statistics, register_algorithm
from steepest.optim.core.composite import composite_of
from steepest.optim.core.implementation import fastest
from steepest.optim.core.options import Options, SharedOptions
from steepest.optim.core.roles import ParameterRole
from steepest.optim.core.sharing import map_over_ranks, ranks
from steepest.optim.core.width_scaling import WidthRule
from steepest.optim.registry import OPTIMIZERS, unknown_name
from steepest.optim.spectral.matrices import (
    as_matrices,
    batches,
    check_matrices,
    check_some_matrix,
    from_matrices,
    matrix_or_fallback,
    matrix_shape,
)
from steepest.optim.spectral.orthogonalize import Method, Precision, check_method, default_precision, orthogonalize

Scale = Literal["original", "match_rms_adamw", "spectral"]

# On an accelerator small matrices are limited by the number of kernels, not by arithmetic; above this size a matrix
# keeps the device busy alone.
BATCH_ELEMENTS = 1 << 22


class MuonOptions(Options):
    """The momentum of Muon, and how it is orthogonalized.

    Attributes:
        momentum: How much of the averaged gradient stays from step to step, in [0, 1).
        nesterov: Orthogonalize momentum * average + (1 - momentum) * gradient in place of the average.
        scale: Factor of an m x n step: "match_rms_adamw" 0.2 sqrt(max(m, n)); "original" sqrt(max(1, m / n));
            "spectral" sqrt(m / n).
        method: "newton_schulz"; "gram", the same polynomials on the small Gram matrix, cheaper for kernels and other
            long matrices; "exact", by eigenvectors.
        coefficients: Polynomials: original (torch.optim.Muon's), polar_express, quintic, deepseek, cubic.
        steps: Number of Newton-Schulz steps; None: as many as the coefficients are meant for (5; deepseek 10).
        eps: Lower bound of the Frobenius norm that a direction is divided by: what is far smaller makes a small step.
        precision: Type of the orthogonalization; None: bfloat16 for newton_schulz, as torch.optim.Muon; float16 on GPUs
            and float32 elsewhere for gram; the weights' own for exact.
        share_work: In a distributed run each rank orthogonalizes a share, and the results are exchanged as they are:
            the same weights, to the bit, from every number of ranks. It costs the transfer of 2 bytes a weight and step
            (in bfloat16). Switch it off where ranks train different models.
        batch_elements: Equal matrices are orthogonalized together up to this many elements; None: one by one on a CPU,
            4 million elsewhere.
    """

    momentum: float = 0.95
    nesterov: bool = True
    scale: Scale = "original"
    method: Method = "newton_schulz"
    coefficients: str = "original"
    steps: int | None = None
    eps: float = 1e-7
    precision: Precision | None = None
    share_work: bool = True
    batch_elements: int | None = None


@register_algorithm
class Muon(Algorithm):
    """B <- momentum B + (1 - momentum) G, W <- (1 - lr weight_decay) W - lr scale(m, n) orthogonalize(B).

    With nesterov, momentum B + (1 - momentum) G is orthogonalized, which meets the gradient once more.
    """

    name = "muon"
    options = MuonOptions

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse options out of range and parameters that are not matrices."""
        check_number("momentum", group["momentum"], high=1.0)
        check_method(group["method"], group["coefficients"], group["steps"], group["eps"])
        if group["scale"] not in get_args(Scale):
            raise ValueError(unknown_name("scale", group["scale"], list(get_args(Scale))))
        if group["precision"] is not None and group["precision"] not in get_args(Precision):
            raise ValueError(unknown_name("precision", group["precision"], list(get_args(Precision))))
        if group["method"] == "gram" and group["precision"] == "bfloat16":
            raise ValueError("method 'gram' can overflow in bfloat16: use precision float16 or float32")
        if group["batch_elements"] is not None:
            check_number("batch_elements", group["batch_elements"])
        check_matrices(group)

    def width_rule(self, options: Mapping[str, Any], weight: Tensor) -> WidthRule:
        """What makes the spectral norm of steps grow as sqrt(fan_out / fan_in) (arXiv 2310.17813), as its scale may."""
        rule, shape = options.get("scale", self.defaults["scale"]), matrix_shape(weight.shape, options.get("split", 1))

        def factor(fan_in: float, fan_out: float) -> float:
            at_base = scale_factor(rule, shape[0] / fan_out, shape[1] / fan_in)
            return math.sqrt(fan_out / fan_in) * at_base / scale_factor(rule, *shape)

        return factor

    def initial_state(self, weight: Tensor, group: Mapping[str, Any]) -> State:
        """The momentum."""
        return {"momentum_buffer": torch.zeros_like(weight)}

    def update(
        self,
        group: Mapping[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        statistics: Statistics | None,
    ) -> None:
        """One step, in the operations and the order of torch.optim.Muon."""
        shared = group["share_work"] and ranks() > 1
        if weights[0].device.type == "cpu" and not shared and not group["batch_elements"]:
            # One weight after another: intermediate results stay in the cache, in memory that is used again.
            for index in range(len(weights)):
                one = slice(index, index + 1)
                _step(group, weights[one], gradients[one], states[one], statistics[one] if statistics else None)
        else:
            _step(group, weights, gradients, states, statistics)


def _step(
    group: Mapping[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    states: list[State],
    statistics: Statistics | None,
) -> None:
    """The step of some weights."""
    momentum, lr, weight_decay = group["momentum"], group["lr"], group["weight_decay"]
    split = group.get("split", 1)
    buffers = [state["momentum_buffer"] for state in states]
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)
    directions = list(torch._foreach_lerp(gradients, buffers, momentum)) if group["nesterov"] else buffers
    steps = orthogonalized(directions, group)
    scales = [scale_factor(group["scale"], *matrix_shape(weight.shape, split)) for weight in weights]
    if statistics is not None:
        for entry, weight, direction, step, scale in zip(statistics, weights, directions, steps, scales, strict=True):
            entry |= measured(weight, direction, step, scale, weight_decay, split)
    torch._foreach_mul_(weights, 1 - lr * weight_decay)
    for weight, step, scale in zip(weights, steps, scales, strict=True):
        weight.add_(step, alpha=-lr * scale)


def scale_factor(rule: str, rows: float, columns: float) -> float:
    """What an orthogonal step of a matrix with `rows` outputs and `columns` inputs is multiplied by.

    Args:
        rule: "original": sqrt(max(1, rows / columns)). "match_rms_adamw" (arXiv 2502.16982): 0.2 sqrt(max(rows,
            columns)), a root mean square of 0.2 as AdamW's steps have, so that AdamW's learning rates fit. "spectral"
            (arXiv 2310.17813): sqrt(rows / columns), which changes outputs of any width by the same.
        rows: Number of outputs.
        columns: Number of inputs.
    """
    if rule == "original":
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns)) if rule == "match_rms_adamw" else math.sqrt(rows / columns)


def orthogonalized(directions: Sequence[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
    """Orthogonalize the matrices of weights, the work shared by the ranks of a distributed run.

    Args:
        directions: In the shapes of the weights.
        group: Options of algorithm "muon".

    Returns:
        Tensors of the same shapes, in the type of the computation.
    """
    split = group.get("split", 1)
    matrices = [matrix for direction in directions for matrix in as_matrices(direction, split).unbind()]
    device, widest = matrices[0].device, max((matrix.dtype for matrix in matrices), key=lambda dtype: dtype.itemsize)
    dtype = (
        getattr(torch, group["precision"]) if group["precision"] else default_precision(group["method"], device, widest)
    )
    elements = group["batch_elements"]
    if elements is None:
        elements = 0 if device.type == "cpu" else BATCH_ELEMENTS
    members = batches(matrices, elements)
    inputs = [
        matrices[batch[0]] if len(batch) == 1 else torch.stack([matrices[index] for index in batch])
        for batch in members
    ]

    def run(tensor: Tensor) -> Tensor:
        return orthogonalize(tensor, group["method"], group["coefficients"], group["steps"], group["eps"], dtype)

    if group["share_work"] and ranks() > 1:
        costs = [tensor.numel() * min(tensor.shape[-2:]) for tensor in inputs]
        results = map_over_ranks(run, inputs, costs, dtype)
    else:
        results = [run(tensor) for tensor in inputs]
    by_matrix: list[Tensor] = [torch.empty(0)] * len(matrices)
    for batch, result in zip(members, results, strict=True):
        for index, matrix in zip(batch, result.unbind() if len(batch) > 1 else [result], strict=True):
            by_matrix[index] = matrix
    return [
        from_matrices(by_matrix[i] if split == 1 else torch.stack(by_matrix[i * split : (i + 1) * split]), direction)
        for i, direction in enumerate(directions)
    ]


def measured(
    weight: Tensor, direction: Tensor, step: Tensor, scale: float, weight_decay: float, split: int
) -> dict[str, Tensor]:
    """How orthogonal a step is, and how far the weights are from the optimum that the decay leads to.

    Args:
        weight: The weight before the step.
        direction: What was orthogonalized.
        step: The result.
        scale: Its scale factor.
        weight_decay: Decoupled decay.
        split: Number of matrices in the weight.

    Returns:
        "orthogonality_error": |O O^T - I|_F / sqrt(rank), of the worst matrix; 0 for singular values all 1.
        "frank_wolfe_residual", with decay only: Muon is Frank-Wolfe on matrices of spectral norm up to r = scale /
        weight_decay, and 1 + <G, W> / (r |G|_*) tells how far it is from done: 0 at the optimum, 1 at W = 0.
    """
    matrices = as_matrices(step, split).to(weight.dtype)
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    error = wide @ wide.mT
    error.diagonal(dim1=-2, dim2=-1).sub_(1)
    found = {"orthogonality_error": torch.linalg.matrix_norm(error).amax() / math.sqrt(wide.shape[-2])}
    if weight_decay > 0:
        # The nuclear norm is the inner product with the polar factor: no decomposition, which a GPU would wait for.
        gradient = as_matrices(direction, split)
        polar = orthogonalize(gradient, coefficients="polar_express", steps=10, eps=1e-30, dtype=weight.dtype)
        bound = scale / weight_decay * (gradient * polar).sum().clamp(min=torch.finfo(weight.dtype).tiny)
        found["frank_wolfe_residual"] = 1 + (direction * weight).sum() / bound
    return found


class FallbackOptions(Options):
    """AdamW for all that is not a hidden matrix.

    Attributes:
        fallback_lr_scale: AdamW's learning rate in multiples of `lr`, at least 0.
        fallback_betas: AdamW's decay rates, each in [0, 1).
        fallback_eps: AdamW's eps, at least 0.
        fallback_weight_decay: AdamW's weight decay; None: `weight_decay`.
    """

    fallback_lr_scale: float = 1.0
    fallback_betas: tuple[float, float] = (0.9, 0.999)
    fallback_eps: float = 1e-8
    fallback_weight_decay: float | None = None


LIKE_ADAMW = MuonOptions(scale="match_rms_adamw")


@OPTIMIZERS.register
def muon(
    module: nn.Module,
    lr: float = 1e-3,
    *,
    own: MuonOptions = LIKE_ADAMW,
    weight_decay: float = 0.01,
    fallback: FallbackOptions,
    shared: SharedOptions,
) -> Optimizer:
    """Muon (Jordan et al. 2024): steps of hidden matrices have singular values near 1; everything else takes AdamW.

    Hidden linear, attention and convolution weights (flattened to out x rest) are Muon's. Embeddings, the output layer,
    the first convolution, depth-wise kernels, norms and biases are AdamW's, in the same optimizer object.

    Args:
        lr: Learning rate, at least 0. With the default scale one that suits AdamW suits Muon; with the others up to ten
            times as much.
        weight_decay: Decoupled decay, at least 0, of matrices, embeddings and the output layer; each step takes away
            the fraction lr * weight_decay (of the learning rate before the scale).

    Returns:
        A `Composite` of the algorithms "muon" and "adamw".

    Raises:
        ValueError: if an option is out of range, nothing is trainable, or no parameter is a matrix for Muon.
    """
    check_number("fallback_lr_scale", fallback.fallback_lr_scale)
    decay = weight_decay if fallback.fallback_weight_decay is None else fallback.fallback_weight_decay
    adamw = {
        "lr": lr * fallback.fallback_lr_scale,
        "betas": fallback.fallback_betas,
        "eps": fallback.fallback_eps,
        "weight_decay": decay,
        "fused": fastest(torch.optim.AdamW, module).get("fused"),
    }
    options = {"muon": vars(own), "adamw": adamw}

    def route(role: ParameterRole) -> tuple[str, str]:
        return matrix_or_fallback(role, "muon", "adamw")

    optimizer = composite_of(module, route, lr, weight_decay, options, shared)
    check_some_matrix(module, optimizer.param_groups, "muon", "adamw")
    return optimizer
