"""Names of a module's parts without what wrappers put into them: one name for one parameter, wrapped or not."""

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, nn

Own = TypeVar("Own", bound=Tensor)

# The attribute under which a wrapper holds what it wraps -> its class. The object decides, not the name: a model may
# have a part called `module`. A class whose file was never imported has no objects, and importing some takes seconds.
_WRAPPERS = (
    ("module", "torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("module", "torch.nn.parallel.data_parallel", "DataParallel"),
    ("_orig_mod", "torch._dynamo.eval_frame", "OptimizedModule"),
    ("_fsdp_wrapped_module", "torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"),
    (
        "_checkpoint_wrapped_module",
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "ActivationWrapper",
    ),
)


def module_names(module: nn.Module) -> dict[nn.Module, str]:
    """The plain name of a module ("") and of every module inside, in the order of `named_modules()`."""
    by_path, names = {"": module}, {module: ""}
    for path, child in module.named_modules():
        if path:
            parent_path, _, attribute = path.rpartition(".")
            parent, by_path[path] = by_path[parent_path], child
            names[child] = names[parent] if _is_wrapper(parent, attribute) else _joined(names[parent], attribute)
    return names


def parameter_names(module: nn.Module) -> dict[nn.Parameter, str]:
    """The plain name of every parameter, in the order of `module.named_parameters()`; a shared one has its first.

    `torch.compile`, (Distributed)DataParallel, FSDP and activation checkpointing leave no trace in it.

    Raises:
        ValueError: if two parameters have one name.
    """
    return _names(module, lambda owner: owner.named_parameters(recurse=False))


def buffer_names(module: nn.Module) -> dict[Tensor, str]:
    """The same of buffers.

    Raises:
        ValueError: if two buffers have one name.
    """
    return _names(module, lambda owner: owner.named_buffers(recurse=False))


def without_wrappers(name: str) -> str:
    """A name from a state dictionary whose module is not at hand, without what cannot be a user's own name."""
    inserted = {attribute for attribute, _, _ in _WRAPPERS} - {"module"}
    return ".".join(part for part in name.split(".") if part not in inserted)


def _names(module: nn.Module, parts: Callable[[nn.Module], Iterable[tuple[str, Own]]]) -> dict[Own, str]:
    names: dict[Own, str] = {}
    for owner, place in module_names(module).items():
        for name, part in parts(owner):
            names.setdefault(part, _joined(place, name))
    seen: set[str] = set()
    for name in names.values():
        if name in seen:
            raise ValueError(f"two parts of {type(module).__name__} are called {name!r} without wrappers: rename one")
        seen.add(name)
    return names


def _is_wrapper(parent: nn.Module, attribute: str) -> bool:
    return any(
        attribute == inside and home in sys.modules and isinstance(parent, getattr(sys.modules[home], kind))
        for inside, home, kind in _WRAPPERS
    )


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
