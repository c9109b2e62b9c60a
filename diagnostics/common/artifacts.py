"""Files of a run written so that a reader never sees half of one."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray
from PIL import Image

from steepest.common.atomic import replacing
from steepest.common.plotting import DOTS_PER_INCH


def render(figure: Figure) -> NDArray[numpy.uint8]:
    """The figure as an image of shape (height, width, 3) at 150 dots an inch; never by pyplot, which keeps figures."""
    figure.set_dpi(DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # the layout is done: further drawings need not repeat it
    return numpy.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, folder: Path, name: str) -> NDArray[numpy.uint8]:
    """Write `<folder>/<name>.png` and `<folder>/<name>.svg`; return the image as `render` does."""
    image = render(figure)
    with replacing(folder / f"{name}.png") as path:
        imsave(path, image)
    with replacing(folder / f"{name}.svg") as path:
        figure.savefig(path)
    return image


def encode_gif(frames: Sequence[Image.Image], palette: Image.Image, seconds: float) -> bytes:
    """An endless animation that rests on its last frame.

    Args:
        frames: RGB images of one size, at least one.
        palette: An image with a palette, the colors of all frames, so that their background does not flicker.
        seconds: How long one round takes, without the rest.
    """
    images = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = [max(40, round(1000 * seconds / len(images)))] * len(images)
    duration[-1] = 1500
    content = io.BytesIO()
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
    return content.getvalue()


def save_json(content: Any, path: Path) -> None:
    """Write `content` as JSON; NaN and infinity, which JSON does not know, become null."""
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content
