"""The command on real optimizers: limits, rates, files and refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest.commands.stability import measured_limit, measured_rate, optimizer_of, read_spectrum
from steepest.diagnostics.stability.theory import Rule, check_spectrum, classical_rules, largest_stable_lr, rate
from tests.steepest.failures import BAD_INPUT, check

SPECTRUM = check_spectrum([0.7, 5.0, 20.0])
RULES = [
    *classical_rules(0.8, None, 0.2, 0.5),
    Rule("very smooth filter", "pole_zero", 0.6, -0.9),
    Rule("coupled heavy ball", "heavy_ball", 0.5, coupled=3.0),
    Rule("tiny preconditioner", "average", 0.9, preconditioner=1e-5),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_limit_is_where_the_registered_optimizer_starts_to_diverge(rule) -> None:
    limit = largest_stable_lr(rule, 20.0)
    assert measured_limit(rule, SPECTRUM) == pytest.approx(limit, rel=1e-4)
    for factor in (0.05, 0.6, 1.02):
        assert measured_rate(rule, factor * limit, SPECTRUM) == pytest.approx(
            rate(rule, factor * limit, SPECTRUM), rel=1e-6
        )


def grows(optimizer: torch.optim.Optimizer, weight: nn.Parameter, h: float, steps: int = 1200) -> bool:
    sizes = []
    for _ in range(steps):
        weight.grad = h * weight.detach()
        optimizer.step()
        sizes.append(abs(weight.item()))
    return max(sizes[-100:]) > max(sizes[-200:-100])


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (Rule("gd", "plain"), lambda w, lr: torch.optim.SGD([w], lr)),
        (Rule("ball", "heavy_ball", 0.9), lambda w, lr: torch.optim.SGD([w], lr, momentum=0.9)),
        (Rule("ema", "average", 0.9), lambda w, lr: torch.optim.SGD([w], lr, momentum=0.9, dampening=0.9)),
        (Rule("nag", "nesterov", 0.9), lambda w, lr: torch.optim.SGD([w], lr, momentum=0.9, nesterov=True)),
        (Rule("decay", "plain", coupled=1.5), lambda w, lr: torch.optim.SGD([w], lr, weight_decay=1.5)),
    ],
    ids=lambda value: value.name if isinstance(value, Rule) else "",
)
def test_torch_optim_agrees_to_four_digits(rule, make) -> None:
    limit = largest_stable_lr(rule, 3.0)
    for factor, expected in ((1 - 1e-4, False), (1 + 1e-4, True)):
        weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        assert grows(make(weight, factor * limit), weight, 3.0) is expected


def test_an_optimizer_that_is_not_the_rule_is_found_out() -> None:
    # A step of v + b v_before, which some call Nesterov's, is a filter with its zero at -b: 12 times less stable.
    b, h = 0.9, 3.0
    wrong = Rule("wrong", "pole_zero", b, -b)  # of gain (1 - b) / (1 + b)
    limit = largest_stable_lr(wrong, h) * (1 - b) / (1 + b)
    assert limit == pytest.approx((1 - b) / (b * h))

    def grown(lr: float) -> bool:
        w, v, sizes = 1.0, 0.0, []
        for _ in range(2000):
            before, v = v, b * v + h * w
            w -= lr * (v + b * before)
            sizes.append(abs(w))
        return max(sizes[-200:]) > max(sizes[-400:-200])

    assert not grown(0.999 * limit)
    assert grown(1.001 * limit)
    assert largest_stable_lr(Rule("right", "nesterov", b), h) / limit == pytest.approx(12.2, abs=0.05)


def test_every_rule_is_a_registered_optimizer_with_its_options() -> None:
    names = {rule.name: optimizer_of(rule)[0] for rule in classical_rules()}
    assert set(names.values()) == {"sgd", "momentum", "nesterov", "autosgm", "rmsprop", "adam", "adamw"}
    assert optimizer_of(Rule("any", "nesterov", 0.0))[0] == "sgd"  # the best momentum of a single curvature


def test_the_command_writes_tables_figures_and_json(steepest, tmp_path) -> None:
    outcome = steepest("stability", "--eigenvalues", "1, 10", "--momentum", "0.5", "--output", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert "eigenvalues: 2 from 1 to 10, condition number 10" in outcome.out
    written = json.loads((tmp_path / "out/stability.json").read_text())
    assert written["eigenvalues"] == [1.0, 10.0]
    for row in written["rules"]:
        assert row["rule"]["name"] in outcome.out
        assert abs(row["limit_error"]) < 1e-4
        assert abs(row["rate_error"]) < 1e-6
        assert abs(row["best_rate_error"]) < 1e-5
    for name in ("stability_rates", "stability_losses"):
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"out/{name}.svg").read_text().startswith("<?xml")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def report(eigenvalues: list[float], nodes: list[float] | None = None) -> str:
    density = None if nodes is None else {"nodes": nodes, "weights": [1 / len(nodes)] * len(nodes)}
    return json.dumps({"step": 3, "last": {"eigenvalues": eigenvalues, "density": density}, "history": {}})


@pytest.mark.parametrize(
    ("name", "text", "expected", "left_out"),
    [
        ("numbers.txt", "1 4\n# a comment\n9, 16", [1.0, 4.0, 9.0, 16.0], None),
        ("sharpness.json", report([8.0, 2.0]), [2.0, 8.0], None),
        (
            "sharpness.json",
            report([8.0], [8.0, 1.0, -3.0]),
            [1.0, 8.0],
            "1 of 3 eigenvalues is not above 0 and left out",
        ),
    ],
)
def test_a_measured_spectrum_is_read(tmp_path, name, text, expected, left_out) -> None:
    (tmp_path / name).write_text(text)
    values, note = read_spectrum(tmp_path / name)
    assert sorted(values) == expected
    assert note == left_out


def test_a_report_of_the_sharpness_probe_is_a_spectrum(steepest, tiny) -> None:
    probe = ["--trainer.callbacks+=SharpnessProbe", "--trainer.callbacks.every_n_steps", "1"]
    assert steepest("fit", "--config", tiny, *probe, "--trainer.callbacks.count", "2").code == 0
    values, _ = read_spectrum(Path("runs/tiny/version_0/sharpness.json"))
    assert 0 < len(values) <= 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either --eigenvalues 1,10,100 or --spectrum FILE"),
        (["--eigenvalues", "-1,2"], "eigenvalues must be finite numbers above 0, got -1"),
        (["--eigenvalues", ","], "at least one eigenvalue"),
        (["--eigenvalues", "1,two"], "--eigenvalues: 'two' is not a number"),
        (["--eigenvalues", "1", "--spectrum", "x"], "give either"),
        (["--eigenvalues", "1", "--momentum", "1"], "--momentum must be in (0, 1), got 1"),
        (["--eigenvalues", "1", "--lr", "-1"], "--lr must be a number above 0"),
        (["--eigenvalues", "1", "--output", "broken.json"], "is a file, not a folder"),
        (["--spectrum", "none.json"], "there is no file none.json"),
        (["--spectrum", "broken.json"], "broken.json, line 1 is not JSON"),
        (["--spectrum", "other.json"], "is not the sharpness.json"),
        (["--spectrum", "flat.json"], "holds no eigenvalue above 0"),
        (["--spectrum", "binary.txt"], "is not a text file"),
        (["--eigenvalues", "1", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_wrong_input_ends_in_one_line(steepest, tmp_path, words, said) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"last": [1, 2]}')
    (tmp_path / "flat.json").write_text(report([-1.0]))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    check(steepest("stability", *words), BAD_INPUT, [said])


def test_rates_of_a_single_curvature_arrive_at_once() -> None:
    assert rate(Rule("any", "plain"), 0.1, check_spectrum([10.0])) == pytest.approx(0.0, abs=1e-12)
    assert math.isclose(measured_rate(Rule("any", "plain"), 0.1, check_spectrum([10.0])), 0.0, abs_tol=1e-12)
