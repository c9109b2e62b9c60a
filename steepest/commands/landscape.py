"""What `steepest landscape` does once model, data and checkpoint are in place."""

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from lightning.pytorch.trainer.states import TrainerState
from lightning.pytorch.utilities import move_data_to_device
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.tensorboard.writer import SummaryWriter

from steepest.callbacks.checkpoints import read_checkpoint
from steepest.callbacks.landscape_run import measure_landscape, of_rank_zero, trained_weights
from steepest.callbacks.landscapes import Landscape, LandscapeOptions
from steepest.callbacks.loss_landscape import FOLDER
from steepest.callbacks.probe import MeasurementUnavailableError
from steepest.common.run import run_seed
from steepest.diagnostics.common.artifacts import save_figure, save_json
from steepest.diagnostics.curvature.operator import CurvatureUnavailableError
from steepest.diagnostics.landscape.figures import animation, draw
from steepest.diagnostics.landscape.trajectory import NamedWeights, Trajectory, fitting, recorded
from steepest.run.checkpoints import run_folder_of

NEWS_INTERVAL = 5.0  # seconds between lines about the progress


def run_landscape(
    trainer: Any,
    options: LandscapeOptions,
    checkpoint: Path,
    others: Sequence[str],
    batches: int,
    animate: bool,
    output_dir: str | None,
) -> None:
    """Evaluate, draw and write a landscape; every rank calls it, with the checkpoint's weights in the module.

    Args:
        trainer: The trainer, in the middle of a command.
        options: What to draw.
        checkpoint: Whose weights are in the middle.
        others: Further checkpoints.
        batches: How many of the first training batches the loss is averaged over.
        animate: Write a GIF if there is a trajectory.
        output_dir: Folder for the files; None makes one in the folder of the checkpoint's run.

    Raises:
        FileNotFoundError: if a checkpoint is missing.
        ValueError: if something cannot be drawn; the message says what and why.
    """
    module = trainer.lightning_module
    home = run_folder_of(checkpoint)

    def place(fingerprint: str) -> Path:
        name = f"{options.directions}_{options.batch_norm}_{fingerprint[:8]}"
        folder = home / "landscape" / name if output_dir is None else Path(output_dir)
        return folder / "landscape.npz"

    def gathered() -> tuple[dict[str, NamedWeights], Trajectory | None]:
        states = {_short(path): read_checkpoint(path) for path in map(Path, others)}
        if len(states) < len(others):
            raise ValueError(f"--checkpoints must name different files, got {', '.join(others)}")
        return _gathered(options, states, home, checkpoint, module)

    states, trajectory = of_rank_zero(trainer, gathered)
    start = time.monotonic()
    try:
        landscape = measure_landscape(
            trainer,
            module,
            of_rank_zero(trainer, lambda: _first_batches(trainer, batches)),
            options,
            others=states,
            trajectory=trajectory,
            file=place,
            progress=_News(),
        )
    except (CurvatureUnavailableError, MeasurementUnavailableError) as error:
        raise ValueError(str(error)) from error
    if landscape.warning is not None:
        rank_zero_warn(landscape.warning)
    if trainer.is_global_zero:
        folder = place(landscape.surface.fingerprint).parent
        seconds = round(time.monotonic() - start, 3)
        facts = {"checkpoint": str(checkpoint), "checkpoints": list(others), "step": trainer.global_step}
        save_json({**facts, "batches": batches, "seconds": seconds, **landscape.report()}, folder / "landscape.json")
        _draw(landscape, folder, home, trainer.global_step, animate)
        _print(landscape, folder, seconds)
    trainer.strategy.barrier("landscape")


def _gathered(
    options: LandscapeOptions, states: dict[str, dict[str, Any]], home: Path, checkpoint: Path, module: Any
) -> tuple[dict[str, NamedWeights], Trajectory | None]:
    """Other weights and the trajectory that the options need."""
    weights = {name: content["state_dict"] for name, content in states.items()}
    if options.directions == "checkpoints" and len(weights) != options.dimensions:
        raise ValueError(
            f"--directions checkpoints needs {options.dimensions} other checkpoint"
            f"{'s' if options.dimensions > 1 else ''} with --dimensions {options.dimensions}, --checkpoints names "
            f"{len(weights) or 'none'}"
        )
    step = read_checkpoint(checkpoint)["global_step"]
    trajectory = recorded(home / FOLDER, step)
    if options.directions != "trajectory":
        return weights, trajectory if trajectory.steps and options.directions == "eigenvectors" else None
    if not weights:
        if not trajectory.steps:
            raise ValueError(
                f"no trajectory was recorded in {home / FOLDER}: train with --trainer.callbacks+=LossLandscape, or "
                "name checkpoints of the run with --checkpoints"
            )
        return {}, trajectory
    passed = Trajectory(limit=max(4, len(weights)), every=1)
    names = trained_weights(module)
    for name, content in sorted(states.items(), key=lambda item: item[1]["global_step"]):
        if content["global_step"] in passed.steps:
            raise ValueError(f"--checkpoints names two of step {content['global_step']}: a trajectory has one of each")
        passed.add(content["global_step"], dict(zip(names, fitting(weights[name], names, name), strict=True)))
    return {}, passed


def _first_batches(trainer: Any, count: int) -> list[Any]:
    """The first training batches of the first epoch on the CPU, as one process alone would see them."""
    module = trainer.lightning_module
    # What a loader draws must not depend on what was drawn before.
    seed_everything(run_seed(), verbose=False)
    datamodule = trainer.datamodule
    if datamodule is None:
        loader = module.train_dataloader()
    else:
        datamodule.trainer = _Alone(trainer)
        try:
            loader = datamodule.train_dataloader()
        finally:
            datamodule.trainer = trainer
    # A plain loader, or several in a list or a mapping: as in training.
    combined = CombinedLoader(loader, "max_size_cycle")
    batches = []
    for batch, _, _ in islice(iter(combined), count):
        batch = trainer.precision_plugin.convert_input(batch)
        batches.append(move_data_to_device(trainer.strategy.batch_to_device(batch), torch.device("cpu")))
    if not batches:
        raise ValueError(f"{type(datamodule or module).__name__} has no training batches")
    return batches


class _Alone:
    """The trainer as a data module sees it in a process of its own that does not train."""

    world_size = 1
    global_rank = local_rank = node_rank = 0
    train_dataloader = None

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.state = TrainerState()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


class _News:
    """Says now and then how far the work is."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, points: int, seconds: float) -> None:
        first, self._first = self._first, self._first or (done, seconds)
        if first is None or time.monotonic() - self._said < NEWS_INTERVAL or done == points:
            return
        self._said = time.monotonic()
        left = (seconds - first[1]) / max(1, done - first[0]) * (points - done)
        print(f"{done} of {points} points, about {left:.0f} s left", flush=True)


def _draw(landscape: Landscape, folder: Path, home: Path, step: int, animate: bool) -> None:
    title = f"Loss around the weights of step {step:,}"
    surface, labels = landscape.surface, landscape.plane.labels
    writer = SummaryWriter(str(home))
    try:
        drawn = draw(surface, labels, title, landscape.note(), landscape.path, landscape.points)
        for name, figure in drawn.items():
            image = save_figure(figure, folder, name)
            writer.add_image(f"landscape/{folder.name}/{name}", image, global_step=step, dataformats="HWC")
        for tag, value in landscape.scalars().items():
            writer.add_scalar(f"{tag.replace('landscape/', f'landscape/{folder.name}/')}", value, step)
    finally:
        writer.close()
    if animate and landscape.walks:
        animation(folder / "trajectory.gif", surface, labels, "Training", landscape.path)


def _print(landscape: Landscape, folder: Path, seconds: float) -> None:
    scalars = landscape.scalars()
    mode = landscape.options.batch_norm
    print(
        f"loss {scalars[f'landscape/{mode}_loss']:.4g} at the weights, {scalars[f'landscape/{mode}_lowest']:.4g} to "
        f"{scalars[f'landscape/{mode}_highest']:.4g} on {landscape.surface.losses.size} points ({landscape.note()}); "
        f"{seconds:.1f} s"
    )
    for path in sorted(folder.iterdir()):
        print(f"  {path}")


def _short(path: Path) -> str:
    """A name for a picture: of the run and the file."""
    folder = run_folder_of(path)
    return "/".join(part for part in (folder.parent.name, folder.name, path.stem) if part)
