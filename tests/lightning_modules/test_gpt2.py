import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from steepest.lightning_modules.networks import GPT2
from steepest.lightning_modules.networks.gpt2 import INITIAL_STD
from steepest.optim.core.roles import parameter_roles

SMALL = {"vocabulary_size": 31, "block_size": 12, "layers": 2, "heads": 2, "width": 16}


def small(**options) -> GPT2:
    torch.manual_seed(0)
    return GPT2(**{**SMALL, **options})


def tokens(batch: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(SMALL["vocabulary_size"], (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"vocabulary_size": 65, "block_size": 64, "layers": 4, "heads": 4, "width": 128, "bias": False}, 804_096),
        ({"vocabulary_size": 65, "block_size": 256, "layers": 6, "heads": 6, "width": 384, "bias": False}, 10_745_088),
        ({"block_size": 128, "layers": 6, "heads": 6, "width": 384, "bias": False}, 29_969_664),
        ({}, 124_439_808),
        ({"tied": False}, 124_439_808 + 50_257 * 768),
    ],
)
def test_published_sizes(options, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in GPT2(**options).parameters()) == parameters


def hugging_face(network: GPT2) -> GPT2LMHeadModel:
    """The same network in transformers, with our weights."""
    config = GPT2Config(
        vocab_size=SMALL["vocabulary_size"],
        n_positions=SMALL["block_size"],
        n_embd=SMALL["width"],
        n_layer=SMALL["layers"],
        n_head=SMALL["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    names = {
        "token_embedding": "wte",
        "position_embedding": "wpe",
        "final_norm": "ln_f",
        "blocks": "h",
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.hidden": "mlp.c_fc",
        "mlp.output": "mlp.c_proj",
    }
    weights = {}
    for name, value in network.state_dict().items():
        if name != "head.weight":
            is_linear = name.endswith("weight") and (".qkv." in name or ".output." in name or ".hidden." in name)
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            weights[f"transformer.{name}"] = value.T if is_linear else value
    reference = GPT2LMHeadModel(config).eval()
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    reference.tie_weights()
    return reference


@pytest.mark.parametrize("attention", ["fused", "math"])
def test_logits_equal_those_of_transformers(attention):
    network = small(attention=attention)
    for parameter in network.parameters():  # also biases and gains, which start at 0 and 1
        nn.init.normal_(parameter, std=0.3)
    expected = hugging_face(network)(tokens()).logits
    assert torch.allclose(network(tokens()), expected, atol=1e-5, rtol=1e-5)


def test_a_place_sees_nothing_behind_it():
    network = small()
    changed = tokens()
    changed[:, 7:] = (changed[:, 7:] + 1) % SMALL["vocabulary_size"]
    before, after = network(tokens()), network(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(-1).all()
    assert torch.allclose(network(tokens()[:, :5]), before[:, :5], atol=1e-6)


def test_both_kinds_of_attention_agree_also_in_their_gradients():
    results = []
    for attention in ("fused", "math"):
        network = small(attention=attention).double()
        loss = functional.cross_entropy(network(tokens()).flatten(0, 1), tokens().flatten())
        results.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
    for fused, plain in zip(*results, strict=True):
        assert torch.allclose(fused, plain, atol=1e-10)


def test_weights_start_as_in_gpt2():
    network = small(layers=8, width=128, heads=2)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            std = INITIAL_STD / math.sqrt(16) if name.endswith("output.weight") else INITIAL_STD
            assert float(parameter.detach().std()) == pytest.approx(std, rel=0.1), name


def test_roles_are_understood():
    roles = {entry.name: entry for entry in parameter_roles(small())}
    assert roles["token_embedding.weight"].role == "embedding"
    assert roles["position_embedding.weight"].role == "embedding"
    assert (roles["blocks.0.attention.qkv.weight"].role, roles["blocks.0.attention.qkv.weight"].split) == ("matrix", 3)
    assert roles["blocks.1.mlp.output.weight"].role == "matrix"
    assert not roles["final_norm.weight"].decay
    assert "head.weight" not in roles
    assert {entry.name: entry.role for entry in parameter_roles(small(tied=False))}["head.weight"] == "head"
    assert not [name for name in roles if "bias" in name and roles[name].decay]


@pytest.mark.parametrize(("factor", "heads", "width"), [(0.5, 1, 8), (1.0, 2, 16), (3.0, 6, 48), (0.01, 1, 8)])
def test_width_mult_keeps_the_size_of_a_head(factor, heads, width):
    network = small(width_mult=factor)
    assert network.blocks[0].attention.heads == heads
    assert network.token_embedding.embedding_dim == width
    assert network(tokens()).shape == (3, 12, 31)


def test_dropout_acts_in_training_only():
    for attention in ("fused", "math"):
        network = small(dropout=0.5, attention=attention)
        assert not torch.equal(network(tokens()), network(tokens()))
        network.eval()
        assert torch.equal(network(tokens()), network(tokens()))


def test_without_bias_there_is_none():
    assert not [name for name, _ in small(bias=False).named_parameters() if "bias" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be a whole number, at least 1, not 0"),
        ({"block_size": -1}, "block_size must be a whole number"),
        ({"layers": 0}, "layers must be"),
        ({"heads": 3}, "width must be a multiple of heads, got width 16 and 3 heads"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"width_mult": 0.0}, "width_mult must be a positive number"),
        ({"attention": "flash"}, "attention 'flash' is unknown; allowed: fused, math"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_a_longer_sequence_is_refused():
    with pytest.raises(ValueError, match="13 tokens is longer than block_size 12"):
        small()(tokens(length=13))
