"""The layers: which package may import which, no import cycles, and no file or function too long to read at once."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SCRIPTS = {"main", "train_deit_imagenet100", "viz_random_10_vit_vs_deit", "study", "compare", "reproduce"}
BELOW = {"utils", "augmentation", "data_transform", "models", "image_datasets", "records"}
MAY_IMPORT = {
    "utils": set(),
    "augmentation": {"utils"},
    "data_transform": {"augmentation", "utils"},
    "models": {"utils"},
    "image_datasets": {"data_transform", "utils"},
    "records": {"models", "image_datasets", "utils"},
    "settings": {"records", "models", "image_datasets", "utils"},
    "training": {"records", "models", "image_datasets", "data_transform", "utils"},
    "analysis": BELOW | {"training"},
    "assembly": BELOW | {"settings", "analysis", "training"},
    "commands": BELOW | {"settings", "analysis", "training", "assembly"},
    "comparison": {"settings", "records", "utils", "image_datasets"},
    "experiments": {"settings", "records", "utils"},
    **{script: {"commands", "experiments", "comparison", "settings", "utils"} for script in SCRIPTS},
}
FILES = sorted(
    path.relative_to(REPO)
    for room in MAY_IMPORT
    for path in ((REPO / room).rglob("*.py") if (REPO / room).is_dir() else [REPO / f"{room}.py"])
    if path.is_file()
)


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse((REPO / file).read_text(encoding="utf-8"))


def module_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports(file: Path) -> set[str]:
    """The suite's modules that a file imports, including imports inside functions."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {"", module_of(file)}


def test_every_room_imports_only_what_lies_below():
    wrong = [
        f"{file} imports {name}"
        for file in FILES
        for name in imports(file)
        if (room := module_of(file).split(".")[0]) != name.split(".")[0] and name.split(".")[0] not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_commands_import_no_other_command():
    wrong = [
        f"{file} imports {name}"
        for file in FILES
        if file.parts[0] == "commands"
        for name in imports(file)
        if name.startswith("commands.") and file.name != "__init__.py"
    ]
    assert not wrong


def test_no_module_imports_itself_through_others():
    graph = {module: imports(file) for module, file in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("room", ["settings", "comparison", "experiments"])
def test_torch_is_not_imported_with_a_room_that_reads_flags(room):
    modules = [name for name in MODULES if name.split(".")[0] == room]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_file_or_function_is_too_long_to_read_in_one_sitting():
    long = [f"{file}: {len(lines)} lines" for file in FILES
            if len(lines := (REPO / file).read_text(encoding="utf-8").splitlines()) > 350]  # fmt: skip
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    long.append(f"{file}: {node.name} has {length} lines")
    assert not long


def test_the_loop_and_its_room_stay_small():
    assert len((REPO / "training/loop.py").read_text(encoding="utf-8").splitlines()) < 200
    assert len(list((REPO / "training").glob("*.py"))) <= 20
    assert all(len((REPO / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60 for name in SCRIPTS)
