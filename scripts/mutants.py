"""How many small faults do the quick tests near a file notice? Mutation tests on a random sample.

    python scripts/mutants.py --sample 200 --seed 0

The faults are those of cosmic-ray (extra `mutants`): other operators and comparisons, numbers off by one, conditions
negated, loops that never run, decorators taken off. Left out are annotations, sizes and colours of figures, and what
fails wherever it runs, such as a shift of floats. Places are drawn uniformly over all places, then one fault at each.
Only the mutators are used, not the runner: it would import PyTorch once a fault. Here each fault is written into a copy
of the repository by a fork of a process that has imported the libraries, but nothing of ours.

A fault counts as noticed if a test fails on it that passes without it. The tests are the quick ones of the mirrored
folder (`optim/core/rounding.py`: `tests/optim/core`) that import the file, or anything of its folder if none does.
"""

import argparse
import ast
import contextlib
import importlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("optim", "diagnostics", "callbacks", "steepest/study/analysis")
# What tests import of others; forks share it.
LIBRARIES = (
    *(
        "torch",
        "torchvision",
        "lightning.pytorch",
        "lightning.pytorch.cli",
        "torchmetrics.classification",
        "jsonargparse",
    ),
    *("matplotlib.pyplot", "scipy.stats", "scipy.optimize", "sklearn.datasets", "pytest", "hypothesis", "joblib"),
    *("tensorboard.backend.event_processing.event_accumulator", "torch.utils.tensorboard", "torch._dynamo"),
)
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
BITS = ("BitOr", "BitAnd", "BitXor")
# Arguments that no test should fix: looks, and a guard against our own mistakes.
LOOKS = frozenset(
    "figsize dpi linewidth linewidths markersize s alpha zorder fontsize size pad w_pad h_pad labelpad xytext rotation "
    "height_ratios width_ratios shrink aspect elev azim capsize color colors linestyle strict".split()
)
SECONDS_A_TEST = 180  # a test that hangs on a fault has noticed it
SECONDS_A_FAULT = 1200
ENDED = "(the process ended)"


@dataclass(frozen=True)
class Place:
    """A piece of code and the faults that can be put there: names of operators of cosmic-ray, and which of several."""

    file: str
    line: int
    column: int
    faults: tuple[tuple[str, int], ...]


def places(file: str, source: str) -> Iterator[Place]:
    """All places of a file where cosmic-ray can put a fault."""
    for node in nodes(source):
        found = tuple(
            (name, index)
            for name, operator in operators().items()
            for index, _ in enumerate(operator.mutation_positions(node))
        )
        if found:
            line, column = node.start_pos
            yield Place(file, line, column, found)


def nodes(source: str) -> Iterator[Any]:
    """The nodes of a file outside annotations, in order."""
    from cosmic_ray.ast import get_ast  # pyright: ignore[reportMissingImports]

    def below(node: Any) -> Iterator[Any]:
        # Most leaves are names and brackets, which no operator takes; asking 200 operators about each takes minutes.
        if (
            node.type not in ("name", "string", "newline", "endmarker")
            and getattr(node, "value", "") not in "()[]{},.:="
        ):
            yield node
        if node.type == "argument" and getattr(node.children[0], "value", "") in LOOKS:
            return
        children = getattr(node, "children", [])
        # Where an annotation stands: `x: int`, `x: int = 0` and `-> int`.
        place = {"tfpdef": 2, "annassign": 1, "funcdef": 4}.get(node.type, len(children))
        if node.type == "funcdef" and node.annotation is None:
            place = len(children)
        for number, child in enumerate(children):
            if number != place:
                yield from below(child)

    yield from below(get_ast(source))


def operators() -> dict[str, Any]:
    """The operators of cosmic-ray by name."""
    if not _OPERATORS:
        provider = importlib.import_module("cosmic_ray.operators.provider").OperatorProvider()
        _OPERATORS.update({name: provider[name]() for name in provider if makes_sense(name)})
    return _OPERATORS


_OPERATORS: dict[str, Any] = {}


def makes_sense(operator: str) -> bool:
    """Whether an operator makes faults that people make and that do not fail wherever they run."""
    if operator.startswith("ReplaceBinaryOperator_"):
        return any(set(operator.split("_")[1:]) <= set(kind) for kind in (ARITHMETIC, BITS))
    return operator not in ("VariableReplacer", "VariableInserter")


def with_fault(source: str, place: Place, fault: tuple[str, int]) -> str:
    """The source with one fault."""
    name, index = fault
    operator = operators()[name]
    for node in nodes(source):
        here = node.start_pos == (place.line, place.column)
        if here and len(list(operator.mutation_positions(node))) > index:
            changed = operator.mutate(node, index)
            if changed is not node:
                siblings = node.parent.children
                siblings[siblings.index(node)] = changed
                changed.parent = node.parent
            return changed.get_root_node().get_code() if changed.parent else changed.get_code()
    raise ValueError(f"no place for {name} at {place.file}:{place.line}:{place.column}")


def compiles(source: str) -> bool:
    """Whether Python reads it; a star or slash between arguments looks like an operator."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def near_tests(repository: Path, file: str) -> list[str]:
    """Test files of the mirrored folder that import this file, those of its name first."""
    source = Path(file)
    module = ".".join(source.with_suffix("").parts).removesuffix(".__init__").removeprefix("steepest.")
    folder = Path("tests", *source.parent.parts)
    while not (repository / folder).is_dir():
        folder = folder.parent
    tests = sorted((repository / folder).rglob("test_*.py"))
    direct = [path for path in tests if f"steepest.{module} import" in path.read_text()]
    chosen = direct or [path for path in tests if f"steepest.{module.rpartition('.')[0]}" in path.read_text()] or tests
    named = f"test_{source.stem}"
    ordered = sorted(chosen, key=lambda path: (not path.stem.startswith(named), path))
    return [path.relative_to(repository).as_posix() for path in ordered]


class FirstFailure:
    """Plugin of pytest: which test, or file that could not be collected, failed first."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failed test."""
        if report.failed:
            self.name = self.name or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


def run_tests(copy: Path, tests: list[str], result: Path) -> None:
    """Run tests in a copy of the repository until one fails; leaves the exit code and its name in `result`."""
    os.setpgrp()
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (REPOSITORY, copy))]
    output = os.open(copy / ".output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import pytest

    failure = FirstFailure()
    options = ["-x", "-q", "-m", "not slow", f"--timeout={SECONDS_A_TEST}", "--hypothesis-seed=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is there already
    code = pytest.main([*options, *tests], plugins=[failure])
    result.write_text(json.dumps([int(code), failure.name]))
    os._exit(0)


class Copy:
    """A copy of the repository, in which one fault at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            if (REPOSITORY / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, folder / name)
        self._clock = 1

    def write(self, file: str, source: str) -> None:
        """Change a file, at a time of its own: Python's compiled files are told apart by time and size."""
        self._clock += 1
        (self.folder / file).write_text(source)
        os.utime(self.folder / file, (self._clock, self._clock))

    def failure(self, tests: list[str]) -> str:
        """The first test that fails; "" if none does."""
        result = self.folder / ".result"
        result.unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=run_tests, args=(self.folder, tests, result))
        process.start()
        process.join(SECONDS_A_FAULT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        if not result.exists():
            return f"{tests[0]} {ENDED}"
        code, name = json.loads(result.read_text())
        return name or ("" if code in (0, 5) else tests[0])


def interval(noticed: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if total == 0:
        return 0.0, 1.0
    z, share = 1.959964, noticed / total
    middle, scale = share + z * z / (2 * total), 1 + z * z / total
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / scale, (middle + half) / scale


def main() -> None:
    """Draw the sample, try it, and print the table and what was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="number of faults")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="faults tried at the same time")
    parser.add_argument("folders", nargs="*", default=FOLDERS, help="where faults are put")
    options = parser.parse_args()
    try:
        operators()
    except ImportError as error:
        raise SystemExit(f"{error}: pip install -e '.[mutants]'") from None
    for library in LIBRARIES:
        importlib.import_module(library)

    files = sorted(path for folder in options.folders for path in (REPOSITORY / folder).rglob("*.py"))
    sources = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in files}
    everywhere = [place for file, source in sources.items() for place in places(file, source)]
    generator = random.Random(options.seed)
    generator.shuffle(everywhere)
    drawn = ((place, generator.choice(place.faults)) for place in everywhere)
    sample = list(
        islice((each for each in drawn if compiles(with_fault(sources[each[0].file], *each))), options.sample)
    )
    print(f"{len(everywhere):,} places in {len(files)} files; {len(sample)} faults, seed {options.seed}", flush=True)

    verdicts: dict[str, list[bool]] = defaultdict(list)
    passing: set[str] = set()
    unnoticed: list[str] = []
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Copy(Path(scratch, str(number), "repository")) for number in range(options.jobs)]

        def attempt(drawn: tuple[Place, tuple[str, int]]) -> None:
            place, fault = drawn
            with lock:
                copy = copies.pop()
            source = sources[place.file]
            mutated = with_fault(source, place, fault)
            copy.write(place.file, mutated)
            tests = near_tests(copy.folder, place.file)
            while failed := copy.failure(tests):
                copy.write(place.file, source)
                if failed in passing or ENDED in failed or not copy.failure([failed]):
                    break
                # A test that fails without the fault too proves nothing: the others decide.
                print(f"{failed} fails without a fault", flush=True)
                tests = [*tests, "--deselect", failed]
                copy.write(place.file, mutated)
            copy.write(place.file, source)
            with lock:
                passing.add(failed)
                copies.append(copy)
                verdicts[str(Path(place.file).parent)].append(bool(failed))
                old, new = source.splitlines(), mutated.splitlines()
                line = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), place.line - 1)
                told = f"{place.file}:{line + 1} {fault[0]}: {old[line].strip()} -> {new[line].strip()}"
                print(
                    f"{'noticed  ' if failed else 'UNNOTICED'} {told}" + (f"  [{failed}]" if failed else ""), flush=True
                )
                if not failed:
                    unnoticed.append(told)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(attempt, sample))

    print("\nfolder, faults, noticed, share (95 % interval)")
    for folder, each in [*sorted(verdicts.items()), ("all", [each for some in verdicts.values() for each in some])]:
        low, high = interval(sum(each), len(each))
        share = sum(each) / max(1, len(each))
        print(f"{folder:36} {len(each):5} {sum(each):5}  {share:4.0%} ({low:.0%} to {high:.0%})")
    print("\nnot noticed:", *sorted(unnoticed), sep="\n")


if __name__ == "__main__":
    main()
