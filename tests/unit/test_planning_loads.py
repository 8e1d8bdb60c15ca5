"""The loads that plans are made for, and the options that say which."""

from __future__ import annotations

import argparse
import json
import pickle
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean

import pytest

from baton.bench.planning import command
from baton.bench.planning.caching import BLOCK, EndlessCache
from baton.bench.planning.inputs import read_rate, read_wishes
from baton.bench.planning.loads import Load, Named, Stated, Trace, dispersion
from baton.bench.planning.simulate import main as simulate
from baton.bench.planning.wishes import Wishes
from baton.bench.simulator.outcome import Outcome
from baton.bench.workloads.arrivals import arrivals
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.traces import Traced
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.protocol.tokens import pack_tokens
from baton.router.planner.workload import Item, Workload

TARGETS = Targets(ttft=0.5, itl=0.05)
SHORT = Lengths(prompt=10, output=2)
TRACE = Trace("t", tuple(
    Traced(n * 0.5, 600, 5 + n, (("a", 512),) if n % 2 else (("b", 512),)) for n in range(40)
))


# -- loads -----------------------------------------------------------------------------------


def test_lengths_are_as_asked() -> None:
    load = Stated(Lengths(prompt=1000, output=200, spread=0.4, output_spread=0.6, shared=0.3,
                          groups=2))
    found = list(load.arrivals(50.0, 40.0, 1, TARGETS))
    assert len(found) == pytest.approx(2000, rel=0.08)
    prompts = [arrival.prompt() for arrival in found[:400]]
    assert mean(len(p) // 4 for p in prompts) == pytest.approx(1000, rel=0.06)
    assert mean(arrival.length for arrival in found) == pytest.approx(200, rel=0.08)
    assert len({p[: 4 * 300] for p in prompts}) == 2, "two prefixes of 300 tokens"
    assert found[0].targets == TARGETS


def test_a_plan_is_for_the_requests_that_a_benchmark_sends() -> None:
    """With spreads, too, and heads that are shared."""
    lengths = Lengths(prompt=300, output=20, spread=0.5, shared=0.2, groups=3)
    planned = list(Stated(lengths).arrivals(20.0, 10.0, 4, TARGETS))
    sent = list(arrivals(lengths.workload().parts(20.0, 10.0), 4))
    assert len(planned) > 150
    assert [(a.at, a.length, a.prompt(), a.noise) for a in planned] == [
        (a.at, a.length, a.prompt(), a.noise) for a in sent
    ]
    assert len({a.length for a in planned}) > 10


def test_even_arrivals_and_bursts() -> None:
    even = list(Stated(SHORT, variation=0.0).arrivals(4.0, 10.0, 1, TARGETS))
    assert [arrival.at for arrival in even[:3]] == [0.25, 0.5, 0.75]
    bursts = [a.at for a in Stated(SHORT, variation=3.0).arrivals(50.0, 200.0, 1, TARGETS)]
    poisson = [a.at for a in Stated(SHORT).arrivals(50.0, 200.0, 1, TARGETS)]
    assert dispersion(bursts) > 4 > 1.5 > dispersion(poisson) > 0.7


@pytest.mark.parametrize("load", [
    Stated(Lengths(prompt=100, output=20, spread=0.3, output_spread=0.0)), Named("agent"), TRACE,
], ids=lambda load: load.name)
def test_the_same_seed_the_same_requests_in_any_process(load: Load) -> None:
    again: Load = pickle.loads(pickle.dumps(load))
    one = list(islice(load.arrivals(5.0, 20.0, 3, TARGETS), 30))
    other = list(islice(again.arrivals(5.0, 20.0, 3, TARGETS), 30))
    assert [(a.at, a.length, a.prompt()) for a in one] == [
        (a.at, a.length, a.prompt()) for a in other
    ]
    another = islice(load.arrivals(5.0, 20.0, 4, TARGETS), 3)
    assert [(a.at, a.length) for a in another] != [(a.at, a.length) for a in one[:3]]


def test_a_trace_runs_at_any_rate_and_begins_again_at_its_end() -> None:
    assert TRACE.rate == pytest.approx(2.0)
    found = list(TRACE.arrivals(8.0, 30.0, 1, TARGETS))
    assert len(found) == pytest.approx(240, abs=4), "six times around"
    times = [arrival.at for arrival in found]
    assert times == sorted(times)
    assert times[-1] < 30.0
    assert len({arrival.prompt() for arrival in found}) == len(found), "only prefixes are shared"


def test_what_is_too_long_for_the_model_is_left_out_of_a_trace() -> None:
    long = Trace("t", (*TRACE.requests, Traced(30.0, 9000, 10)), longest=8192)
    assert long.left_out == 1
    assert all(item.prompt < 8192 for item in long.sample(TARGETS).items)


def test_samples_know_what_is_cached() -> None:
    items = TRACE.sample(TARGETS).items
    assert [item.cached for item in items[:4]] == [0, 0, 512, 512]
    shared = Stated(Lengths(prompt=1000, output=20, shared=0.3)).sample(TARGETS).items[0]
    assert (shared.prompt, shared.cached, shared.ttft, shared.itl) == (1000, 300, 0.5, 0.05)
    agents = Named("agent").sample(TARGETS).items
    assert 0.4 < sum(i.cached for i in agents) / sum(i.prompt for i in agents) < 0.95


def test_an_endless_cache_finds_whole_blocks_from_the_beginning() -> None:
    cache = EndlessCache()
    tokens = list(range(3 * BLOCK + 5))
    assert cache.add(pack_tokens(tokens)) == 0
    assert cache.add(pack_tokens(tokens)) == 3 * BLOCK
    assert cache.add(pack_tokens(tokens[: 2 * BLOCK] + [7] * BLOCK)) == 2 * BLOCK
    assert cache.add(pack_tokens([9, *tokens[1:]])) == 0


# -- wishes ----------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long_is_a_miss() -> None:
    outcome = Outcome("", "", 0.0, 10, "stop", 11, 0.1, 0.5, targets=TARGETS)
    assert Wishes(ttft=0.5, itl=0.05).kept(outcome)
    assert not Wishes(ttft=0.5, itl=0.05, e2e=0.4).kept(outcome)


def test_closed_forms_get_what_a_whole_answer_leaves_between_tokens() -> None:
    items = tuple(Item(100, 0, 1 + gaps, 0.5, 0.05) for gaps in (10, 100))
    wishes = Wishes(ttft=0.5, itl=0.05, e2e=2.5, attainment=0.9)
    assert wishes.within(Workload(1.0, items)).itl == pytest.approx(0.02)
    assert Wishes(ttft=0.5, itl=0.05).within(Workload(1.0, items)).itl == 0.05


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "rate"), [
    ("4/s", 4.0), ("240/m", 4.0), ("4", 4.0), ("3600/h", 1.0), ("max", None), (None, None),
])
def test_rates_have_units(text: str | None, rate: float | None) -> None:
    assert read_rate(text) == rate


def test_targets_have_units_and_defaults() -> None:
    options = argparse.Namespace(ttft="300ms", itl=None, e2e="10s", attainment=0.9)
    assert read_wishes(options) == Wishes(ttft=0.3, itl=0.1, e2e=10.0, attainment=0.9)


LOAD = "--hardware made --prompt 100 --output 10"


@pytest.mark.parametrize(("arguments", "said"), [
    ("--gpus 2", "--hardware is needed"),
    ("--hardware nothing --gpus 2 --workload chat", "cannot read nothing|no hardware|nothing"),
    ("--hardware made --gpus 2", "give one workload"),
    ("--hardware made --gpus 2 --workload chat --prompt 5", "give one workload"),
    ("--hardware made --gpus 2 --workload chit", "no workload 'chit'; there are: chat"),
    ("--hardware made --gpus 2 --prompt 100", "--prompt and --output belong together"),
    ("--hardware made --gpus 2 --trace /nonexistent", "cannot read the trace"),
    (LOAD, "give --gpus N"),
    (f"{LOAD} --gpus 0", "--gpus must be from 1"),
    (f"{LOAD} --gpus many", "--gpus"),
    (f"{LOAD} --gpus 2 --rate fast", "--rate must be such as 4/s"),
    (f"{LOAD} --gpus 2 --rate 0/s", "--rate must be such as 4/s"),
    (f"{LOAD} --gpus 2 --ttft soon", "--ttft"),
    (f"{LOAD} --gpus 2 --itl 0ms", "--itl must be above 0"),
    (f"{LOAD} --gpus 2 --attainment 95", "--attainment: .*, such as 95%"),
    (f"{LOAD} --gpus 2 --prefix-share 1", "--prefix-share must be from 0"),
    (f"{LOAD} --gpus 2 --burstiness -1", "--burstiness must be at least 0"),
    (f"{LOAD} --gpus 2 --link fast", "no link such as 25GB/s"),
    (f"{LOAD} --gpus 2 --tp two", "--tp must be whole numbers"),
    (f"{LOAD} --cost 5", "--cost needs the price"),
    (f"{LOAD} --cost 1 --price 2.5", "pays for no worker"),
    (f"{LOAD} --gpus 2 --rank cost", "--rank cost needs the price"),
    (f"{LOAD} --gpus 2 --apply", "it needs --watch URL"),
    (f"{LOAD} --gpus 2 --colour red", "--colour"),
    ("--hardware made --gpus 2 --prompt 40000 --output 10", "more than the 32768 tokens"),
])
def test_mistakes_in_a_plan_are_one_line(arguments: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        command.main(arguments.split())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("arguments", "said"), [
    (f"{LOAD} --rate 1/s", "which layout"),
    (f"1p+1d {LOAD}", "--rate is needed"),
    (f"1p {LOAD} --rate 1/s", "leaves nobody to decode"),
    (f"1p+1d {LOAD} --rate 1/s --seeds 0", "--seeds and --requests"),
    ("--hardware made --workload chat --what-if 1p+1d", "needs traffic that was"),
    ("--hardware made --trace /nonexistent --what-if 1p+1d", "cannot read the journal"),
])
def test_mistakes_in_a_simulation_are_one_line(arguments: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        simulate(arguments.split())
    assert "\n" not in str(raised.value)


def test_a_trace_of_one_request_is_too_few(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(
        {"timestamp": 0, "input_length": 100, "output_length": 10, "hash_ids": [1]}))
    with pytest.raises(ConfigError, match="too few for a plan"):
        command.main(f"--hardware made --gpus 1 --trace {path}".split())


def test_money_buys_so_many() -> None:
    parser = command._parser()
    options = parser.parse_args(f"{LOAD} --cost 10 --price 2.5".split())
    limits = command.read_limits(options, [None], [1], 3.0)
    assert (limits.gpus, limits.cost, limits.by_cost, limits.prices) == (4, 10.0, True, (2.5,))
    options = parser.parse_args(
        ["--hardware", "made@2", "--gpus", "3", "--cost", "10", "--prompt", "9", "--output", "9"])
    asked = command.read_question(options)
    assert (asked.limits.gpus, asked.limits.prices, asked.limits.rate) == (3, (2.0,), None)


def test_seeds_are_unlike_places_of_a_trace() -> None:
    rng = Random(1)
    trace = Trace("t", tuple(Traced(n * 1.0, rng.randrange(100, 900), 5) for n in range(64)))
    firsts = {next(iter(trace.arrivals(1.0, 5.0, seed, TARGETS))).prompt() for seed in range(1, 6)}
    assert len(firsts) == 5
