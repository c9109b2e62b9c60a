"""Parameter roles and groups."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from steepest.optim.core.grouping import explain, parameter_groups
from steepest.optim.core.roles import Role, parameter_roles


class Zoo(nn.Module):
    """One of each: what it computes does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 8)
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.temperature = nn.Parameter(torch.ones(()))
        self.patch = nn.Conv2d(3, 8, 2)
        self.batch_norm = nn.BatchNorm2d(8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.rms_norm = nn.RMSNorm(8)
        self.hidden = nn.Linear(8, 8)
        self.recurrent = nn.GRU(8, 8)
        self.mixing = nn.Parameter(torch.zeros(3, 4))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.output = nn.Linear(8, 10)
        self.output.weight = self.tokens.weight
        self.after = nn.LayerNorm(10)


ZOO: dict[str, Role] = {
    "position": "embedding",
    "class_token": "other",
    "temperature": "other",
    "mixing": "matrix",
    "tokens.weight": "embedding",
    "patch.weight": "matrix",
    "patch.bias": "bias",
    "batch_norm.weight": "norm",
    "batch_norm.bias": "norm",
    "group_norm.weight": "norm",
    "group_norm.bias": "norm",
    "attention.in_proj_weight": "matrix",
    "attention.in_proj_bias": "bias",
    "attention.bias_k": "bias",
    "attention.bias_v": "bias",
    "attention.out_proj.weight": "matrix",
    "attention.out_proj.bias": "bias",
    "rms_norm.weight": "norm",
    "hidden.weight": "matrix",
    "hidden.bias": "bias",
    "recurrent.weight_ih_l0": "matrix",
    "recurrent.weight_hh_l0": "matrix",
    "recurrent.bias_ih_l0": "bias",
    "recurrent.bias_hh_l0": "bias",
    "output.bias": "bias",
    "after.weight": "norm",
    "after.bias": "norm",
}


def roles(module: nn.Module, **options: Any) -> dict[str, Role]:
    return {role.name: role.role for role in parameter_roles(module, **options)}


def test_every_kind_of_parameter() -> None:
    assert roles(Zoo()) == ZOO


def test_names_and_order_are_those_of_named_parameters() -> None:
    zoo = Zoo()
    found = [(role.name, role.parameter) for role in parameter_roles(zoo)]
    expected = [(name, parameter) for name, parameter in zoo.named_parameters() if parameter.requires_grad]
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert all(ours is theirs for (_, ours), (_, theirs) in zip(found, expected, strict=True))


def test_a_tied_table_is_an_embedding_whichever_comes_first() -> None:
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(8, 10, bias=False)
            self.tokens = nn.Embedding(10, 8)
            self.tokens.weight = self.output.weight

    (role,) = parameter_roles(HeadFirst())
    assert (role.name, role.role, role.decay) == ("output.weight", "embedding", True)
    assert "tokens" in role.reason


@pytest.mark.parametrize(
    ("module", "head"),
    [
        (torchvision.models.resnet18(num_classes=10), "fc.weight"),
        (torchvision.models.vgg11(num_classes=10, init_weights=False), "classifier.6.weight"),
        (torchvision.models.mobilenet_v3_small(num_classes=10), "classifier.3.weight"),
        (
            torchvision.models.VisionTransformer(
                image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
            ),
            "heads.head.weight",
        ),
        (nn.Linear(3, 2), "weight"),
        (nn.ModuleDict({"network": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))}), "network.2.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_head_is_the_last_linear_layer(module: nn.Module, head: str) -> None:
    assert [name for name, role in roles(module).items() if role == "head"] == [head]


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 3, 1)),  # fully convolutional
        nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2)),  # ends in attention
        nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)),
    ],
)
def test_no_head_where_the_last_matrix_is_no_linear_layer(module: nn.Module) -> None:
    assert "head" not in roles(module).values()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm, nn.LayerNorm, nn.RMSNorm])
def test_subclasses_of_norms_are_norms(norm: Any) -> None:
    class Renamed(norm):
        pass

    assert set(roles(Renamed(4)).values()) == {"norm"}


def test_parametrized_weights_keep_the_role_of_their_layer() -> None:
    body = parametrizations.weight_norm(nn.Linear(4, 4))
    output = parametrizations.spectral_norm(nn.Linear(4, 2))
    assert roles(nn.Sequential(body, output)) == {
        "0.bias": "bias",
        "0.parametrizations.weight.original0": "other",
        "0.parametrizations.weight.original1": "input",
        "1.bias": "bias",
        "1.parametrizations.weight.original": "head",
    }


def test_a_linear_layer_with_one_output_is_still_a_head() -> None:
    assert roles(nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False))) == {
        "0.weight": "input",
        "1.weight": "head",
    }


@pytest.mark.parametrize(
    ("module", "first"),
    [
        (torchvision.models.resnet18(num_classes=10), ["conv1.weight"]),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), ["0.weight"]),
        (nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)), []),
        (nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4), nn.Linear(4, 2)), []),
        (nn.Linear(3, 2), []),
    ],
    ids=["resnet", "mlp", "embedding first", "attention first", "the only layer is the head"],
)
def test_the_input_is_the_first_layer_that_meets_the_data(module: nn.Module, first: list[str]) -> None:
    assert [name for name, role in roles(module).items() if role == "input"] == first


def test_fused_projections_are_known_to_be_three_matrices() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)
            self.c_attn = nn.Linear(4, 8)  # two, not three: no standard form
            self.mlp = nn.Linear(4, 12)

    module = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), Block())
    assert {role.name for role in parameter_roles(module) if role.split == 3} == {"1.in_proj_weight", "2.qkv.weight"}


def test_overrides_win_and_the_last_one_most() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    found = parameter_roles(network, overrides={"*.weight": "embedding", "1.*": "other"})
    assert {role.name: (role.role, role.decay) for role in found} == {
        "0.weight": ("embedding", True),
        "0.bias": ("bias", False),
        "1.weight": ("other", False),
        "1.bias": ("other", False),
    }


def test_bad_input_is_refused() -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"\Arole override 'wieght' matches no trainable parameter of Linear\Z"):
        parameter_roles(network, {"wieght": "matrix"})
    with pytest.raises(
        ValueError, match=r"\Arole 'body' of 'weight' is unknown; allowed: matrix, input, embedding, head, norm"
    ):
        parameter_roles(network, {"weight": "body"})  # pyright: ignore
    with pytest.raises(ValueError, match=r"\AReLU has no trainable parameters: nothing to optimize\Z"):
        parameter_roles(nn.ReLU())
    with pytest.raises(ValueError, match=r"\Aweight has no shape yet: run a batch through the model before"):
        parameter_roles(nn.LazyLinear(3))


def test_decay_falls_on_matrices_embeddings_and_the_head_only() -> None:
    zoo = Zoo()
    decay, no_decay = parameter_groups(zoo, 0.1)
    names = {parameter: name for name, parameter in zoo.named_parameters()}
    assert (decay["name"], decay["weight_decay"]) == ("decay", 0.1)
    assert (no_decay["name"], no_decay["weight_decay"]) == ("no_decay", 0.0)
    assert {names[parameter] for parameter in decay["params"]} == {
        name for name, role in ZOO.items() if role in ("matrix", "embedding")
    }
    assert {names[parameter] for parameter in no_decay["params"]} == {
        name for name, role in ZOO.items() if role in ("norm", "bias", "other")
    }
    assert len(decay["params"]) + len(no_decay["params"]) == len(ZOO)


@pytest.mark.parametrize(
    ("module", "weight_decay", "used"),
    [(nn.Linear(2, 2), 0.0, 0.0), (nn.Linear(2, 2, bias=False), 0.1, 0.1), (nn.LayerNorm(2), 0.1, 0.0)],
)
def test_one_group_when_all_decay_alike(module: nn.Module, weight_decay: float, used: float) -> None:
    (group,) = parameter_groups(module, weight_decay)
    assert (group["name"], group["weight_decay"]) == ("all", used)
    assert group["params"] == list(module.parameters())


def test_explain_tells_the_group_and_decay_of_each_parameter() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1), lr=0.1)
    rows = [(row.name, row.shape, row.role, row.group, row.decay) for row in explain(network, optimizer)]
    assert rows == [
        ("0.weight", (4, 3), "input", "decay", 0.1),
        ("0.bias", (4,), "bias", "no_decay", 0.0),
        ("1.weight", (4,), "norm", "no_decay", 0.0),
        ("1.bias", (4,), "norm", "no_decay", 0.0),
        ("2.weight", (2, 4), "head", "decay", 0.1),
        ("2.bias", (2,), "bias", "no_decay", 0.0),
    ]
    assert all(row.reason for row in explain(network, optimizer))


def test_explain_shows_what_no_group_holds() -> None:
    network = nn.Linear(3, 2)
    rows = explain(network, [{"params": [network.weight], "weight_decay": 0.5}])
    assert [(row.name, row.group, row.decay) for row in rows] == [("weight", "0", 0.5), ("bias", "-", 0.0)]
