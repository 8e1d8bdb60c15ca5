"""Packaging lists what there is, and files stay small."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "protocol", "kernels", "kvtransfer", "engine", "prefill", "decode", "router", "bench", "deploy",
)
MAX_LINES = 450


def test_packages_are_listed_exactly() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        f"baton.{'.'.join(init.parent.relative_to(ROOT).parts)}"
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(tool["packages"]) == found
    assert len(tool["packages"]) == len(found), "listed twice"
    for package, folder in tool["package-dir"].items():
        assert package == f"baton.{folder.replace('/', '.')}"


def test_every_folder_with_code_is_a_package() -> None:
    for folder in FOLDERS:
        for source in (ROOT / folder).rglob("*.py"):
            assert (source.parent / "__init__.py").is_file(), f"{source.parent} has no __init__.py"


def test_top_level_packages_are_typed() -> None:
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").is_file(), folder


def test_the_root_is_not_importable() -> None:
    """A folder named `kernels` on the path would shadow Hugging Face's package of that name."""
    for folder in FOLDERS:
        spec = find_spec(folder)
        assert spec is None or spec.origin != str(ROOT / folder / "__init__.py"), folder
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_files_stay_small() -> None:
    folders = (*FOLDERS, "tests")
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {name: lines for name, lines in sizes.items() if lines > MAX_LINES}


def says_what_it_is(text: str) -> bool:
    """Whether a module begins with a docstring; parsing it all takes far longer."""
    return re.match(r'(#.*\n|\s)*"""\s*[^"\s]', text) is not None


def test_every_module_says_what_it_is() -> None:
    bare = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not says_what_it_is(path.read_text())
    ]
    assert not bare


def test_the_constraints_pin_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in [entry for group in groups for entry in group]:
        name = requirement.partition(";")[0].strip()
        for mark in "><=~[ ":
            name = name.partition(mark)[0]
        assert name.lower().replace("_", "-") in pinned, f"{name} is not in constraints.txt"
