"""What README and help texts tell people to type has options that there are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from command_line import baton

from baton.bench.planning import command, simulate

README = Path(__file__).parents[2] / "README.md"
_COMMAND = re.compile(r"baton ([a-z]+(?: serve| compare| map| plot| routing [a-z]+)?)\b([^`#|\n]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def told() -> list[tuple[str, str]]:
    """(command, option), each once."""
    texts = [README.read_text(), command.EXAMPLES, simulate.EXAMPLES]
    joined = "\n".join(texts).replace("\\\n", " ")
    return sorted({
        (name, option)
        for name, rest in _COMMAND.findall(joined)
        for option in _OPTION.findall(rest)
    })


@cache
def help_of(name: str) -> str:
    done = baton(*name.split(), "--help", columns=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "option"), told())
def test_an_option_that_is_told_exists(name: str, option: str) -> None:
    assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(name)), f"baton {name} {option}"


def test_there_are_examples() -> None:
    assert {("plan", "--hardware"), ("profile", "--out"), ("up", "--ttft")} <= set(told())
