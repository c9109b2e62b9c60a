"""The optimizers of timm by name, `timm_adopt` to `timm_sgdw`; the extra `timm` installs the package."""

import inspect
from collections.abc import Callable
from typing import Any, cast

from torch.optim import Optimizer

from steepest.optim.libraries.families import Family
from steepest.optim.libraries.wrapping import foreign_factory
from steepest.optim.registry import OPTIMIZERS

LEFT_OUT = {"adahessian": "it needs second derivatives, which a backward pass does not compute"}

_PAST = "past steps are weighed with their learning rates, so it keeps moving at a learning rate of 0"
UNSCHEDULABLE = {
    "adafactor": "without lr its steps have a relative size of their own",
    "cadafactor": "without lr its steps have a relative size of their own",
    "crmsproptf": _PAST,
    "madgrad": _PAST,
    "madgradw": _PAST,
    "rmsproptf": _PAST,
    "rmsproptfc": _PAST,
    "rmsproptfw": _PAST,
}


def _names() -> list[str]:
    from timm.optim import get_optimizer_info, list_optimizers

    # Those of apex and bitsandbytes stand there by the import path of packages that few machines have.
    names = [str(name) for name in list_optimizers()]
    found = [name for name in names if not isinstance(get_optimizer_info(name).opt_class, str)]
    return [name for name in found if name not in LEFT_OUT]


def _make(name: str) -> Callable[..., Any]:
    from timm.optim import get_optimizer_class, get_optimizer_info
    from timm.optim.muon import Muon

    info = get_optimizer_info(name)
    algorithm = cast(type[Optimizer], get_optimizer_class(name, bind_defaults=False))
    defaults = dict(info.defaults or {})
    if info.has_momentum and inspect.signature(algorithm).parameters["momentum"].default == 0:
        defaults.setdefault("momentum", 0.9)  # as timm's own factory
    return foreign_factory(
        f"timm_{name}",
        __name__,
        algorithm,
        f"{algorithm.__name__} of timm: {info.description}.",
        defaults=defaults,
        unschedulable=UNSCHEDULABLE.get(name),
        by_matrix=algorithm is Muon,
    )


OPTIMIZERS.add_family(
    Family(
        prefix="timm",
        requires="timm",
        summary="The optimizers of timm.",
        names=_names,
        make=_make,
        left_out=LEFT_OUT,
    )
)
