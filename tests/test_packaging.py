"""What `pip install` puts on a user's machine: the three packages with their configs, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "converters",
    "graphnets",
    "experiments",
    "configs",
    "tests",
)


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a wheel, built from a copy so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name)
        else:
            shutil.copy(source, copy / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    result = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (wheel,) = copy.glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_wheel_holds_the_packages_and_the_configs(wheel_files: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel_files} == {
        "converters",
        "graphnets",
        "experiments",
        "configs",
    }
    for package in ("converters", "graphnets", "experiments"):
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert modules <= wheel_files
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs
    assert configs <= wheel_files


def test_wheel_holds_no_build_products(wheel_files: set[str]) -> None:
    assert [name for name in wheel_files if "__pycache__" in name or name.endswith(".pyc")] == []


def test_lowest_constraints_are_the_ends_of_the_ranges() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)', listed[1]))
    assert len(bounds) >= 15
    lowest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE))
    padded = {name: f"{version}.0.0".split(".")[:3] for name, version in bounds.items()}
    assert {name: f"{version}.0".split(".")[:3] for name, version in lowest.items()} == padded


def test_every_dependency_is_pinned_for_every_python() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = set(re.findall(r'"([a-z][\w-]+)(?:>=|==)', project)) - {"setuptools"}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    unpinned = [name for name in sorted(names) if not re.search(rf"^{name}==", pins, re.MULTILINE)]
    assert unpinned == []
    newer = set(re.findall(r'^([\w-]+)==\S+; python_version >= "3\.11"$', pins, re.MULTILINE))
    older = set(re.findall(r'^([\w-]+)==\S+; python_version < "3\.11"$', pins, re.MULTILINE))
    assert newer & names <= older | {"sphinx", "myst-parser", "furo"}, "Python 3.10 has no pin"
