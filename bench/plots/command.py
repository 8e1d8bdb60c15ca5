"""`baton bench plot`: pictures, a report and the page of documentation, from results.

  baton bench plot compare.jsonl --out pictures            # SVG
  baton bench plot compare.jsonl --out pictures --png
  baton bench plot *.jsonl --html report.html              # one file
  baton bench plot --page                                  # docs/benchmarks.md, in a checkout
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from baton.bench.plots.drawing import save
from baton.bench.plots.html import write_report
from baton.bench.plots.page import PAGE, PICTURES, RESULTS, page, read_all
from baton.bench.plots.pictures import pictures
from baton.bench.report import console
from baton.bench.results import latest, read
from baton.protocol.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    if options.page:
        _write_page()
    results = [result for file in options.files for result in latest(read(file))]
    if results and not options.html:
        for picture in pictures(results):
            path = options.out / f"{picture.name}{'.png' if options.png else '.svg'}"
            save(picture.figure, path)
            console().print(str(path), highlight=False)
    elif results:
        write_report(results, options.html)
        console().print(str(options.html), highlight=False)
    return 0


def _write_page() -> None:
    """The page with its pictures; those of before are removed."""
    if not RESULTS.is_dir():
        raise ConfigError(f"--page works in a checkout, where {RESULTS} is")
    results = read_all(RESULTS)
    drawn = list(pictures(results))
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    for picture in drawn:
        save(picture.figure, PICTURES / f"{picture.name}.svg")
    PAGE.write_text(page(results, drawn), encoding="utf-8")
    console().print(f"{PAGE}, {len(drawn)} pictures in {PICTURES}", highlight=False)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench plot", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", type=Path, nargs="*", help="of results, as --json writes them")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR",
                        help="where pictures go; default: here")
    parser.add_argument("--png", action="store_true", help="PNG instead of SVG")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a report instead of pictures")
    parser.add_argument("--page", action="store_true",
                        help=f"{PAGE} from {RESULTS}, in a checkout")
    options = parser.parse_args(arguments)
    if not options.files and not options.page:
        parser.error("name files of results, or --page")
    return options
