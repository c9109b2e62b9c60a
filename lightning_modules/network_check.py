"""Whether a network and the data go together, found out before training and said in one line."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def check_fit(network: nn.Module, images: Tensor, num_classes: int) -> None:
    """Let a network classify images in evaluation mode; its state, its modes and random numbers stay as they are.

    Args:
        network: From images to scores.
        images: An example of shape (batch, channels, height, width).
        num_classes: Number of classes of the data.

    Raises:
        ValueError: if the network does not take the images, or does not give a score for every class.
    """
    name, shape = type(network).__name__, tuple(images.shape[1:])
    like = next(network.parameters(), images)
    modes = {child: child.training for child in network.modules()}
    network.eval()
    try:
        # Not through __call__, which would compile a compiled network for this one image.
        scores = network.forward(images.to(like.device, like.dtype))
    except (RuntimeError, AssertionError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} does not take the data's images of shape {shape}: {reason}") from error
    finally:
        for child, mode in modes.items():
            child.training = mode
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[0] != len(images):
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"type {type(scores).__name__}"
        raise ValueError(f"{name} must return scores of shape (batch, classes) from images, not of {found}")
    if scores.shape[1] < num_classes:
        raise ValueError(f"{name} gives {scores.shape[1]} scores, but the data has {num_classes} classes")
