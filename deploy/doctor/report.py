"""Runs all checks and shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from baton.deploy.doctor.fabric import check_fabric
from baton.deploy.doctor.findings import Finding, Level
from baton.deploy.doctor.machine import check_machine
from baton.deploy.doctor.software import check_gpus, check_software

_MARKS = {
    Level.OK: "[green]✓[/]",
    Level.LACK: "[yellow]-[/]",
    Level.MISSING: "[bold red]✗[/]",
}


def run_doctor(*, as_json: bool = False) -> int:
    """0 unless something is missing that Baton cannot serve without."""
    findings = [*check_machine(), *check_gpus(), *check_fabric(), *check_software()]
    missing = sum(finding.level is Level.MISSING for finding in findings)
    if as_json:
        plain = [{**asdict(finding), "level": finding.level.value} for finding in findings]
        print(json.dumps({"can_serve": not missing, "findings": plain}, indent=2))
    else:
        _show(Console(highlight=False), findings, missing)
    return 1 if missing else 0


def _show(console: Console, findings: Sequence[Finding], missing: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("", style="cyan", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("this machine", overflow="fold")
    table.add_column("what that means", style="dim", overflow="fold")
    area = ""
    for finding in findings:
        if area and finding.area != area:
            table.add_section()
        shown = "" if finding.area == area else finding.area
        area = finding.area
        table.add_row(
            _MARKS[finding.level],
            shown,
            finding.what,
            escape(finding.value),
            escape(finding.note),
        )
    console.print(table)
    lacks = sum(finding.level is Level.LACK for finding in findings)
    if missing:
        console.print(f"\n[bold red]Cannot serve here:[/] {missing} required thing(s) missing.")
    else:
        console.print(f"\n[bold green]Can serve here[/] ({lacks} lack(s), see the last column).")
