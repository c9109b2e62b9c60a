"""The state of a training, taken down and put back in place to the bit."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from steepest.diagnostics.common.guards import rng_restored

# Objects of these packages are left alone (compilers' caches, process groups, loggers), except those that hold state.
_LIBRARIES = {"torch", "lightning", "pytorch_lightning", "numpy", "jsonargparse", "rich", "matplotlib"}
_STATEFUL = (nn.Module, Optimizer, LRScheduler, torch.amp.GradScaler, DataLoader, Sampler, IterableDataset)


class Snapshot:
    """Everything that a training changes in some objects and in what they hold.

    That is: values and gradients of tensors; buffers, persistent or not; the state of optimizers, whatever they keep
    it in; schedules, scalers, metrics, random generators; plain attributes, lists and dictionaries. Every object stays
    the one it was, so that references from elsewhere hold. The random state of the process is not part of it.

    Args:
        roots: The objects: a module, its optimizers and so on; at the price of one copy of their tensors.
        leave: Types of objects not to look into; data sets never are.
        tensors: Whether tensors are copied; False for objects that change none, such as loaders.
    """

    def __init__(self, *roots: Any, leave: tuple[type, ...] = (), tensors: bool = True) -> None:
        self._leave = leave
        self._tensors = tensors
        self._undo: list[Callable[[], object]] = []
        self._seen: dict[int, object] = {}  # keeps them alive, so that no other object takes an identity
        pending = list(roots)
        top = {id(root) for root in roots}
        while pending:
            item = pending.pop()
            if id(item) not in self._seen:
                self._seen[id(item)] = item
                pending += self._take(item, id(item) in top)

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for undo in self._undo:
                undo()

    def _take(self, item: Any, is_root: bool) -> list[Any]:
        """Note how to undo changes of one object; return the objects that it holds."""
        if isinstance(item, Tensor):
            return self._take_tensor(item)
        if isinstance(item, dict):
            pairs = dict(item)
            self._undo.append(lambda: (item.clear(), item.update(pairs)))
            return list(pairs.values())
        if isinstance(item, (list, deque)):
            values = list(item)
            self._undo.append(lambda: (item.clear(), item.extend(values)))
            return values
        if isinstance(item, set):
            members = set(item)
            self._undo.append(lambda: (item.clear(), item.update(members)))
            return []
        if isinstance(item, (tuple, frozenset)):
            return list(item)
        if _is_generator(item):
            self._undo.append(_generator_undo(item))
            return []
        if isinstance(item, numpy.ndarray):
            if self._tensors and item.dtype != object:
                array = item.copy()
                self._undo.append(lambda: numpy.copyto(item, array))
            return []
        if hasattr(item, "__dict__") and (is_root or self._is_open(item)):
            attributes = vars(item)
            kept = dict(attributes)
            self._undo.append(lambda: (attributes.clear(), attributes.update(kept)))
            return list(kept.values())
        return []

    def _take_tensor(self, tensor: Tensor) -> list[Any]:
        # Tensors made in inference mode (metrics of a sanity check) cannot be changed outside of it.
        if not self._tensors or tensor.is_inference() or tensor.is_meta:
            return []
        values = tensor.detach().clone()
        self._undo.append(lambda: tensor.copy_(values))
        if not tensor.is_leaf:
            return []
        gradient = tensor.grad
        self._undo.append(lambda: setattr(tensor, "grad", gradient))
        return [] if gradient is None else [gradient]

    def _is_open(self, item: Any) -> bool:
        if isinstance(item, (type, *self._leave)) or not isinstance(type(item), type):
            return False
        if isinstance(item, _STATEFUL):
            return True
        package = type(item).__module__.partition(".")[0]
        return not (isinstance(item, Dataset) or package in _LIBRARIES or package in sys.stdlib_module_names)


@contextmanager
def restored(*roots: Any, leave: tuple[type, ...] = ()) -> Iterator[Snapshot]:
    """Give the objects their state, and Python, NumPy and PyTorch their random state, back on exit.

    Yields:
        The snapshot, to go back to the start in between.
    """
    with rng_restored():
        snapshot = Snapshot(*roots, leave=leave)
        try:
            yield snapshot
        finally:
            snapshot.restore()


def _is_generator(item: Any) -> bool:
    return isinstance(item, (torch.Generator, random.Random, numpy.random.Generator, numpy.random.RandomState))


def _generator_undo(item: Any) -> Callable[[], object]:
    if isinstance(item, torch.Generator):
        state = item.get_state()
        return lambda: item.set_state(state)
    if isinstance(item, random.Random):
        python_state = item.getstate()
        return lambda: item.setstate(python_state)
    if isinstance(item, numpy.random.RandomState):
        numpy_state = item.get_state()
        return lambda: item.set_state(numpy_state)
    bit_generator = item.bit_generator
    bits = bit_generator.state
    return lambda: setattr(bit_generator, "state", bits)
