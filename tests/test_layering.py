"""The architecture as a test: imports point one way; the lower layers know neither disk nor frameworks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {"converters": set(), "graphnets": {"converters"}, "experiments": {"graphnets", "converters"}}
FRAMEWORKS = {
    "hydra",
    "omegaconf",
    "lightning",
    "pytorch_lightning",
    "ray",
    "pandas",
    "pyarrow",
    "matplotlib",
}
FORBIDDEN = {
    "converters": {*FRAMEWORKS, "matplotlib", "sklearn", "torchmetrics"},
    "graphnets": {*FRAMEWORKS, "matplotlib"},
    "experiments": set(),
}
# The only rooms below experiments that read or write files.
DISK_ROOMS = {"converters/load_weights.py", "graphnets/hub.py"}
DISK_NAMES = {"open", "load_file", "save_file", "safe_open", "memmap", "fromfile", "loadtxt", "savez"}
DISK_METHODS = {"read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink", *DISK_NAMES}
DISK_MODULES = {"torch", "np", "numpy", "pickle", "json"}
MAX_LINES = 400


def sources() -> list[Path]:
    return sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call, with the name called and what stands before its dot ('' if nothing does)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node, node.func.attr, ast.unparse(node.func.value)
            elif isinstance(node.func, ast.Name):
                yield node, node.func.id, ""


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every absolute import as (line, top-level name), those inside functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def import_faults(package: str, tree: ast.AST) -> list[str]:
    banned = (set(ALLOWED) - ALLOWED[package] - {package}) | FORBIDDEN[package] | {"tests", "benchmarks"}
    return [f"line {line}: {package} must not import {module}" for line, module in imported(tree) if module in banned]


def disk_faults(tree: ast.AST) -> list[str]:
    return [
        f"line {node.lineno}: {ast.unparse(node.func)} touches the disk"
        for node, called, before in calls(tree)
        if (before == "" and called in DISK_NAMES)
        or (before != "" and called in DISK_METHODS)
        or (before in DISK_MODULES and called in {"load", "save", "dump"})
    ]


DEVICE_METHODS = ("cuda", "xpu", "ipu", "hpu")
"""Methods of modules and tensors that go to a device by its name."""

LOAD = "torch.load(x, weights_only={})"
"""How a file is read, up to what it may hold."""


def safety_faults(tree: ast.AST) -> list[str]:
    writing = {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} <= {"Pickler", "PicklingError"}
    }
    faults = [
        f"line {line}: reading a pickle runs code"
        for line, module in imported(tree)
        if module == "pickle" and line not in writing
    ]
    for node, called, before in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in DEVICE_METHODS and before not in {"", "torch"}:
            faults.append(f"line {node.lineno}: {called}() chooses a device for the user")
        if before == "torch" and called == "load" and keywords.get("weights_only") != "True":
            faults.append(f"line {node.lineno}: torch.load without weights_only=True runs code")
        if before == "" and called in {"eval", "exec"}:
            faults.append(f"line {node.lineno}: {called}() runs code")
        if before in {"np", "numpy"} and called == "load" and keywords.get("allow_pickle", "False") != "False":
            faults.append(f"line {node.lineno}: np.load(allow_pickle=True) runs code")
    return faults


def init_faults(tree: ast.Module) -> list[str]:
    """An ``__init__.py`` only hands names on: a docstring, imports and ``__all__``."""
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    return [
        f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}"
        for node in body
        if not isinstance(node, (ast.Import, ast.ImportFrom))
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"__all__", "__version__"})
    ]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def report(check, paths: list[Path]) -> None:
    faults = [f"{name(path)} {fault}" for path in paths for fault in check(path)]
    assert not faults, "\n" + "\n".join(faults)


def test_every_package_is_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(ALLOWED)


def test_imports_point_down() -> None:
    report(lambda path: import_faults(path.relative_to(ROOT).parts[0], parse(path)), sources())


def test_layers_know_no_disk() -> None:
    lower = [path for path in sources() if not name(path).startswith("experiments/")]
    report(lambda path: disk_faults(parse(path)), [path for path in lower if name(path) not in DISK_ROOMS])


def test_nothing_runs_foreign_code_or_picks_a_device() -> None:
    report(lambda path: safety_faults(parse(path)), sources())


def test_inits_only_hand_names_on() -> None:
    report(lambda path: init_faults(parse(path)), [path for path in sources() if path.name == "__init__.py"])


def test_every_folder_is_a_package() -> None:
    folders = sorted({path.parent for path in sources()})
    report(lambda folder: [] if (folder / "__init__.py").exists() else ["has no __init__.py"], folders)


def test_no_file_is_too_long() -> None:
    def check(path: Path) -> list[str]:
        length = len(path.read_text(encoding="utf-8").splitlines())
        return [f"has {length} lines, at most {MAX_LINES} are wanted"] if length > MAX_LINES else []

    others = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    report(check, [*sources(), *others])


def below(package: str):
    return lambda tree: import_faults(package, tree)


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (
            lambda tree: import_faults("converters", tree),
            "def f():\n    import graphnets.nfn",
            "import converters.x",
        ),
        (
            lambda tree: import_faults("graphnets", tree),
            "from experiments import zoo",
            "from converters import trace",
        ),
        (below("graphnets"), "import lightning.pytorch", "import torch"),
        (disk_faults, "open('x')", "session.opened('x')"),
        (disk_faults, "path.read_text()", "text.upper()"),
        (disk_faults, "torch.load('x', weights_only=True)", "model.load_state_dict(x)"),
        (disk_faults, "from safetensors.torch import load_file\nload_file(x)", "loader(x)"),
        (safety_faults, "torch.load(x)", "torch.load(x, weights_only=True)"),
        *((safety_faults, LOAD.format(value), LOAD.format("True")) for value in ("False", "None", "trusted")),
        *((safety_faults, f"model.{name}()", f"torch.{name}.is_available()") for name in DEVICE_METHODS),
        (safety_faults, "eval('1')", "model.eval()"),
        (safety_faults, "import pickle", "import json"),
        (safety_faults, "from pickle import Pickler, loads", "from pickle import Pickler"),
        (safety_faults, "np.load(x, allow_pickle=True)", "np.load(x)"),
        (init_faults, "def helper(): ...", '"""Doc."""\nfrom a import b\n__all__ = ["b"]'),
    ],
)
def test_checks_find_what_they_are_for(check, bad: str, good: str) -> None:
    assert check(ast.parse(bad))
    assert not check(ast.parse(good))
