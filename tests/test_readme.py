"""The README is true: its Python runs, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    lines = "\n".join(blocks(text, "bash", "sh", "console")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].removeprefix("$ ").strip() for line in lines if line.split("#")[0].strip()]


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))


def command_faults(command: str) -> list[str]:
    words = command.split()
    if words[0] == "make":
        goals = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        return [f"make has no target {goal!r}" for goal in goals if goal not in make_targets()]
    found = re.search(r"\bexperiment=([\w/]+)", command)
    if words[:3] == ["python", "-m", "experiments"] and found:
        config = ROOT / "configs" / "experiment" / f"{found[1]}.yaml"
        return [] if config.exists() else [f"there is no {config.relative_to(ROOT)}"]
    return []


@pytest.mark.parametrize("page", ["README.md", "docs/layers.md"])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    assert code, f"{page} shows no Python"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(code):
        exec(compile(block, f"{page} block {number}", "exec"), namespace)


def test_commands_exist() -> None:
    found = commands(README)
    assert {"make demo", "make test"} <= set(found)
    faults = [fault for command in found for fault in command_faults(command)]
    assert not faults, "\n".join(faults)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)|<img[^>]*src=\"([^\"]+)\"", README)
    local = [link for pair in links for link in pair if link and "://" not in link]
    assert local, "the README links to nothing"
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_checks_find_what_they_are_for() -> None:
    assert command_faults("make nothing-of-that-name")
    assert command_faults("python -m experiments experiment=no/such")
    assert blocks("```python\nx = 1\n```\n```bash\nmake\n```\n", "python") == ["x = 1\n"]
