"""Tuples, words, refusals and saved states."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.optim import OPTIMIZERS
from steepest.optim.autosgm import AutoSGM, autosgm
from steepest.optim.autosgm.options import AutoSGMOptions
from tests.optim.autosgm.problem import tensors, train

WINDOW = (1, 1, 0.1, 2, 0, 3, 5, 2, 0.1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def test_the_words_mean_the_tuples() -> None:
    by_words, by_tuples = network(), network()
    words = autosgm(
        by_words,
        lr=0.02,
        numerator="elementwise_chebyshev",
        numerator_beta=0.95,
        denominator_beta=0.98,
        beta=0.8,
        gamma=-0.2,
        gain=0.7,
        debias=False,
        decoupled_decay=True,
        window="raised_cosine",
        window_sequence="kronecker",
        window_floor=0.1,
        window_order=2,
        window_full=True,
        window_epochs=3,
        window_steps_per_epoch=5,
        window_unit="restart",
        window_flat_top=0.1,
        eps=1e-6,
        repeat_eps=False,
    )
    tuples = AutoSGM(
        by_tuples.parameters(),
        lr_cfg=(True, 0.02, 4),
        beta_cfg=(0.95, 0.98, 0.8, -0.2, 0.7, False),
        rc_cfg=WINDOW,
        wd_cfg=(0.0, 1),
        eps_cfg=(1e-6, False),
    )
    ours, theirs = words.param_groups[0], tuples.param_groups[0]
    assert {name: ours[name] for name in vars(AutoSGMOptions())} == {
        name: theirs[name] for name in vars(AutoSGMOptions())
    }
    train(words, list(by_words.parameters()), 20)
    train(tuples, list(by_tuples.parameters()), 20)
    assert all(torch.equal(a, b) for a, b in zip(by_words.parameters(), by_tuples.parameters(), strict=True))


def test_the_defaults_are_those_of_the_tuples() -> None:
    (group,), (other,) = autosgm(network()).param_groups, AutoSGM(network().parameters()).param_groups
    options = {*vars(AutoSGMOptions()), "lr", "weight_decay"}
    assert {name: group[name] for name in options} == {name: other[name] for name in options}


def test_from_the_registry_only_matrices_decay() -> None:
    groups = OPTIMIZERS.create("autosgm", network(), weight_decay=0.1).param_groups
    assert {tuple(group["param_names"]): group["weight_decay"] for group in groups} == {
        ("0.weight", "2.weight"): 0.1,
        ("0.bias", "2.bias"): 0.0,
    }


def test_groups_of_bare_parameters_have_options_of_their_own() -> None:
    first, second, *_ = tensors()
    optimizer = AutoSGM([{"params": [first]}, {"params": [second], "lr": 0.5, "numerator": "constant"}])
    assert [(group["lr"], group["numerator"]) for group in optimizer.param_groups] == [
        (1e-3, "markov"),
        (0.5, "constant"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_cfg": (True, -1.0, 3)}, "lr must be .* not -1.0"),
        ({"lr_cfg": (True, 1e-3, 5)}, "num_lrc must be one of 0, 1, 2, 3, 4, not 5"),
        ({"lr_cfg": (True, 1e-3)}, r"lr_cfg must be the tuple \(aoptlr, lr_init, num_lrc\), not \(True, 0.001\)"),
        ({"beta_cfg": (1.0, 0.9, 0.9, 0, 0, True)}, "numerator_beta must be .* not 1.0"),
        ({"beta_cfg": (0.9, 0.9, 0.9, 0.95, 0, True)}, r"gamma must be .*0.9\], not 0.95"),
        ({"beta_cfg": (0.9, 0.9, 0.9, 0, -1, True)}, "gain must be .* not -1"),
        ({"rc_cfg": (7, 0, 0, 2, 1, 1, 1, 1, 0)}, "rcm must be one of .* not 7"),
        ({"rc_cfg": (3, 0, 0, 2, 1, 1, 1, 1, 0)}, "window order n must be .* not 2"),
        ({"rc_cfg": (1, 0, 0, 2, 1, 0, 1, 1, 0)}, "tau must be a whole number from 1 on, not 0"),
        ({"wd_cfg": (0.1, 2)}, "wd_lvl must be one of 0, 1, not 2"),
        ({"wd_cfg": (-0.1, 0)}, "weight_decay must be .* not -0.1"),
        ({"eps_cfg": (0.0, True)}, "eps must be .* not 0.0"),
    ],
)
def test_bad_tuples_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        AutoSGM(tensors(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numerator": "markof"}, "Did you mean 'markov'"),
        ({"window": "cosine"}, "Did you mean 'raised_cosine'"),
        ({"window_unit": "steps"}, "Did you mean 'step'"),
        ({"beta": 1.0}, "beta must be"),
    ],
)
def test_bad_words_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        autosgm(network(), **options)


@pytest.mark.parametrize("numerator", range(5))
def test_a_saved_state_continues_inside_the_window(numerator: int) -> None:
    def make() -> tuple[AutoSGM, list[Tensor]]:
        weights = tensors(dtype=torch.float32)
        return AutoSGM(weights, (True, 0.02, numerator), rc_cfg=WINDOW, track_dynamics=True), weights

    optimizer, weights = make()
    train(optimizer, weights, 7)
    file = io.BytesIO()
    torch.save({"weights": [weight.detach() for weight in weights], "optimizer": optimizer.state_dict()}, file)
    train(optimizer, weights, 9, first=7)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, others = make()
    for weight, value in zip(others, saved["weights"], strict=True):
        weight.data.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    train(resumed, others, 9, first=7)
    assert all(torch.equal(weight, other) for weight, other in zip(weights, others, strict=True))


def test_state_is_allocated_once() -> None:
    weights = tensors()
    optimizer = AutoSGM(weights)
    places = {name: value.data_ptr() for name, value in optimizer.state[weights[0]].items()}
    train(optimizer, weights, 3)
    assert {name: value.data_ptr() for name, value in optimizer.state[weights[0]].items()} == places


def test_gradients_are_left_alone() -> None:
    weights = tensors()
    optimizer = AutoSGM(weights, wd_cfg=(0.1, 0))
    train(optimizer, weights, 1)
    kept = [weight.grad.clone() for weight in weights if weight.grad is not None]
    optimizer.step()
    assert all(torch.equal(weight.grad, old) for weight, old in zip(weights, kept, strict=True))  # type: ignore[arg-type]
