"""The paths of several optimizers over one function of two weights."""

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from steepest.diagnostics.common.artifacts import encode_gif
from steepest.diagnostics.landscape.objective_path import Surface
from steepest.diagnostics.landscape.objective_path_figures import draw_surface
from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import Cell, grouped, of_stage, others
from steepest.study.analysis.wording import number
from steepest.study.figures.curves import cells_of
from steepest.study.figures.key import Key
from steepest.study.figures.style import figure_kind, legend, legend_height
from steepest.study.question.axes import cell_name
from steepest.study.question.definition import Axis, Study
from steepest.study.trials.results import TrialResult

FILE = "trajectory.npz"
SIZE = (4.6, 3.7)  # inches
FRAMES = 40
DOTS = 96  # an inch, of the animation
LARGEST = 2_000_000  # bytes of an animation


@figure_kind
def trajectories(
    study: Study, results: Sequence[TrialResult], folder: Path, by: str | None = None, animate: bool = True
) -> list[Drawing]:
    """One figure and one animation for every function, of all paths over it.

    Args:
        study: What was asked, of trials that minimize a `ToyObjective` in two dimensions with `ObjectiveTrajectory`.
        results: What came out.
        folder: Of the study; `trajectory.npz` and `config.yaml` are read from its run folders.
        by: Axis that colors stand for; by default the first that does not change the function.
        animate: Whether there is an animation too.
    """
    # What changes the function changes the picture; all else is a path in it.
    rows = [axis.name for axis in study.axes if _changes_objective(axis)]
    by = by or next(iter(others(study, *rows)), study.axes[0].name)
    drawings = []
    for labels, members in grouped(study, of_stage(results, "final"), rows).items():
        paths: dict[Cell, dict[str, NDArray[Any]]] = {}
        surface: Any = None
        for cell, own in cells_of(study, members, by, rows).items():
            run = next((folder / each.run_folder for each in own if (folder / each.run_folder / FILE).is_file()), None)
            if run is None:
                continue
            surface = surface or objective_of(run)
            paths[cell] = _path(run / FILE)
        if surface is not None and surface.limits is not None:
            drawings += _drawings(study, by, rows, labels, paths, surface, animate)
    if not drawings:
        raise NothingToDraw(f"No run of a function of two weights has left a {FILE}; ObjectiveTrajectory writes it.")
    return drawings


def objective_of(run: Path) -> Any:
    """The function that a run minimized, built again from its `config.yaml`.

    Raises:
        NothingToDraw: if it can't be.
    """
    try:
        chosen = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]["init_args"]["objective"]
        module, _, name = chosen["class_path"].rpartition(".")
        return getattr(importlib.import_module(module), name)(**(chosen.get("init_args") or {}))
    except Exception as error:  # anybody's class, by import path
        raise NothingToDraw(f"The function of {run.parent.name} cannot be built again: {error}.") from error


def _changes_objective(axis: Axis) -> bool:
    return any(key == "model" or key.startswith("model.objective") for key in axis.keys)


def _path(path: Path) -> dict[str, NDArray[Any]]:
    with numpy.load(path) as table:
        steps, weights, gaps = table["steps"], table["weights"], table["gaps"]
    kept = numpy.isfinite(weights).all(1)
    return {"steps": steps[kept], "weights": weights[kept], "gaps": gaps[kept]}


def _drawings(
    study: Study,
    by: str,
    rows: Sequence[str],
    labels: Cell,
    paths: Mapping[Cell, Mapping[str, NDArray[Any]]],
    surface: Surface,
    animate: bool,
) -> list[Drawing]:
    key = Key.of(study, [by, *others(study, by, *rows)], paths)
    name = cell_name(study, rows, labels) or type(surface).__name__
    steps = max(int(path["steps"][-1]) for path in paths.values())
    figure, axes = _canvas(key, paths, surface)
    for cell, look in key.looks.items():
        points = paths[cell]["weights"]
        axes.plot(points[:, 0], points[:, 1], **look.line(linewidth=1.3))
        axes.plot(points[-1, 0], points[-1, 1], look.marker, color=look.color, mec="white", ms=7, zorder=4)
    ends = "; ".join(f"{key.text(cell)} {number(float(paths[cell]['gaps'][-1]))}" for cell in key.looks)
    what = (
        f"Paths of the weights over {name}, {steps:,} steps, from the white dot; marks are their ends, the star is a "
        "minimum. Shades are the loss above its minimum."
    )
    group = f"Paths over {name}"
    still = Drawing(
        title=group if not animate else "Whole paths",
        caption=what,
        alternative=f"Paths of optimizers over the contours of {name}. Loss above its minimum at the end: {ends}.",
        figure=figure,
        group=group if animate else "",
    )
    if not animate:
        return [still]
    moving = Drawing(
        title="Step by step",
        caption=what,
        alternative=f"Animation of the same paths over {steps:,} steps.",
        image=_animation(key, paths, surface, steps),
        suffix=".gif",
        group=group,
    )
    return [still, moving]


def _canvas(key: Key, paths: Mapping[Cell, Mapping[str, NDArray[Any]]], surface: Surface) -> tuple[Figure, Axes]:
    height = SIZE[1] + legend_height(key.texts, SIZE[0])
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False)
    draw_surface(figure, axes, surface, [path["weights"] for path in paths.values()])
    minima = surface.minima.detach().cpu().numpy()
    axes.plot(minima[:, 0], minima[:, 1], "*", color="black", mec="white", ms=12, zorder=5)
    start = next(iter(paths.values()))["weights"][0]
    axes.plot(*start, "o", color="white", mec="black", ms=7, zorder=5)
    axes.set_xlabel("first weight")
    axes.set_ylabel("second weight")
    axes.set_title(" ")
    handles = [Line2D([], [], label=key.text(cell), **look.points(markersize=6)) for cell, look in key.looks.items()]
    legend(figure, handles)
    return figure, axes


def _animation(key: Key, paths: Mapping[Cell, Mapping[str, NDArray[Any]]], surface: Surface, steps: int) -> bytes:
    figure, axes = _canvas(key, paths, surface)
    figure.set_dpi(DOTS)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    background: Any = canvas.copy_from_bbox(figure.bbox)
    lines = {cell: axes.plot([], [], animated=True, **look.line(linewidth=1.3))[0] for cell, look in key.looks.items()}
    heads = {
        cell: axes.plot([], [], look.marker, color=look.color, mec="white", ms=7, animated=True)[0]
        for cell, look in key.looks.items()
    }
    text = axes.text(0.0, 1.02, "", transform=axes.transAxes, animated=True)
    # The first steps are the longest: frames lie closer together there.
    stops = sorted({round(steps * (frame / (FRAMES - 1)) ** 2) for frame in range(FRAMES)})
    frames = []
    for stop in stops:
        canvas.restore_region(background)
        for cell in key.looks:
            points = paths[cell]["weights"][paths[cell]["steps"] <= stop]
            lines[cell].set_data(points[:, 0], points[:, 1])
            heads[cell].set_data(points[-1:, 0], points[-1:, 1])
            axes.draw_artist(lines[cell])
            axes.draw_artist(heads[cell])
        text.set_text(f"step {stop:,}")
        axes.draw_artist(text)
        frames.append(Image.fromarray(numpy.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = _palette(frames[-1], [look.color for look in key.looks.values()])
    content = encode_gif(frames, palette, seconds=6.0)
    while len(content) > LARGEST and len(frames) > 2:
        frames = [*frames[: -1 : math.ceil(len(content) / LARGEST) + 1], frames[-1]]
        content = encode_gif(frames, palette, seconds=6.0)
    return content


def _palette(image: Image.Image, colors: Sequence[str]) -> Image.Image:
    """Colors for all frames; thin lines keep theirs, however few pixels they have."""
    band = max(1, image.height // (2 * len(colors)))
    larger = Image.new("RGB", (image.width, image.height + band * len(colors)))
    larger.paste(image)
    for place, color in enumerate(colors):
        top = image.height + band * place
        larger.paste(color, (0, top, image.width, top + band))
    return larger.quantize(200)
