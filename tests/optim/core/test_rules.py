"""Parameter rules, layer-wise learning rates and the groups that follow."""

import pytest
import torch
from torch import nn

from steepest.optim import OPTIMIZERS
from steepest.optim.core.grouping import algorithm_groups, explain, layer_depths, layer_scales, torch_groups
from steepest.optim.core.options import GroupOptions
from steepest.optim.core.roles import ParameterRule


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


def rates(groups: list[dict], module: nn.Module) -> dict[str, float]:
    return {row.name: row.learning_rate for row in explain(module, groups)}


def test_the_last_rule_that_sets_something_wins_and_others_keep_what_they_set() -> None:
    rules = [
        ParameterRule(name="*.weight", lr_scale=0.5, weight_decay=0.3),
        ParameterRule(role="head", lr_scale=2.0),
        ParameterRule(module="LayerNorm", weight_decay=0.7),
        ParameterRule(ndim=1, name="3.*", weight_decay=0.9),
    ]
    module = network()
    optimizer = OPTIMIZERS.create("adamw", module, lr=0.1, weight_decay=0.01, rules=rules)
    rows = {row.name: (round(row.learning_rate, 6), row.decay) for row in explain(module, optimizer)}
    assert rows == {
        "0.weight": (0.05, 0.3),
        "0.bias": (0.1, 0.0),
        "1.weight": (0.05, 0.7),
        "1.bias": (0.1, 0.7),
        "2.weight": (0.05, 0.3),
        "2.bias": (0.1, 0.0),
        "3.weight": (0.2, 0.3),
        "3.bias": (0.1, 0.9),
    }


def test_every_parameter_is_in_one_group_and_tied_weights_only_once() -> None:
    module = network()
    module[3].weight = nn.Parameter(torch.zeros(4, 4))
    module[2].weight = module[3].weight
    rules = [ParameterRule(name="2.*", lr_scale=0.1), ParameterRule(name="0.bias", clip="none")]
    groups = torch_groups(module, weight_decay=0.1, lr=1.0, shared=GroupOptions(rules))
    members = [parameter for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members)) == len(list(module.parameters()))
    assert len({group["name"] for group in groups}) == len(groups)


def test_a_rule_that_fits_nothing_warns() -> None:
    with pytest.warns(UserWarning, match=r"\Aparameter rule \(name 'hed\*'\) matches no trainable parameter\Z"):
        OPTIMIZERS.create("sgd", network(), rules=[ParameterRule(name="hed*", lr_scale=0.1)])


def test_algorithms_by_rule_and_by_role() -> None:
    module = network()
    groups = algorithm_groups(
        module,
        lambda role: ("sgd", "a matrix") if role.role == "matrix" else ("adamw", f"role {role.role}"),
        lr=0.1,
        weight_decay=0.5,
        options={"adamw": {"lr": 0.01, "weight_decay": 0.0}, "sgd": {"momentum": 0.9}},
        shared=GroupOptions([ParameterRule(role="head", algorithm="sgd", options={"momentum": 0.5})]),
    )
    rows = {row.name: (row.algorithm, row.learning_rate, row.decay, row.reason) for row in explain(module, groups)}
    assert rows["0.weight"] == ("adamw", 0.01, 0.0, "Linear, the first layer, role input")
    assert rows["2.weight"] == ("sgd", 0.1, 0.5, "weight of Linear, a matrix")
    assert rows["3.weight"] == ("sgd", 0.1, 0.5, "Linear, the last layer, rule (role 'head')")
    assert sorted(group.get("momentum", -1) for group in groups) == [-1, 0.5, 0.9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"rule \(all\) sets nothing: give algorithm, lr_scale"),
        ({"role": "body", "clip": 1.0}, r"role 'body' of a rule is unknown; allowed: matrix, input"),
        (
            {"name": "a", "lr_scale": -1.0},
            r"lr_scale of rule \(name 'a'\) must be a finite number in \[0, inf\), not -1",
        ),
        ({"weight_decay": float("nan")}, "must be a finite number"),
        ({"split": 0}, "at least 1, not 0"),
        ({"clip": "off"}, "must be a number above 0 or 'none', not 'off'"),
        ({"clip": 0.0}, r"in \(0, inf\)"),
    ],
)
def test_wrong_rules_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParameterRule(**options)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (ParameterRule(algorithm="muon"), "sets algorithm, which this optimizer does not have"),
        (ParameterRule(split=3), "sets split, which this optimizer does not have"),
        (ParameterRule(options={"beta": (0.9, 0.99)}), "unknown option in a rule 'beta'. Did you mean 'betas'"),
    ],
)
def test_rules_that_an_optimizer_cannot_follow_are_refused(rule: ParameterRule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OPTIMIZERS.create("adamw", network(), rules=[rule])


def test_unknown_algorithms_of_rules_are_refused() -> None:
    rule = ParameterRule(algorithm="adamx")
    with pytest.raises(ValueError, match=r"unknown algorithm 'adamx'\. Did you mean 'adamw'\?"):
        algorithm_groups(network(), "adamw", lr=0.1, weight_decay=0, options={}, shared=GroupOptions([rule]))


def test_layer_decay_falls_towards_the_input() -> None:
    module = network()
    optimizer = OPTIMIZERS.create("momentum", module, lr=1.0, layer_decay=0.5)
    found = rates(optimizer.param_groups, module)
    assert found == {f"{layer}.{kind}": 0.5 ** (3 - layer) for layer in range(4) for kind in ("weight", "bias")}


def test_layers_are_numbered_blocks_or_the_models_own() -> None:
    names = ["stem.weight", "blocks.0.a.weight", "blocks.0.b.bias", "blocks.1.a.weight", "head.weight", "head.bias"]
    assert layer_depths(nn.Module(), names) == [0, 1, 1, 2, 3, 3]

    class Own(nn.Module):
        def layer_id(self, name: str) -> int:
            return len(name)

    assert layer_scales(Own(), ["a", "bbb"], 0.1) == pytest.approx([0.01, 1.0])
    assert layer_scales(Own(), ["a", "bbb"], None) == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"layer_decay must be a finite number in \(0, 1\], not 0"):
        OPTIMIZERS.create("sgd", network(), layer_decay=0.0)
