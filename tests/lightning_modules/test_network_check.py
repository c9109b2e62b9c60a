"""Networks that do not fit the data, found out before training."""

import pytest
import torch
from torch import nn

from steepest.lightning_modules.network_check import check_fit
from steepest.lightning_modules.networks import ResNet18, SimpleMLP, ViT

IMAGES = torch.randn(1, 3, 32, 32)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SimpleMLP((1, 8, 8)), r"SimpleMLP does not take the data's images of shape \(3, 32, 32\): [a-zA-Z0-9]+"),
        (nn.Conv2d(1, 4, 3), r"Conv2d does not take the data's images of shape \(3, 32, 32\): Given groups=1"),
        (ViT((3, 16, 16)), "images must have 16x16 pixels, as the network was made for, not 32x32"),
        (SimpleMLP((3, 32, 32), 4), "SimpleMLP gives 4 scores, but the data has 10 classes"),
        (nn.Conv2d(3, 4, 3), r"Conv2d must return scores of shape \(batch, classes\) from images, not of shape \(1, 4"),
        (Pair(), r"Pair must return scores of shape \(batch, classes\) from images, not of type tuple"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{message}[^\n]*\Z"):
        check_fit(network, IMAGES, 10)


def test_the_network_stays_as_it_is() -> None:
    network = nn.Sequential(ResNet18(width_mult=0.1), nn.Dropout(0.5)).train()
    network[0].stem_norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    check_fit(network, IMAGES, 10)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert [name for name, child in network.named_modules() if not child.training] == ["0.stem_norm"]


def test_more_scores_than_classes_and_other_types_are_fine() -> None:
    check_fit(SimpleMLP((3, 32, 32), 12).double(), IMAGES, 10)


def test_a_compiled_network_is_not_compiled_for_it() -> None:
    network = SimpleMLP((3, 32, 32))
    calls = []
    network.compile(backend=lambda graph, inputs: calls.append(graph) or graph.forward)
    check_fit(network, IMAGES, 10)
    assert not calls
