"""What may be expected of every optimizer, as checks that any optimizer can be put to.

    from functools import partial
    from optim.contract import CHECKS, Case

    case = Case("mine", make=lambda module, lr: MyOptimizer(module.parameters(), lr=lr), lr=0.01)
    for name, check in CHECKS.items():
        check(case)             # ContractError in one line, or nothing

Each check builds small models of its own and needs no data. Where an algorithm cannot satisfy one by its nature, the
exception stands in `EXCEPTIONS` with the reason.
"""

from optim.contract import gradients, learning, state
from optim.contract.case import CHECKS, Case, ContractError, check
from optim.contract.exceptions import EXCEPTIONS, exception

__all__ = ["CHECKS", "EXCEPTIONS", "Case", "ContractError", "check", "exception", "gradients", "learning", "state"]
