"""A record of short real trainings as digests, so that two states of the code can be compared to the bit.

    python scripts/golden.py record before.json               # the code that this script stands in
    python scripts/golden.py record old.json --tree ../old    # that of another checkout
    python scripts/golden.py compare before.json after.json   # what differs: training, kind, part; exit code 1
    python scripts/golden.py against HEAD~3 --only text       # a commit and the working tree; `make golden REV=HEAD~3`

A digest is the start of a sha256. Digests hold on one machine with one set of packages: other processors and other
versions of PyTorch round differently. Nothing of Steepest is imported here: a training is a command line, run with the
code of one folder, so that it does not matter how its modules are called.
"""

import argparse
import csv
import fnmatch
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).resolve().parent.parent
FORK = multiprocessing.get_context("fork")
TIMEOUT = 1800  # seconds for one command, which takes a few on a machine that is not busy
SHOWN = 6  # parts that a line about a difference names

# Written into the folder of each training; `@` stands for the folder configs/ of the code that runs. Figures, which are
# not compared, would take more time than all the steps.
FILES = {
    "quick.yaml": """
name: golden
trainer:
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
  - {class_path: GradientFlowMonitor, init_args: {every_n_steps: 4, figures: false}}
  - {class_path: SpectralNormTracker, init_args: {every_n_steps: 6, figures: false}}
  - {class_path: UpdateDynamics, init_args: {every_n_steps: 4, figures: false}}
  - {class_path: LearningRateTracker, init_args: {every_n_steps: 3, momentum: true}}
  - {class_path: Checkpoints}
""",
    "study.yaml": """
question: Does the optimizer matter within twelve steps?
base: [@digits_mlp.yaml]
options: {model.network.hidden: [8], schedule: null, trainer.accelerator: cpu, trainer.max_epochs: 1,
  trainer.limit_train_batches: 12, trainer.log_every_n_steps: 2, trainer.callbacks: null, test_after_fit: false}
axes: {optimizer: {SGD: {optimizer: sgd}, Adam: {optimizer: adam}}}
tuning: {method: grid, seeds: [1000], space: {optimizer.lr: {log: [0.001, 0.1], points: 2}}, spaces: {Adam: {}}}
seeds: 2
metric: {name: val/accuracy, label: validation accuracy}
""",
}

DIGITS = """fit --config quick.yaml --config @digits_mlp.yaml --model.network.hidden [32,16] --trainer.max_epochs 2
    --trainer.log_every_n_steps 3"""
TEXT = """fit --config quick.yaml --config @tiny_text_gpt.yaml --model.network.layers 1 --model.network.width 32
    --data.block_size 32 --trainer.max_steps 24 --trainer.val_check_interval 12 --trainer.limit_val_batches 4
    --trainer.limit_test_batches 4 --trainer.log_every_n_steps 4"""
TOY = "fit --config quick.yaml --config @toy_rosenbrock.yaml --model.steps_per_epoch 40 --trainer.max_epochs 2"
BUDGET = "--optimizer.spectral_budget 0.01"
LAST = "runs/golden/version_0/checkpoints/last.ckpt"

# A training is one or more commands, run one after the other in a folder of its own. The slowest come first, so that
# none of them is left alone at the end. Options lead through more of the code than the defaults would.
TRAININGS = {
    "study": "study run study.yaml --jobs 1",
    "two_ranks": f"{DIGITS} --trainer.strategy ddp --trainer.devices 2 --data.random_crop 1",
    "full_callbacks": """fit --config @digits_mlp.yaml --config @callbacks/full.yaml --model.network.hidden [16,8]
        --trainer.accelerator cpu --trainer.max_epochs 2 --trainer.log_every_n_steps 5""",
    "landscape": f"{DIGITS} && landscape --ckpt_path {LAST} --resolution 7 --batches 2 --animate false",
    "lr_range_test": """lr_range_test --config @digits_mlp.yaml --trainer.accelerator cpu --model.network.hidden [16]
        --optimizers [momentum,adamw] --seeds [0,1] --steps 30""",
    "text": TEXT,
    "text_muon": f"{TEXT} --optimizer muon --optimizer.layer_decay 0.8 --model.network.dropout 0.1",
    "text_mup": f"{TEXT} --model.network.parametrization mup --model.network.width_mult 2",
    "toy": TOY,
    "toy_noise": f"{TOY} --model.objective Himmelblau --model.noise 0.5 --optimizer adam --optimizer.lr 0.05",
    "cnn_augmentation": f"""{DIGITS} --model.network SmallCNN --model.network.width_mult 0.25 --data.random_crop 1
        --data.crop_padding reflect --data.horizontal_flip alternating --data.cutout 2""",
    "resnet_flip": f"""{DIGITS} --model.network ResNet18 --model.network.width_mult 0.0625 --data.horizontal_flip true
        --trainer.limit_train_batches 8""",
    "vit_accumulation_norm": f"""{DIGITS} --model.network ViT --model.network.width 16 --model.network.heads 2
        --model.network.depth 2 --trainer.accumulate_grad_batches 2 --clipping norm --clipping.max_norm 0.3""",
    "mixer_accumulation_autoclip": f"""{DIGITS} --model.network MLPMixer --model.network.width 16
        --model.network.depth 2 --trainer.accumulate_grad_batches 3 --clipping autoclip""",
    "mup": f"{DIGITS} --model.network WidthMLP --model.network.parametrization mup --model.network.width_mult 0.25",
    "agc": f"{DIGITS} --clipping agc --schedule polynomial",
    "bfloat16": f"{DIGITS} --trainer.precision bf16-true --optimizer lion --optimizer.rounding stochastic",
    "rules": f"""{DIGITS} --optimizer muon --optimizer.layer_decay 0.8 --clipping norm --optimizer.rules
        '[{{role: head, lr_scale: 0.1}}, {{name: "*.bias", algorithm: sgd, clip: none}},
          {{role: input, weight_decay: 0.05, options: {{momentum: 0.8}}}}]'""",
    "option_schedules": f"""{DIGITS} --optimizer muon_sgd --optimizer.weight_decay 0.01 --option_schedules
        '{{weight_decay: {{schedule: linear}}, momentum: {{schedule: linear, at_zero: 0.5}}}}'""",
    # Stopped in the second epoch, and taken up from there; then from a validation inside the first epoch.
    "resume": f"""{DIGITS} --data.random_crop 1 --trainer.max_steps 25 &&
        {DIGITS} --data.random_crop 1 --trainer.max_epochs 3 --ckpt_path last""",
    "resume_best": f"""{DIGITS} --optimizer muon --trainer.val_check_interval 7 --trainer.max_steps 10 &&
        {DIGITS} --optimizer muon --trainer.val_check_interval 7 --ckpt_path best""",
    "sgd": f"{DIGITS} --optimizer sgd --optimizer.weight_decay 0.01 --schedule constant",
    "momentum": f"{DIGITS} --optimizer momentum --optimizer.dampening 0.1 --schedule linear",
    "nesterov": f"{DIGITS} --optimizer nesterov --schedule inverse_sqrt",
    "rmsprop": f"{DIGITS} --optimizer rmsprop --optimizer.centered true --schedule cosine_warm_restarts",
    "adam": f"{DIGITS} --optimizer adam --schedule warmup_stable_decay",
    "adamw": f"{DIGITS} --optimizer adamw --optimizer.amsgrad true --schedule one_cycle",
    "lbfgs": f"{DIGITS} --optimizer lbfgs --optimizer.max_iter 4 --optimizer.lr 0.5",
    "lion": f"{DIGITS} --optimizer lion --optimizer.weight_decay 0.1 --schedule step_decay",
    "sam": f"{DIGITS} --optimizer sam",
    "sam_adamw": f"{DIGITS} --optimizer sam --optimizer.adaptive true --optimizer.rho 0.3 --optimizer.base adamw",
    "muon": f"{DIGITS} --optimizer muon",
    "muon_sgd_none": f"{DIGITS} --optimizer muon_sgd --optimizer.inner_solver none",
    **{
        f"muon_sgd_{solver}": f"{DIGITS} --optimizer muon_sgd {BUDGET} --optimizer.inner_solver {solver}"
        for solver in ("exact", "spectral_clip", "frank_wolfe", "dual_ascent", "quasi_newton", "admm")
    },
    "muon_sgd_tangent": f"{DIGITS} --optimizer muon_sgd {BUDGET} --optimizer.tangent true",
    "muon_adamw": f"{DIGITS} --optimizer muon_adamw {BUDGET} --optimizer.amsgrad true",
    "autosgm": f"{DIGITS} --optimizer autosgm --optimizer.track_dynamics true --schedule autosgm_window",
    "autosgm_window": f"{DIGITS} --optimizer autosgm --optimizer.numerator chebyshev --optimizer.window raised_cosine",
    "composite": f"""{DIGITS} --optimizer composite --optimizer.algorithm muon
        --optimizer.rules '[{{ndim: 1, algorithm: lion}}]'""",
    **{
        f"reference_{name}": f"{DIGITS} --optimizer reference_{name}"
        for name in ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "lbfgs")
    },
}

# Imported before the processes of the trainings fork, which saves each of them most of its start.
HEAVY = ("lightning.pytorch.cli", "torchmetrics", "torchvision", "matplotlib.figure", "sklearn.metrics")

# What two runs of the same code may have otherwise: times, places, versions, and import paths of classes.
OTHERWISE = re.compile(r"second|time|path|folder|version|commit|command|host|class_|started|^key$", re.IGNORECASE)
NOT_COMPARED = re.compile(r"(^|/)(run\.json|environment\.json|histories/.*|trials/.*)$")
FINGERPRINT = re.compile(r"_[0-9a-f]{8}(?=/)")  # of options, in names of folders and scalars

Digests = dict[str, dict[str, str]]  # by kind (weights, optimizer, progress, scalars, files) and part
Record = dict[str, Digests]  # by training


def digest(value: Any) -> str:
    """The first 16 digits of the sha256 of tensors, numbers and words in any nesting, without what is OTHERWISE."""
    hasher = hashlib.sha256()
    _feed(hasher, value)
    return hasher.hexdigest()[:16]


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        hasher.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        flat = value.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
        hasher.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, numpy.ndarray):
        hasher.update(f"array {value.dtype} {value.shape} ".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        kept = {str(key): content for key, content in value.items() if not OTHERWISE.search(str(key))}
        hasher.update(f"mapping {len(kept)} ".encode())
        for key in sorted(kept):
            _feed(hasher, key)
            _feed(hasher, kept[key])
    elif isinstance(value, list | tuple):
        hasher.update(f"sequence {len(value)} ".encode())
        for content in value:
            _feed(hasher, content)
    elif value is None or isinstance(value, bool | int | float | str):
        hasher.update(f"{type(value).__name__} {value!r} ".encode())  # the repr of a float has all its bits
    else:
        raise TypeError(f"no digest of {type(value).__name__}: {value!r:.80}")


def digests(folder: Path) -> Digests:
    """Digests of what commands left in a folder, by kind and part."""
    found: Digests = {}
    for path in sorted(folder.rglob("*")):
        place = FINGERPRINT.sub("", path.relative_to(folder).as_posix())
        parts: dict[tuple[str, str], Any] = {}
        if NOT_COMPARED.search(place):
            continue
        if path.name == "last.ckpt":
            parts = _of_checkpoint(torch.load(path, map_location="cpu", weights_only=True))
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            parts = {("scalars", name): [row[name] for row in rows] for name in (rows[0] if rows else ())}
        elif ".tfevents." in path.name and path == min(path.parent.glob("*.tfevents.*")):  # it stands for all of them
            place = f"{Path(place).parent}/events"
            events = EventAccumulator(str(path.parent), {"scalars": 0}, purge_orphaned_data=False).Reload()
            for tag in events.Tags()["scalars"]:
                values = [(event.step, event.value) for event in events.Scalars(tag)]
                parts["scalars", FINGERPRINT.sub("", tag)] = values
        elif path.suffix == ".json":
            parts = {("files", "all"): json.loads(path.read_text())}
        elif path.suffix == ".npz":
            arrays = numpy.load(path)
            parts = {("files", name): arrays[name] for name in arrays if arrays[name].dtype.kind in "biufc"}
        for (kind, name), value in parts.items():
            if kind == "weights" or not OTHERWISE.search(name):
                found.setdefault(kind, {})[f"{place}: {name}"] = digest(value)
    return found


def _of_checkpoint(content: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    parts: dict[tuple[str, str], Any] = {("weights", name): value for name, value in content["state_dict"].items()}
    for number, state in enumerate(content["optimizer_states"]):
        for name, value in state.items():
            pieces = {f"{name} {key}": piece for key, piece in value.items()} if name == "state" else {name: value}
            parts |= {("optimizer", f"{number} {name}"): piece for name, piece in pieces.items()}
    parts |= {("progress", name): value for name, value in content.get("callbacks", {}).items()}
    for name in ("epoch", "global_step", "loops", "lr_schedulers", "scalars"):
        parts["progress", name] = content.get(name)
    return parts


def compare(one: Record, other: Record) -> list[str]:
    """A line for each kind of each training that differs, with the parts that do; none if all are equal."""
    lines = []
    for training in sorted(one.keys() | other.keys()):
        if training not in one or training not in other:
            lines.append(f"{training}: only in the {'first' if training in one else 'second'} record")
            continue
        for kind in sorted(one[training].keys() | other[training].keys()):
            ours, theirs = one[training].get(kind, {}), other[training].get(kind, {})
            names = sorted(ours.keys() | theirs.keys())
            differ = [name for name in names if ours.get(name) != theirs.get(name)]
            where = {name: " (first only)" for name in differ if name not in theirs}
            where |= {name: " (second only)" for name in differ if name not in ours}
            shown = [f"{name}{where.get(name, '')}" for name in differ[:SHOWN]]
            shown += [f"{len(differ) - SHOWN} more"] if len(differ) > SHOWN else []
            if differ:
                lines.append(f"{training}: {kind}: {len(differ)} of {len(names)} parts differ: {'; '.join(shown)}")
    return lines


def report(one: Record, other: Record) -> int:
    """Print what is equal and what differs; returns the exit code."""
    lines = compare(one, other)
    equal = sorted((one.keys() | other.keys()) - {line.partition(":")[0] for line in lines})
    print("\n".join([f"{len(equal)} trainings are equal to the bit: {', '.join(equal) or 'none'}", *lines]))
    return 1 if lines else 0


def record(tree: Path, names: Sequence[str], jobs: int) -> Record:
    """Run trainings with the code of a folder.

    Raises:
        SystemExit: if a training failed, after its errors were printed.
    """
    own = re.compile(r"SLURM_.*|.*RANK|WORLD_SIZE|MASTER_.*|TORCHELASTIC_.*|PL_.*|STEEPEST_.*|PYTHON.*")
    environment = {name: value for name, value in os.environ.items() if not own.fullmatch(name)}
    # One thread adds in one order on every machine.
    environment |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        # -P: this script's folder is not a place to import from.
        words = [sys.executable, "-P", str(Path(__file__).resolve()), "serve", str(tree), str(jobs), *names]
        if subprocess.run(words, cwd=folder, env=environment, check=False).returncode:
            raise SystemExit(f"no record of {tree}")
        return json.loads(Path(folder, "record.json").read_text())


def serve(tree: Path, jobs: int, names: Sequence[str]) -> int:
    """Run trainings in processes forked from this one and write record.json here; returns the exit code."""
    found, failed, begin = {}, [], time.monotonic()
    for module in HEAVY:
        importlib.import_module(module)
    with ProcessPoolExecutor(jobs, mp_context=FORK) as pool:
        runs = {pool.submit(_train, tree, Path.cwd() / name, TRAININGS[name]): name for name in names}
        for run in as_completed(runs):
            if error := run.exception():
                failed.append(runs[run])
                print(f"{runs[run]} FAILED: {error}", file=sys.stderr, flush=True)
            else:
                found[runs[run]] = run.result()
                print(f"{time.monotonic() - begin:4.0f} s  {runs[run]}", flush=True)
    Path("record.json").write_text(json.dumps(found))
    if failed:
        print(f"{len(failed)} of {len(names)} trainings failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _train(tree: Path, folder: Path, commands: str) -> Digests:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("@", f"{tree}/configs/"))
    for command in commands.split("&&"):
        words = [word.replace("@", f"{tree}/configs/") for word in shlex.split(command)]
        log = folder / "output.log"
        if words[0] == "study" or "ddp" in words:
            # They start processes of their own, and clean up behind them when the interpreter ends.
            alone = [sys.executable, "-m", "steepest", *words]
            with log.open("w") as file:
                code = subprocess.run(alone, cwd=folder, stdout=file, stderr=file, timeout=TIMEOUT).returncode
        else:
            process = FORK.Process(target=_run_here, args=(folder, words, log))
            process.start()
            process.join(TIMEOUT)
            process.kill()
            process.join()
            code = process.exitcode
        if code:
            raise RuntimeError(f"exit code {code} of steepest {shlex.join(words)}\n{log.read_text()[-3000:]}")
    return digests(folder)


def _run_here(folder: Path, words: Sequence[str], log: Path) -> None:
    """What `python -m steepest WORDS` does, in this process."""
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["steepest", *words]
    runpy.run_module("steepest", run_name="__main__", alter_sys=True)


def against(revision: str, names: Sequence[str], jobs: int) -> int:
    """Compare the code of a commit with the working tree; returns the exit code."""
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        tree = Path(folder).resolve() / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            before = record(tree, names, jobs)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    print(f"{revision} is recorded; now the working tree", flush=True)
    return report(before, record(REPOSITORY, names, jobs))


def _chosen(patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(TRAININGS, pattern):
            raise SystemExit(f"no training is called {pattern}; there are: {', '.join(TRAININGS)}")
    return [name for name in TRAININGS if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns or ["*"])]


def main() -> int:
    """Run one command; returns the exit code."""
    if sys.argv[1:2] == ["serve"]:
        return serve(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these trainings; wildcards are allowed")
    options.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    recording = commands.add_parser("record", parents=[options], help="run the trainings and write their digests")
    recording.add_argument("file", type=Path)
    recording.add_argument("--tree", type=Path, default=REPOSITORY, help="the checkout whose code runs")
    comparing = commands.add_parser("compare", help="say what is equal in two records and what differs")
    comparing.add_argument("records", nargs=2, type=Path)
    commands.add_parser("against", parents=[options], help="compare a commit and the working tree").add_argument("rev")
    given = parser.parse_args()
    if given.command == "compare":
        one, other = (json.loads(path.read_text()) for path in given.records)
        return report(one, other)
    if given.command == "against":
        return against(given.rev, _chosen(given.only), given.jobs)
    found = record(given.tree.resolve(), _chosen(given.only), given.jobs)
    given.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
