"""Train real models on real data with any optimizer, and see what the optimizer is doing while it trains."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `optim/`, `callbacks/` and the other parts stand beside this folder, installed they stand inside it. A
# checkout always takes its own, whichever checkout is installed.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "optim" / "registry.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
