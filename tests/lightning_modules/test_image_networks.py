"""ResNet-18, ViT, MLP-Mixer and airbench's network: sizes, references, laws, starts and refusals."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from steepest.lightning_modules.networks import AirbenchCNN, MLPMixer, ResNet18, ViT
from steepest.lightning_modules.networks.patches import PatchEmbedding
from steepest.optim.core.roles import parameter_roles

NETWORKS = [ResNet18, ViT, MLPMixer, AirbenchCNN]
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
SMALL: dict[Any, dict[str, Any]] = {
    ResNet18: {"width_mult": 0.125},
    ViT: {"width": 32, "heads": 4, "depth": 2, "mlp_width": 48},
    MLPMixer: {"width": 32, "depth": 2, "patch_mlp_width": 24, "feature_mlp_width": 48},
    AirbenchCNN: {"width_mult": 0.125},
}


def make(network: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    module = network(**{**SMALL[network], **options})
    if isinstance(module, AirbenchCNN):
        module.initialize_from_data(torch.randn(32, *options.get("input_shape", (3, 32, 32))))
    return module


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def dense(fan_in: int, fan_out: int) -> int:
    return fan_in * fan_out + fan_out


def vit_parameters(width: int, depth: int, mlp: int, patch: int = 48, tokens: int = 65, classes: int = 10) -> int:
    block = dense(width, 3 * width) + dense(width, width) + dense(width, mlp) + dense(mlp, width) + 4 * width
    return dense(patch, width) + width + tokens * width + depth * block + 2 * width + dense(width, classes)


def mixer_parameters(width: int, depth: int, across: int, features: int, patches: int = 64) -> int:
    block = dense(patches, across) + dense(across, patches) + dense(width, features) + dense(features, width)
    return dense(48, width) + depth * (block + 4 * width) + 2 * width + dense(width, 10)


def airbench_parameters(first: int, second: int, third: int) -> int:
    convolutions = 9 * (24 * first + first**2 + first * second + second**2 + second * third + third**2)
    return 12 * 24 + 24 + convolutions + 4 * (first + second + third) + 10 * third


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (ResNet18, 11_173_962),  # the published size of the CIFAR form
        (ViT, 3_195_146),
        (ViT, vit_parameters(256, 6, 512)),
        (lambda: ViT(width_mult=0.5), vit_parameters(128, 6, 256)),
        (lambda: ViT((3, 32, 32), 7, width=96, heads=3, depth=2, mlp_width=40), vit_parameters(96, 2, 40, classes=7)),
        (MLPMixer, 4_360_970),
        (MLPMixer, mixer_parameters(256, 8, 128, 1024)),
        (lambda: MLPMixer(width_mult=0.25, depth=3), mixer_parameters(64, 3, 32, 256)),
        (AirbenchCNN, 1_972_792),
        (AirbenchCNN, airbench_parameters(64, 256, 256)),
        (lambda: AirbenchCNN(width_mult=0.5), airbench_parameters(32, 128, 128)),
    ],
)
def test_number_of_parameters(build: Callable[[], nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        assert count(build()) == parameters


def test_resnet_of_half_the_width_has_a_quarter_of_the_convolution_weights() -> None:
    with torch.device("meta"):
        whole, half = (
            sum(p.numel() for p in ResNet18(width_mult=factor).parameters() if p.ndim == 4) for factor in (1, 0.5)
        )
    assert whole - 27 * 64 == 4 * (half - 27 * 32)


def reference_resnet(network: ResNet18) -> nn.Sequential:
    """The same network of torchvision's blocks, with copied weights."""
    widths = [network.get_submodule(f"stage{stage}")[0].conv1.out_channels for stage in (1, 2, 3, 4)]  # type: ignore
    channels, stages = widths[0], []
    for stage, width in enumerate(widths, start=1):
        for index in range(2):
            stride = 2 if stage > 1 and index == 0 else 1
            down = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            stages.append(BasicBlock(channels, width, stride, None if stride == 1 and channels == width else down))
            channels = width
    stem = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    reference = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    own = network.state_dict()
    assert [value.shape for value in own.values()] == [value.shape for value in reference.state_dict().values()]
    reference.load_state_dict(dict(zip(reference.state_dict(), own.values(), strict=True)))
    return reference


def randomized(module: nn.Module) -> nn.Module:
    """Other than at the start, where gains are 1, offsets and output layers 0, and much is hidden."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("training", [True, False])
def test_resnet_is_that_of_torchvisions_blocks(training: bool) -> None:
    network = randomized(make(ResNet18)).train(training)
    reference = reference_resnet(network).train(training)  # type: ignore[arg-type]
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(network(images), reference(images), rtol=1e-4, atol=1e-5)
    # The running statistics as well.
    for mine, theirs in zip(network.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_vit_is_that_of_torchs_encoder_layers() -> None:
    network: Any = randomized(make(ViT)).eval()
    layers = []
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        state = {
            "self_attn.in_proj_weight": block.attention.qkv.weight, "self_attn.in_proj_bias": block.attention.qkv.bias,
            "self_attn.out_proj.weight": block.attention.projection.weight,
            "self_attn.out_proj.bias": block.attention.projection.bias,
            "linear1.weight": block.mlp.hidden.weight, "linear1.bias": block.mlp.hidden.bias,
            "linear2.weight": block.mlp.output.weight, "linear2.bias": block.mlp.output.bias,
            "norm1.weight": block.norm1.weight, "norm1.bias": block.norm1.bias,
            "norm2.weight": block.norm2.weight, "norm2.bias": block.norm2.bias,
        }  # fmt: skip
        layer.load_state_dict(state)
        layers.append(layer)
    images = torch.randn(3, 3, 32, 32)
    tokens = patches_by_hand(images, network.patches.projection)
    tokens = torch.cat([network.class_token.repeat(3, 1, 1), tokens], dim=1) + network.position
    for layer in layers:
        tokens = layer.train()(tokens)  # in training mode without dropout: no fused path
    expected = network.output(functional.layer_norm(tokens, (32,), network.norm.weight, network.norm.bias)[:, 0])
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def patches_by_hand(images: Tensor, projection: nn.Conv2d) -> Tensor:
    """Tokens of shape (batch, patches, width): cut, flattened, multiplied."""
    size, rows = projection.kernel_size[0], []
    for top in range(0, images.shape[2], size):
        for left in range(0, images.shape[3], size):
            patch = images[:, :, top : top + size, left : left + size].reshape(len(images), -1)
            rows.append(patch @ projection.weight.flatten(1).T + projection.bias)
    return torch.stack(rows, dim=1)


def test_mixer_is_its_formula() -> None:
    network: Any = randomized(make(MLPMixer, depth=1))
    images = torch.randn(2, 3, 32, 32)
    x = patches_by_hand(images, network.patches.projection)
    block = network.blocks[0]
    f, g = block.across_patches, block.across_features
    normalized = functional.layer_norm(x, (32,), block.norm1.weight, block.norm1.bias)
    hidden = functional.gelu(torch.einsum("hp,bpc->bhc", f.hidden.weight, normalized) + f.hidden.bias[:, None])
    x = x + torch.einsum("ph,bhc->bpc", f.output.weight, hidden) + f.output.bias[:, None]
    normalized = functional.layer_norm(x, (32,), block.norm2.weight, block.norm2.bias)
    x = x + functional.linear(
        functional.gelu(functional.linear(normalized, *g.hidden.parameters())), *g.output.parameters()
    )
    x = functional.layer_norm(x, (32,), network.norm.weight, network.norm.bias).mean(1)
    torch.testing.assert_close(
        network(images), functional.linear(x, *network.output.parameters()), rtol=1e-4, atol=1e-5
    )


def shuffled_patches(images: Tensor, size: int, order: Tensor) -> Tensor:
    side = images.shape[3] // size
    patches = functional.unfold(images, size, stride=size)[:, :, order]
    assert len(order) == side**2
    return functional.fold(patches, images.shape[2:], size, stride=size)


def test_vit_knows_places_only_by_its_positions() -> None:
    network: Any = randomized(make(ViT)).eval()
    images, order = torch.randn(2, 3, 32, 32), torch.randperm(64)
    shuffled = shuffled_patches(images, 4, order)
    assert not torch.allclose(network(images), network(shuffled), atol=1e-3)
    with torch.no_grad():
        network.position[:, 1:] = network.position[:, 1:2]
    torch.testing.assert_close(network(images), network(shuffled), rtol=1e-4, atol=1e-5)


@every_network
def test_scores_follow_a_permutation_of_the_batch_and_of_the_classes(network: Any) -> None:
    module: Any = randomized(make(network)).eval()
    images, order = torch.randn(5, 3, 32, 32), torch.tensor([3, 0, 4, 1, 2])
    scores = module(images)
    torch.testing.assert_close(module(images[order]), scores[order], rtol=1e-4, atol=1e-5)
    classes = torch.randperm(10)
    with torch.no_grad():
        for parameter in module.output.parameters():
            parameter.copy_(parameter[classes])
    torch.testing.assert_close(module(images), scores[:, classes], rtol=1e-4, atol=1e-5)


@every_network
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 12, 20)])
def test_every_parameter_learns_from_images_of_other_shapes(network: Any, shape: tuple[int, int, int]) -> None:
    module = make(network, input_shape=shape, num_classes=4)
    randomized(module)
    scores = module(torch.randn(6, *shape))
    assert scores.shape == (6, 4)
    functional.cross_entropy(scores, torch.arange(6) % 4).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters() if p.requires_grad)


@every_network
def test_scores_at_the_start_are_close_to_each_other(network: Any) -> None:
    # The first loss is then about log 10: the network bets on nothing.
    module = make(network).train()
    scores = module(torch.randn(64, 3, 32, 32))
    if network in (ViT, MLPMixer):
        assert not scores.any()
    else:
        assert 0.01 < scores.std() < 3


def test_start_of_the_weights() -> None:
    torch.manual_seed(0)
    vit = ViT()
    for block in vit.blocks:
        for name, parameter in block.named_parameters():
            if name.endswith("weight") and "norm" not in name:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.02)
            elif name.endswith("bias"):
                assert not parameter.any()
    assert vit.position.std().item() == pytest.approx(0.02, rel=0.05)
    tokens = vit.patches(torch.randn(8, 3, 32, 32))
    assert tokens.std().item() == pytest.approx(1, rel=0.1)
    resnet = ResNet18()
    deviation = resnet.stage3[0].conv1.weight.std().item()  # type: ignore[index, union-attr]
    assert deviation == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


@every_network
def test_overfits_a_tiny_batch(network: Any) -> None:
    side = 32 if network is AirbenchCNN else 16
    module = make(network, input_shape=(3, side, side))
    images, labels = torch.randn(8, 3, side, side), torch.arange(8)
    optimizer = torch.optim.Adam(
        [p for p in module.parameters() if p.requires_grad], lr=3e-2 if network is AirbenchCNN else 4e-3
    )
    loss = torch.tensor(math.inf)
    for _ in range(40 if network is ResNet18 else 80):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@every_network
def test_roles_of_the_ends(network: Any) -> None:
    roles = {role.name: role.role for role in parameter_roles(make(network))}
    assert roles["output.weight"] == "head"
    first = {ResNet18: "stem.weight", ViT: "patches.projection.weight", MLPMixer: "patches.projection.weight"}
    if network in first:
        assert roles[first[network]] == "input"
    if network is ViT:
        assert roles["position"] == "embedding"
        split = {role.name: role.split for role in parameter_roles(make(network))}
        assert split["blocks.0.attention.qkv.weight"] == 3


def test_whitened_patches_are_uncorrelated() -> None:
    torch.manual_seed(0)
    network = AirbenchCNN(width_mult=0.1)
    mixing = torch.randn(3, 3)
    images = torch.einsum("cd,bdhw->bchw", mixing, functional.avg_pool2d(torch.randn(64, 3, 34, 34), 3, stride=1))
    network.initialize_from_data(images)
    with torch.no_grad():
        outputs = network.whitening(images).permute(1, 0, 2, 3).flatten(1)  # (24, patches)
    torch.testing.assert_close(outputs[12:], -outputs[:12])
    moments = (outputs[:12] @ outputs[:12].T / outputs.shape[1]).double()
    patches = functional.unfold(images.double(), 2).mT.flatten(0, 1)
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    torch.testing.assert_close(moments, torch.diag(variances / (variances + 5e-4)), rtol=0, atol=1e-4)
    assert not network.whitening.weight.requires_grad


def test_whitening_comes_before_use_and_stays() -> None:
    network = AirbenchCNN(width_mult=0.1)
    images = torch.randn(16, 3, 32, 32)
    with pytest.raises(ValueError, match=r"\AAirbenchCNN has no whitening filters yet: call initialize_from_data"):
        network(images)
    network.initialize_from_data(images)
    filters = network.whitening.weight.clone()
    network.initialize_from_data(torch.randn(16, 3, 32, 32))
    assert torch.equal(network.whitening.weight, filters)
    loaded = nn.Sequential(AirbenchCNN(width_mult=0.1))
    loaded.load_state_dict(nn.Sequential(network).state_dict())
    for other in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(other.eval()(images), network.eval()(images))
    plain = AirbenchCNN(width_mult=0.1, whitening=False)
    assert plain.whitening.weight.requires_grad
    assert plain(images).shape == (16, 10)


BAD = [
    (ViT, {"patch_size": 5}, "patch_size must divide the height and width of the image, 32x32, not 5"),
    (ViT, {"input_shape": (3, 32, 30)}, "patch_size must divide the height and width of the image, 32x30, not 4"),
    (MLPMixer, {"patch_size": 0}, "patch_size must be a whole number, at least 1, not 0"),
    (MLPMixer, {"depth": 0}, "depth must be a whole number, at least 1, not 0"),
    (ViT, {"heads": 3}, "heads must divide width 256, not 3"),
    (ViT, {"depth": -1}, "depth must be a whole number, at least 1, not -1"),
    (ViT, {"dropout": 1.0}, "dropout must be in [0, 1), not 1.0"),
    (
        AirbenchCNN,
        {"input_shape": (3, 8, 9)},
        "AirbenchCNN halves images three times: they must be at least 9x9, not 8x9",
    ),
    (ResNet18, {"input_shape": (9, 9)}, "input_shape must be (channels, height, width), each at least 1, not (9, 9)"),
    *((network, {"width_mult": 0.0}, "width_mult must be a positive number, not 0.0") for network in NETWORKS),
    *((network, {"num_classes": 0}, "num_classes must be a whole number, at least 1, not 0") for network in NETWORKS),
]  # fmt: skip


@pytest.mark.parametrize(("network", "options", "message"), BAD)
def test_bad_arguments_are_refused_in_one_line(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        network(**options)
    assert str(error.value) == message


def test_images_of_another_size_are_refused() -> None:
    embedding = PatchEmbedding((3, 8, 8), 4, 16)
    with pytest.raises(ValueError, match=r"\Aimages must have 8x8 pixels, as the network was made for, not 12x8\Z"):
        embedding(torch.randn(1, 3, 12, 8))


def test_airbench_keeps_six_tenths_of_its_running_statistics() -> None:
    torch.manual_seed(0)
    norms = [layer for layer in AirbenchCNN((3, 12, 12), width_mult=0.1).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 6
    for norm in norms:
        features = 3.0 + 2.0 * torch.randn(4, norm.num_features, 5, 5)
        norm.train()(features)
        torch.testing.assert_close(norm.running_mean, 0.4 * features.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, 0.6 + 0.4 * features.var((0, 2, 3)))
        assert not norm.weight.requires_grad
