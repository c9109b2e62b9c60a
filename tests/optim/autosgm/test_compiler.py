"""AutoSGM's kernels as the compiler makes them."""

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from steepest.optim import AutoSGM
from steepest.optim.autosgm import ReferenceAutoSGM, compiled
from tests.optim.autosgm.forms import LIMITS, NUMERATORS, assert_close, assert_same_bits, configuration, trained
from tests.optim.autosgm.problem import SHAPES, gradients, tensors, train


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    compiled._prepared.cache_clear()


@pytest.mark.slow
def test_a_compiler_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "compiler"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || exit 1\n')
    broken.chmod(0o755)
    script = "import torch\nfrom steepest.optim import AutoSGM\n"
    script += "w = torch.ones(3, requires_grad=True)\nw.grad = torch.ones(3)\n"
    script += "try: AutoSGM([w], compiled=True).step()\nexcept ValueError as error: print(error)"
    # In a process of its own: the compiler's failures are remembered, as missing vector instructions for instance.
    environment = {**os.environ, "CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    outcome = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert re.fullmatch(r"compiled=True is not possible: torch.compile fails [^\n]*\n", outcome.stdout)


def compiled_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("lr_cfg", NUMERATORS)
def test_compiled_kernels_equal_both_other_forms_and_themselves(lr_cfg: Any, dtype: torch.dtype) -> None:
    shapes = [*SHAPES, (70, 70)]
    for level, gain, debias, repeat in ((0, 0, True, True), (1, 0, True, False), (0, 0.5, False, False)):
        options = configuration(
            lr_cfg=lr_cfg,
            beta_cfg=(0.95, 0.99, 0.9, 0.4, gain, debias),
            wd_cfg=(0.1, level),
            eps_cfg=(1e-10, repeat),
        )
        found = trained(dtype, 200, True, shapes, **options)
        assert_same_bits(trained(dtype, 200, True, shapes, **options), found)
        assert_close(found, trained(dtype, 200, False, shapes, **options))
        literal = tensors(shapes, dtype, zeros=True)
        train(ReferenceAutoSGM(literal, **options), literal, 200)
        assert_close(found, [weight.detach() for weight in literal])


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("lr_cfg", NUMERATORS[1::2])
def test_nothing_is_compiled_after_the_second_step(lr_cfg: Any) -> None:
    # Sixty shapes, of one to four dimensions, and options that schedules move.
    shapes = [shape for n in range(1, 16) for shape in ((n,), (n, 3), (20 * n, 31), (n, 2, 3, 3))]
    weights = tensors(shapes, torch.float32)
    optimizer = AutoSGM(weights, compiled=True, **configuration(lr_cfg=lr_cfg, wd_cfg=(0.1, 0)))
    before = compiled_graphs()
    first = optimizer.param_groups[0]
    seen = []
    for step in range(1000):
        first["lr"] = 0.02 * (1 - step / 1000)
        first["beta"] = 0.85 + 0.1 * step / 1000
        first["weight_decay"] = 0.1 * max(0.0, 1 - step / 500)
        for weight in weights:
            weight.grad = weight.detach().clone()
        optimizer.step()
        seen.append(compiled_graphs())
    assert set(seen[1:]) == {seen[1]}
    # Of each of two kernels one for all lengths, and one for length 1, which the compiler takes for a case of its own.
    assert seen[1] - before <= 4


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_gradient_in_the_memory_of_its_weight_makes_no_kernel_of_its_own() -> None:
    runs, graphs = [], []
    for own in (True, False):
        weights = tensors([(1,), (), (5, 3)])
        optimizer = AutoSGM(weights, compiled=own, **configuration())
        for share in (True, False, True):
            for weight in weights:
                weight.grad = weight.detach() if share else 0.5 * weight.detach()
            optimizer.step()
            graphs.append(compiled_graphs())
        runs.append(weights)
    assert_close(*runs)
    assert len(set(graphs)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_resumed_run_agrees_to_the_bit() -> None:
    weights = tensors(dtype=torch.float32)
    optimizer = AutoSGM(weights, compiled=True, **configuration())
    train(optimizer, weights, 7)
    content = copy.deepcopy(optimizer.state_dict())
    others = [weight.detach().clone().requires_grad_() for weight in weights]
    train(optimizer, weights, 9, first=7)
    # As in a new process.
    torch._dynamo.reset()
    compiled._prepared.cache_clear()
    resumed = AutoSGM(others, compiled=True, **configuration())
    resumed.load_state_dict(content)
    train(resumed, others, 9, first=7)
    assert_same_bits(others, weights)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_making_kernels_draws_no_random_number() -> None:
    weights = tensors()
    torch.manual_seed(0)
    train(AutoSGM(weights, compiled=True, **configuration()), weights, 2)
    found = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(3))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_fit_goes_on_compiled_where_it_was_not(steepest: Any, tiny: str, tmp_path: Path) -> None:
    words = ["--config", tiny, "--optimizer", "autosgm", "--optimizer.lr", "0.01"]
    for compile in ("false", "true"):
        words_of_run = [*words, "--name", compile, "--trainer.max_epochs"]
        assert steepest("fit", *words_of_run, "1").code == 0
        outcome = steepest("fit", *words_of_run, "2", "--ckpt_path", "last", "--optimizer.compiled", compile)
        assert outcome.code == 0, outcome.err
    listed, compiled = (
        torch.load(tmp_path / f"runs/{name}/version_1/checkpoints/last.ckpt", weights_only=False)
        for name in ("false", "true")
    )
    assert compiled["optimizer_states"][0]["param_groups"][0]["compiled"] is True
    assert_close(list(compiled["state_dict"].values()), list(listed["state_dict"].values()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("lr_cfg", NUMERATORS)
def test_on_a_gpu_it_equals_the_list_form(lr_cfg: Any) -> None:
    runs = []
    for own in (True, False):
        weights = [weight.detach().cuda().requires_grad_() for weight in tensors([*SHAPES, (300, 300)], zeros=True)]
        optimizer = AutoSGM(weights, compiled=own, **configuration(lr_cfg=lr_cfg))
        for step in range(20):
            for weight, gradient in zip(weights, gradients([w.cpu() for w in weights], step), strict=True):
                weight.grad = gradient.cuda()
            optimizer.step()
        runs.append([weight.detach() for weight in weights])
    assert_close(*runs)
