"""The `baton` command without a process of its own, for what is said before anything starts."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess
from unittest.mock import patch

from baton.deploy import cli


def baton(*arguments: str, stdin: str = "", columns: int = 120) -> CompletedProcess[str]:
    """As a process would end. What Python would show as a traceback is raised here."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with (
        patch.object(sys, "argv", ["baton", *arguments]),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        patch.object(sys, "excepthook", sys.excepthook),  # typer puts its own in place
        patch.dict("os.environ", environment),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
