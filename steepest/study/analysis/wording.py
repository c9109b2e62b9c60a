"""Names and numbers as a reader wants them."""

import math
from collections.abc import Sequence

from matplotlib.axis import XAxis, YAxis

from steepest.study.analysis.selection import DIFFERENCE
from steepest.study.question.definition import Study

LONGEST_LABEL = 26
LABELS = {
    "val/loss": "validation loss",
    "val/accuracy": "validation accuracy",
    "val/gap": "loss above its minimum",
    "val/perplexity": "validation perplexity",
    "test/loss": "test loss",
    "test/accuracy": "test accuracy",
    "train/loss": "training loss",
    "train/accuracy": "training accuracy",
    "train/epoch_loss": "training loss, epoch mean",
    "train/epoch_accuracy": "training accuracy, epoch mean",
    "train/gap": "loss above its minimum",
    "train/distance": "distance to the minimum",
    "grad/total_norm": "gradient norm",
    "grad/max_min_ratio": "largest / smallest layer gradient",
    "spectral/norm_max": "largest spectral norm",
    "sharpness/batch": "sharpness",
    "sharpness/batch_rise": "rise of the loss at SAM's radius",
    "noise/batch_scale": "gradient noise scale (samples)",
    "update/relative_size": "update / weight norm",
    "update/budget_active": "share of updates at the budget",
    "update/budget_active_layers": "share of layers at the budget",
    "update/solver_gap_max": "relative gap of the solver, largest of the layers",
    "update/solver_iterations_max": "iterations of the solver, most of the layers",
    "time/train_seconds": "training time (s)",
}


def scalar_label(study: Study, name: str) -> str:
    """Name of a scalar, or of a difference of two, for an axis."""
    if name == study.metric.name:
        return study.metric.label
    parts = DIFFERENCE.split(name)
    if len(parts) == 2:
        return f"{scalar_label(study, parts[0])} − {scalar_label(study, parts[1])}"
    return LABELS.get(name, name)


def is_share(name: str) -> bool:
    """Whether a scalar, or a difference of two, is a share of one, which people read in per cent."""
    return all(part.endswith("accuracy") for part in DIFFERENCE.split(name))


def axis_text(study: Study, name: str) -> str:
    """Label of the axis of a scalar, with its unit."""
    return wrapped(f"{scalar_label(study, name)} (%)" if is_share(name) else scalar_label(study, name))


def set_unit(axis: XAxis | YAxis, name: str) -> None:
    """Let an axis show shares in per cent."""
    if is_share(name):
        axis.set_major_formatter(lambda value, place: f"{100 * value:g}")


def value_text(name: str, value: float) -> str:
    """A value of a scalar."""
    return f"{100 * value:.2f} %" if is_share(name) and math.isfinite(value) else number(value)


def target_text(name: str, value: float) -> str:
    """A target as it was given."""
    return f"{100 * value:g} %" if is_share(name) else f"{value:g}"


def wrapped(label: str) -> str:
    """A label of an axis on two lines if it is long."""
    if len(label) <= LONGEST_LABEL:
        return label
    middle = min((place for place, letter in enumerate(label) if letter == " "), key=lambda p: abs(p - len(label) // 2))
    return f"{label[:middle]}\n{label[middle + 1 :]}"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def spoken(names: Sequence[str], conjunction: str = "and") -> str:
    """A list in words: "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def aligned(name: str, values: Sequence[float]) -> list[str]:
    """Values of a scalar for a column, with the decimals that give the largest four digits."""
    if is_share(name):
        return [value_text(name, value) for value in values]
    sizes = [abs(value) for value in values if math.isfinite(value) and value != 0]
    if not sizes or max(sizes) >= 1e4 or min(sizes) < 1e-3:
        return [number(value) for value in values]
    decimals = 3 - math.floor(math.log10(max(sizes)))
    return [f"{value:,.{decimals}f}" if math.isfinite(value) else number(value) for value in values]


def number(value: float) -> str:
    """A number in a label or a table: four digits, without needless zeros."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    size = abs(value)
    if size and not 1e-3 <= size < 1e6:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 1e4 else f"{value:,.4g}"
