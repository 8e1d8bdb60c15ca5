"""What all pictures have in common: a title that says what was run where, colours, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, TextIO

from baton.protocol.errors import ConfigError

FAMILIES = {"colocated": "#c8553d", "split": "#28666e", "auto": "#7a9e3f", "peer": "#6c6f7f"}
"""Colours."""
_SHADES = (1.0, 0.75, 0.55, 0.4, 0.3)
_MARKS = "osD^vPX*"


def canvas(
    title: str, ran: Mapping[str, Any], *, columns: int = 1, width: float = 9.0, height: float = 4.5
) -> tuple[Any, list[Any]]:
    """A figure and its axes, side by side. `ran`: of the result, told in small print. Raises
    ConfigError without matplotlib."""
    figure = _matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    figure.suptitle(fill(title, int(13 * width)), fontsize=11)
    figure.supxlabel(small_print(ran, int(18 * width)), fontsize=6.5, color="#666666")
    for each in axes:
        each.grid(True, color="#e4e4e4", linewidth=0.7)
        each.set_axisbelow(True)
    return figure, list(axes)


def small_print(ran: Mapping[str, Any], width: int = 200) -> str:
    """Where, and by which command, in lines of so many characters."""
    command = fill(str(ran.get("command", "")), width, break_on_hyphens=False)
    return f"{ran.get('cpu')}, {ran.get('cores')} cores, commit {ran.get('commit')}\n{command}"


def logarithmic(axes: Any, *, x: bool = True, y: bool = True) -> None:
    """With plain numbers at 1, 2 and 5."""
    ticker = _matplotlib().ticker
    for wanted, scale, axis in ((x, axes.set_xscale, axes.xaxis), (y, axes.set_yscale, axes.yaxis)):
        if wanted:
            scale("log")
            axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())


def save(figure: Any, path: Path) -> None:
    """By the suffix: SVG or PNG. The same figure gives the same SVG. Raises ConfigError for another
    suffix, or where it cannot be written."""
    if path.suffix not in (".svg", ".png"):
        raise ConfigError(f"{path}: pictures are .svg or .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            with path.open("w", encoding="utf-8") as file:
                save_to(figure, file)
        else:
            figure.savefig(path, dpi=120)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def save_to(figure: Any, file: TextIO) -> None:
    """As SVG, with text as text."""
    with _matplotlib().rc_context({"svg.hashsalt": "baton", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def colours(names: Sequence[str], families: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Of each layout a colour, one shade for each member of a family, and a mark."""
    to_rgb = _matplotlib().colors.to_rgb
    found: dict[str, tuple[Any, str]] = {}
    count: dict[str, int] = {}
    for place, (name, family) in enumerate(zip(names, families, strict=True)):
        if name in found:
            continue
        shade = _SHADES[min(count.get(family, 0), len(_SHADES) - 1)]
        count[family] = count.get(family, 0) + 1
        base = to_rgb(FAMILIES.get(family, "#444444"))
        mixed = tuple(part * shade + (1 - shade) for part in base)
        found[name] = (mixed, _MARKS[place % len(_MARKS)])
    return found


def bars(axes: Any, cases: Sequence[str], heights: Mapping[str, Sequence[float | None]]) -> None:
    """Groups of bars, one group for each case, and a legend. What is None has no bar."""
    width = 0.8 / max(1, len(heights))
    for index, (name, values) in enumerate(heights.items()):
        places = [at + index * width - 0.4 + width / 2 for at in range(len(cases))]
        axes.bar(places, [value or 0.0 for value in values], width, label=name)
    axes.set_xticks(range(len(cases)), cases)
    axes.legend(fontsize=7, ncols=2)


def _matplotlib() -> Any:
    """Without `pyplot`, whose state is global and which looks for a screen."""
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.backends.backend_svg
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'baton-serve[plot]'") from error
    return matplotlib
