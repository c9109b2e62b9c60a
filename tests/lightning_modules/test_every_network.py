"""What every network of the folder promises, found and built as the command line does it."""

import inspect
import io
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.lightning_modules import networks
from steepest.lightning_modules.networks.width_scaling import Parametrization
from steepest.optim.core.width_scaling import width_ratios
from tests.lightning_modules.small_images import SmallImages

every_network = pytest.mark.parametrize("name", networks.__all__)

TOKENS, LENGTH = 17, 8
IMAGES = {"input_shape": SmallImages.input_shape, "num_classes": SmallImages.num_classes}
TEXT = {"vocabulary_size": TOKENS, "block_size": LENGTH}


def options_of(name: str) -> dict[str, Any]:
    """What the data fixes about the network, and a small width where it has one to choose."""
    arguments = inspect.signature(getattr(networks, name)).parameters
    facts = next((facts for facts in (IMAGES, TEXT) if next(iter(facts)) in arguments), None)
    assert facts is not None, f"{name} takes neither input_shape and num_classes nor vocabulary_size and block_size"
    small = {"width_mult": 0.125} if "width_mult" in arguments else {}
    return {key: value for key, value in (facts | small).items() if key in arguments}


def is_text(name: str) -> bool:
    return "vocabulary_size" in options_of(name)


def batch(name: str, size: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs and the targets of cross-entropy, along its second dimension."""
    generator = torch.Generator().manual_seed(1)
    if is_text(name):
        tokens = torch.randint(TOKENS, (size, LENGTH + 1), generator=generator)
        return tokens[:, :-1], tokens[:, 1:]
    return torch.randn(size, *SmallImages.input_shape, generator=generator), torch.arange(size)


def make(name: str, seed: int = 0, **others: Any) -> nn.Module:
    torch.manual_seed(seed)
    module = getattr(networks, name)(**options_of(name), **others)
    initialize = getattr(module, "initialize_from_data", None)
    if initialize is not None:  # as ImageClassifier does it
        initialize(batch(name, size=32)[0])
    return module


def loss_of(module: nn.Module, name: str) -> Tensor:
    inputs, targets = batch(name)
    scores = module(inputs)
    classes = TOKENS if is_text(name) else SmallImages.num_classes
    assert scores.shape == (*targets.shape, classes)
    return functional.cross_entropy(scores.flatten(0, -2), targets.flatten())


def moved(module: nn.Module) -> nn.Module:
    """Away from a start at which output layers may be 0 and hide what is below them."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


@every_network
def test_every_parameter_gets_a_finite_gradient(name):
    module = moved(make(name))
    loss_of(module, name).backward()
    trained = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained
    for key, parameter in trained.items():
        assert parameter.grad is not None, f"{key} has no part in the output"
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"the gradient of {key} is 0 everywhere"


@every_network
def test_the_start_follows_from_the_seed_alone(name):
    first, second, other = make(name), make(name), make(name, seed=1)
    pairs = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
    assert all(torch.equal(one, same) for (_, one), same in pairs)
    weights = [nn.utils.parameters_to_vector(module.parameters()) for module in (first, other)]
    assert not torch.equal(*weights)
    assert torch.equal(first.eval()(batch(name)[0]), second.eval()(batch(name)[0]))


@every_network
def test_a_saved_state_gives_the_same_scores(name):
    module, other = moved(make(name)), make(name, seed=1)
    loss_of(module, name)  # moves running statistics
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    inputs = batch(name)[0]
    assert torch.equal(other.eval()(inputs), module.eval()(inputs))


@every_network
def test_scores_of_an_example_do_not_depend_on_the_others_in_evaluation(name):
    module = moved(make(name)).eval()
    inputs = batch(name)[0]
    torch.testing.assert_close(module(inputs)[:1], module(inputs[:1]), rtol=1e-4, atol=1e-5)


@every_network
def test_a_parametrization_is_noted_for_the_optimizer(name):
    parameters = inspect.signature(getattr(networks, name)).parameters
    if "parametrization" not in parameters:
        assert not width_ratios(make(name))
        return
    for parametrization in get_args(Parametrization):
        module = make(name, parametrization=parametrization)
        assert bool(width_ratios(module)) == (parametrization == "mup")
        moved(module)
        assert loss_of(module, name).isfinite()


@every_network
def test_the_command_trains_it_for_a_step(steepest, name):
    words = ["--model", "ImageClassifier", "--data", "tests.lightning_modules.small_images.SmallImages"]
    if is_text(name):
        words = ["--model", "LanguageModel", "--data", "TinyText", "--data.block_size", str(LENGTH)]
    words += ["--model.network", name, "--data.batch_size", "4", "--data.evaluation_batch_size", "4"]
    if "width_mult" in options_of(name):
        words += ["--model.network.width_mult", "0.125"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]
    outcome = steepest("fit", *words, *quiet, "--trainer.fast_dev_run", "true")
    assert (outcome.code, outcome.err) == (0, "")


@every_network
def test_the_help_describes_every_option(name):
    found = getattr(networks, name)
    text = inspect.getdoc(found) or ""
    assert len(text.splitlines()[0]) > 20
    for option in inspect.signature(found).parameters:
        assert f"\n    {option}: " in text
