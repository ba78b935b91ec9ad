"""Documentation that cannot lie."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import lmaas
from lmaas.cli import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", lmaas.__all__)
def test_no_module_takes_the_name_of_what_the_package_gives(name: str) -> None:
    """An imported submodule becomes an attribute of the package, and would hide it."""
    assert not (ROOT / "src" / "lmaas" / f"{name}.py").exists()
    assert not (ROOT / "src" / "lmaas" / name).exists()


def test_the_reference_is_what_the_code_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "docs" / "generate.py"), run_name="__main__")
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    there = {p.name: p.read_text("utf-8") for p in (ROOT / "docs" / "reference").iterdir()}
    del there["architectures.md"], there["models.md"]  # `make sweep` writes them
    assert written == there, "run `make docs`"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_tree_in_the_readme_is_true(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    tree = text.partition("src/lmaas/\n")[2].partition("```")[0]
    package = ROOT / "src" / "lmaas"
    for entry in package.iterdir():
        if entry.name.startswith("__") or entry.suffix == ".txt":
            continue
        told = f"{entry.name}/" if entry.is_dir() else entry.name
        assert re.search(rf"(^|\s){re.escape(told)}", tree), f"{told} is not in {name}"
    for told in re.findall(r"^  (\w+/)", tree, re.M):
        assert (package / told).is_dir(), f"{name} has {told}"


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for command in COMMANDS:
        assert f"lmaas {command}" in text, command


def test_python_in_the_readme_compiles() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
