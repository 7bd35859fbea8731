"""Every public name is listed, exists and says what it is."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("converters", "graphnets", "experiments")
# Importing the module runs the program.
PROGRAMS = {"experiments.__main__"}


def modules() -> list[str]:
    """The dotted names of all public modules, found without importing them."""
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    return sorted(name for name in names - PROGRAMS if not any(part.startswith("_") for part in name.split(".")))


def is_generated(cls: type) -> bool:
    """Whether Python wrote the class's docstring (as it does for dataclasses)."""
    return dataclasses.is_dataclass(cls) and (cls.__doc__ or "").startswith(f"{cls.__name__}(")


def own_doc(cls: type) -> str | None:
    inherited = issubclass(cls, enum.Enum) and cls.__doc__ == enum.Enum.__doc__
    return None if inherited or is_generated(cls) else cls.__dict__.get("__doc__")


def public_methods(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
            yield name


def missing(module: ModuleType) -> list[str]:
    """Names of ``module.__all__``, and methods of its classes, that have no docstring.

    An overriding method may leave it to the one it overrides, as `forward` does where the class says it all.
    """
    faults = [] if (module.__doc__ or "").strip() else [f"{module.__name__}: the module"]
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            faults += [] if own_doc(value) else [f"{module.__name__}.{name}"]
            silent = [method for method in public_methods(value) if not inspect.getdoc(getattr(value, method))]
            faults += [f"{module.__name__}.{name}.{method}" for method in silent]
        elif inspect.isroutine(value):
            faults += [] if inspect.getdoc(value) else [f"{module.__name__}.{name}"]
    return faults


@pytest.mark.parametrize("name", modules())
def test_public_names_are_listed_and_described(name: str) -> None:
    module = importlib.import_module(name)
    given = {key for key, value in vars(module).items() if key[0] != "_" and not isinstance(value, ModuleType)}
    listed = getattr(module, "__all__", None if given - {"annotations"} else [])
    assert listed is not None, f"{name} has no __all__"
    absent = [entry for entry in listed if not hasattr(module, entry)]
    assert not absent, f"{name}.__all__ lists what is not there: {absent}"
    assert len(set(listed)) == len(listed), f"{name}.__all__ lists a name twice"
    assert not missing(module), "no docstring:\n  " + "\n  ".join(missing(module))


def test_the_check_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import dataclasses\n"
        "@dataclasses.dataclass\nclass Silent:\n    x: int\n    def method(self): ...\n"
        "class Base:\n    'Doc.'\n    def forward(self):\n        'Doc.'\n"
        "class Fine(Base):\n    'Doc.'\n    def forward(self): ...\n"
        "def silent(): ...\n"
        "def fine():\n    'Doc.'\n"
        "__all__ = ['Base', 'Fine', 'Silent', 'fine', 'silent']\n"
    )
    module = ModuleType("sample", "A module.")
    monkeypatch.setitem(sys.modules, "sample", module)
    exec(source, vars(module))
    assert missing(module) == ["sample.Silent", "sample.Silent.method", "sample.silent"]
