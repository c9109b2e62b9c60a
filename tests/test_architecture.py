"""The rules of the architecture, read off the sources: one test a rule, which names every file that breaks it."""

import ast
import re
import subprocess
from functools import cache
from importlib import util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# What each folder may import of ours. Imports point down; nothing points back.
ALLOWED = {
    "common": set(),
    "optim": {"common"},
    "diagnostics": {"common"},
    "datamodules": {"common"},
    "lightning_modules/networks": {"common"},
    "lightning_modules/objectives": {"common"},
    "lightning_modules": {"common", "optim"},
    "callbacks": {"common", "diagnostics"},
    "steepest": {"common", "callbacks", "datamodules", "diagnostics", "lightning_modules", "optim"},
}
PARTS = {folder.partition("/")[0] for folder in ALLOWED}
LIGHTNING_FREE = ("common", "optim", "diagnostics", "lightning_modules/networks", "lightning_modules/objectives")
PARSERS = ("argparse", "jsonargparse", "click", "lightning.pytorch.cli")
# Where private names of these packages may be used; and by subclasses that override them, see the first.
OTHERS = ("lightning", "jsonargparse")
COMPAT = ("steepest/compat.py", "callbacks/compat.py")
# Names that stood at the top level once, where they met a user's own folders.
BARE = PARTS - {"steepest"}


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=REPOSITORY, capture_output=True, text=True
    )
    paths = [REPOSITORY / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file()] or sorted(
        path for pattern in patterns for path in REPOSITORY.rglob(pattern) if ".venv" not in path.parts
    )


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    return name if name.partition(".")[0] == "steepest" else f"steepest.{name}"


SOURCES = [path for part in sorted(PARTS) for path in sorted((REPOSITORY / part).rglob("*.py"))]
MODULES = {module_of(path): path for path in SOURCES}


def folder_of(path: Path) -> str:
    folder = path.relative_to(REPOSITORY).parent.as_posix()
    return max((known for known in ALLOWED if f"{folder}/".startswith(f"{known}/")), key=len)


@cache
def names_in(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """What a file imports and what its code uses, from one walk."""
    imported, used = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
    return frozenset(imported), frozenset(used)


def imports(path: Path) -> frozenset[str]:
    """Full names of all that is imported, also inside functions: "steepest.optim.registry.OPTIMIZERS"."""
    return names_in(path)[0]


def identifiers(path: Path) -> frozenset[str]:
    """Names and attributes that code uses, without comments and docstrings."""
    return names_in(path)[1]


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def part_of(name: str) -> str | None:
    """The part that a full name of ours belongs to; None for names of others."""
    first, _, rest = name.partition(".")
    if first != "steepest":
        return None
    part = rest.partition(".")[0]
    return part if part in PARTS else "steepest"


def short(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_sources_are_found():
    assert {folder_of(path) for path in SOURCES} == set(ALLOWED)
    assert len(SOURCES) > 100


def test_imports_point_down():
    wrong = []
    for path in SOURCES:
        own = folder_of(path)
        for name in imports(path):
            assert not name.startswith("."), f"{short(path)}: imports are absolute, so that they name the folder"
            part = part_of(name)
            inside = is_below(name, f"steepest.{own.replace('/', '.')}") or part == own
            if part is not None and not inside and part not in ALLOWED[own]:
                wrong.append(f"{short(path)} must not import {name}")
    assert not wrong


def check_no_circle(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(node: str, path: tuple[str, ...]) -> None:
        assert node not in path, " -> ".join([*path[path.index(node) :], node])
        if node not in done:
            for target in sorted(graph[node]):
                visit(target, (*path, node))
            done.add(node)

    for node in graph:
        visit(node, ())


def test_no_circles():
    targets = {
        module: {full if full in MODULES else full.rpartition(".")[0] for full in imports(path)}
        & (MODULES.keys() - {module})
        for module, path in MODULES.items()
    }
    check_no_circle(targets)


def test_no_circles_of_folders_in_the_application():
    homes = {module: short(path.parent) for module, path in MODULES.items() if short(path).startswith("steepest/")}
    # Modules of the application itself, such as errors.py, each for itself.
    homes = {module: home if home != "steepest" else module for module, home in homes.items()}
    graph: dict[str, set[str]] = {home: set() for home in homes.values()}
    for module, home in homes.items():
        for full in imports(MODULES[module]):
            target = homes.get(full) or homes.get(full.rpartition(".")[0])
            if target is not None and target != home:
                graph[home].add(target)
    check_no_circle(graph)


def test_pure_code_knows_no_lightning():
    wrong = [
        f"{short(path)} must not import {name}"
        for path in SOURCES
        if folder_of(path) in LIGHTNING_FREE
        for name in imports(path)
        if is_below(name, "lightning") or is_below(name, "pytorch_lightning") or name.startswith("lightning_")
    ]
    assert not wrong


def test_only_the_application_parses_arguments():
    wrong = []
    for path in SOURCES:
        if folder_of(path) != "steepest":
            parsing = {name for name in imports(path) if any(is_below(name, parser) for parser in PARSERS)}
            # The registry turns functions into classes that a parser understands; it parses nothing.
            if parsing - {"jsonargparse.typing.class_from_function"} or "argv" in identifiers(path):
                wrong.append(short(path))
    assert not wrong


def test_only_callbacks_and_the_application_name_the_trainer():
    others = [path for path in SOURCES if folder_of(path) not in ("steepest", "callbacks")]
    assert not [short(path) for path in others if "Trainer" in identifiers(path)]


def test_nothing_of_ours_is_imported_by_a_bare_name():
    wrong = [
        f"{short(path)}: {name}" for path in tracked("*.py") for name in imports(path) if name.partition(".")[0] in BARE
    ]
    assert not wrong


def private_names(source: str) -> set[str]:
    """Private functions, classes and attributes that a source defines."""
    return set(re.findall(r"(?:def |class |self\.)(_[a-zA-Z]\w*)", source))


def private_uses(tree: ast.AST) -> list[tuple[str, int]]:
    """Private names that code takes from elsewhere, with their lines."""
    uses = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            full = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            parts = [part for name in (*full, *(alias.name for alias in node.names)) for part in name.split(".")]
            uses += [(part, node.lineno) for part in parts if part.startswith("_")]
        elif isinstance(node, ast.Attribute):
            uses.append((node.attr, node.lineno))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            # getattr(trainer, "_results")
            words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            uses += [(word, node.lineno) for word in words]
    return [(name, line) for name, line in uses if re.fullmatch(r"_[a-zA-Z]\w*", name)]


def test_private_names_of_others_stand_in_the_compat_modules():
    folders = [Path(place) for name in OTHERS for place in util.find_spec(name).submodule_search_locations]
    modules = {path for folder in folders for path in folder.rglob("*.py")}
    theirs = {name for path in modules for name in private_names(path.read_text(encoding="utf-8"))}
    theirs |= {path.stem for path in modules}
    # What a class of ours overrides it may also call; the table in compat names it, its test compares the two.
    table = ast.get_docstring(ast.parse((REPOSITORY / COMPAT[0]).read_text())) or ""
    theirs -= set(re.findall(r"\.(_\w+)`", table))
    wrong = []
    for path in SOURCES:
        source = path.read_text()
        own = private_names(source)
        for name, line in private_uses(ast.parse(source)) if short(path) not in COMPAT else ():
            if name in theirs - own:
                wrong.append(f"{short(path)}:{line} uses {name}: bring it into {' or '.join(COMPAT)}")
    assert not wrong
