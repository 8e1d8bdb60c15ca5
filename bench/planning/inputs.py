"""Options that `baton plan` and `baton simulate` share, and what they mean. Everything is checked
here; each mistake is one line (ConfigError) that says what would be right."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import NoReturn

from baton.bench import durations
from baton.bench.durations import share
from baton.bench.planning.hardware.kinds import WorkerKind, worker_kinds
from baton.bench.planning.hardware.links import parse_link
from baton.bench.planning.hosts import on_hosts
from baton.bench.planning.loads import Load, Named, Stated, Trace
from baton.bench.planning.wishes import Wishes
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.named import check_name, listed
from baton.bench.workloads.traces import read_trace
from baton.protocol.curves import LinkCurve
from baton.protocol.errors import ConfigError

AT_MOST = "max"
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|min|h))?")
_PER = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class Parser(argparse.ArgumentParser):
    """Mistakes are ConfigError: exit code 2 says that no plan is feasible."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (`{self.prog} --help` shows all options)")


def parser(command: str, about: str, examples: str) -> Parser:
    return Parser(
        prog=f"baton {command}", description=about,
        epilog=f"examples:\n{examples}\n\nworkloads:\n{listed()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_hardware(found: argparse.ArgumentParser) -> None:
    group = found.add_argument_group("hardware")
    group.add_argument(
        "--hardware", action="append", metavar="NAME[@PRICE]",
        help="a file of `baton profile`, a named device such as h100, or FILE:MODEL:TP of a "
        "DistServe fit; with the price of an hour of one; repeat for several kinds",
    )
    group.add_argument("--model", metavar="MODEL",
                       help="a config directory or a hub id, for hardware by name; what was "
                       "measured must be of it")
    group.add_argument("--dtype", help="of the weights, for hardware by name; KV is of 16 bits")
    group.add_argument("--tp", metavar="1,2,...",
                       help="tensor-parallel sizes that may be; default: all that are known")
    group.add_argument("--link", metavar="25GB/s[,1ms]",
                       help="speed and latency between hosts, in each direction; default: what the "
                       "hardware has")
    group.add_argument("--workers-per-host", type=int, default=1, metavar="N",
                       help="workers, of whatever size, that share a host and its link; each host "
                       "gets its part of every role. Default: 1, a link for each worker")
    group.add_argument("--local-link", metavar="400GB/s[,10us]",
                       help="speed and latency between the workers of one host, such as NVLink, "
                       "past the host's link; default: as --link")


def add_load(found: argparse.ArgumentParser) -> None:
    group = found.add_argument_group("workload: a trace, a name, or lengths")
    group.add_argument("--trace", type=Path, metavar="FILE",
                       help="Mooncake JSON lines, Azure or BurstGPT CSV, or a router's journal")
    group.add_argument("--workload", metavar="NAME", help="one of those below")
    group.add_argument("--prompt", type=float, metavar="TOKENS", help="mean length")
    group.add_argument("--output", type=float, metavar="TOKENS", help="mean length")
    group.add_argument("--prompt-spread", type=float, default=0.0, metavar="SIGMA",
                       help="lognormal, standard deviation of the logarithm")
    group.add_argument("--output-spread", type=float, default=0.0, metavar="SIGMA")
    group.add_argument("--prefix-share", type=share, default=0.0, metavar="SHARE",
                       help="of a mean prompt, what it shares with others")
    group.add_argument("--prefixes", type=int, default=8, metavar="N",
                       help="unlike prefixes that are shared")
    group.add_argument("--rate", metavar="4/s|max",
                       help="requests to serve; max: as many as can be. Default: max, or that of "
                       "the trace")
    group.add_argument("--burstiness", type=float, metavar="V",
                       help="standard deviation of intervals over their mean; 1: Poisson, "
                       "0: even")
    group.add_argument("--lengths", type=float, default=1.0, metavar="TIMES",
                       help="a named workload with lengths so many times as long")


def add_wishes(found: argparse.ArgumentParser) -> None:
    group = found.add_argument_group("targets")
    group.add_argument("--ttft", metavar="DURATION", help="to the first token; default: 2s")
    group.add_argument("--itl", metavar="DURATION",
                       help="between tokens, the mean of a request; default: 100ms")
    group.add_argument("--e2e", metavar="DURATION", help="to the last token")
    group.add_argument("--attainment", type=share, default=0.95, metavar="SHARE",
                       help="of requests that keep all targets")


def read_kinds(options: argparse.Namespace) -> tuple[tuple[WorkerKind, ...], list[float | None]]:
    """All kinds of workers of all hardware, and the prices of an hour of one device."""
    if not options.hardware:
        raise ConfigError("--hardware is needed: a file of `baton profile`, or a device such as "
                          "h100")
    link = None if options.link is None else parse_link(options.link)
    local = _local_link(options)
    sizes = [] if options.tp is None else [_whole("--tp", part) for part in options.tp.split(",")]
    kinds: list[WorkerKind] = []
    prices: list[float | None] = []
    for text in options.hardware:
        name, price = _priced(text)
        found = worker_kinds(name, options.model, dtype=options.dtype, link=link,
                             tensor_parallel=sizes)
        kinds += [on_hosts(kind, options.workers_per_host, local) for kind in found]
        prices += [price] * len(found)
    blocks = {kind.machine.layout.block_size for kind in kinds}
    if len(blocks) > 1:
        raise ConfigError(
            f"these workers cannot hand over to each other: blocks of "
            f"{' and '.join(map(str, sorted(blocks)))} tokens"
        )
    return tuple(kinds), prices


def read_load(options: argparse.Namespace, kinds: tuple[WorkerKind, ...]) -> Load:
    """With the rate that was given, or its own."""
    longest = min(kind.machine.limits.max_model_len for kind in kinds)
    rate = read_rate(options.rate)
    given = [options.trace, options.workload, options.prompt or options.output]
    if sum(what is not None for what in given) != 1:
        raise ConfigError("give one workload: --trace FILE, --workload NAME, or --prompt TOKENS "
                          "with --output TOKENS")
    _positive(options, "burstiness", "lengths", zero=("burstiness",))
    if options.trace is not None:
        return _trace(options, longest)
    if options.workload is not None:
        check_name(options.workload)
        return Named(options.workload, rate, options.burstiness, longest, options.lengths)
    if options.prompt is None or options.output is None:
        raise ConfigError("--prompt and --output belong together: mean tokens of each")
    _positive(options, "prompt", "output", "prompt_spread", "output_spread", "prefixes",
              zero=("prompt_spread", "output_spread"))
    if not 0 <= options.prefix_share < 1:
        raise ConfigError(f"--prefix-share must be from 0 to below 1, got {options.prefix_share:g}")
    lengths = Lengths(
        prompt=max(1, round(options.prompt)), output=max(1, round(options.output)),
        spread=options.prompt_spread, output_spread=options.output_spread,
        shared=options.prefix_share, groups=options.prefixes,
    )
    if lengths.prompt + lengths.longest_output >= longest:
        most = "" if lengths.longest_output == lengths.output else (
            f" (of which some are of {lengths.longest_output})"
        )
        raise ConfigError(
            f"--prompt {options.prompt:g} and --output {options.output:g}{most} are more than the "
            f"{longest} tokens that the model allows"
        )
    variation = 1.0 if options.burstiness is None else options.burstiness
    return Stated(lengths, rate, variation, longest)


def read_rate(text: str | None) -> float | None:
    """`4/s`, `240/m`, `4`; None for `max` or nothing."""
    if text is None or text == AT_MOST:
        return None
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--rate must be such as 4/s, 240/m or max, got {text!r}")
    return float(match[1]) / _PER[match[2]]


USUAL = Wishes(ttft=2.0, itl=0.1)


def read_wishes(options: argparse.Namespace, usual: Wishes = USUAL) -> Wishes:
    """`usual`: what was not said."""
    if not 0 < options.attainment < 1:
        raise ConfigError(
            f"--attainment must be between 0 and 1, such as 0.95, got {options.attainment:g}"
        )
    ttft = usual.ttft if options.ttft is None else duration("--ttft", options.ttft)
    itl = usual.itl if options.itl is None else duration("--itl", options.itl)
    e2e = usual.e2e if options.e2e is None else duration("--e2e", options.e2e)
    return Wishes(ttft=ttft, itl=itl, e2e=e2e, attainment=options.attainment)


def duration(option: str, text: str) -> float:
    """Seconds, above 0."""
    try:
        seconds = durations.duration(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{option}: {error}") from error
    if seconds <= 0:
        raise ConfigError(f"{option} must be above 0, got {text}")
    return seconds


# -- inside ----------------------------------------------------------------------------------


def _local_link(options: argparse.Namespace) -> LinkCurve | None:
    if options.workers_per_host < 1:
        raise ConfigError(f"--workers-per-host must be at least 1, got {options.workers_per_host}")
    if options.local_link is None:
        return None
    if options.workers_per_host == 1:
        raise ConfigError("--local-link is between workers of one host, of which each has one to "
                          "itself: give --workers-per-host 2 or more")
    return parse_link(options.local_link)


def _trace(options: argparse.Namespace, longest: int) -> Trace:
    if options.burstiness is not None:
        raise ConfigError("--burstiness says how requests come, and so does the trace: leave one")
    found = Trace(options.trace.name, tuple(read_trace(options.trace)), longest)
    fitting = len(found.requests) - found.left_out
    if fitting < 2:
        raise ConfigError(
            f"{options.trace} has {fitting} requests of less than {longest} tokens: too few for a "
            "plan"
        )
    if found.requests[-1].at <= found.requests[0].at:
        raise ConfigError(f"{options.trace}: all requests come at the same time, so it has no rate")
    return found


def _priced(text: str) -> tuple[str, float | None]:
    name, at, price = text.rpartition("@")
    if not at:
        return text, None
    try:
        value = float(price)
    except ValueError:
        return text, None
    if not 0 < value < math.inf:
        raise ConfigError(f"--hardware {text}: a price is above 0")
    return name, value


def _whole(option: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"{option} must be whole numbers such as 1,2,4, got {text!r}")
    return int(text)


def _positive(options: argparse.Namespace, *names: str, zero: tuple[str, ...] = ()) -> None:
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        if not (value > 0 or (value == 0 and name in zero)) or value == math.inf:
            least = "at least 0" if name in zero else "above 0"
            raise ConfigError(f"--{name.replace('_', '-')} must be {least}, got {value:g}")
