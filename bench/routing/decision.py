"""What one decision costs the router, part by part, over 1 to 64 workers with full caches.

A prompt of 4,096 tokens: its blocks are hashed (`hashing`), looked up in the prefix index
(`match`, for prompts that meet the caches in different ways), what is known of it is put together
(`facts`: who has which blocks, who could lend them), the workers' state is collected (`candidates`)
and a decision is taken (`decide`); sending it is not part of it. `together` is one measurement of
all but the hashing, for a conversation's next turn, by the router's own code. Workers' speeds and
links are known, and some have changed since the decision before. With --structures,
other structures than the index's hold the same caches, each in a process of its own, and do the
same look-ups.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from baton.bench.quantiles import quantile
from baton.bench.results import Result, add_json, deliver, found
from baton.bench.routing.busy_router import FLIGHTS, BusyRouter, FullCaches
from baton.bench.routing.caches import BLOCK_SIZE, KINDS, PROMPT_BLOCKS, PROMPT_TOKENS, Caches
from baton.bench.routing.structures import STRUCTURES, Structure
from baton.protocol.hashing import chain_hashes, root_hash
from baton.router.candidates import RequestFacts

COUNTS = (1, 2, 4, 8, 16, 32, 64)
CACHED_BLOCKS = 100_000
PARTS = ("facts_us", "candidates_us", "decide_us", "together_us")


def timed(prepare: Callable[[], Any], run: Callable[[Any], Any], rounds: int) -> dict[str, float]:
    """Microseconds of `run`, each time with something new; the first rounds are left out."""
    taken = []
    for _ in range(rounds + rounds // 10):
        given = prepare()
        started = time.perf_counter()
        run(given)
        taken.append((time.perf_counter() - started) * 1e6)
    taken = taken[rounds // 10 :]
    return {"median": statistics.median(taken), "p99": quantile(taken, 0.99) or 0.0}


def fill(structure: Structure, caches: Caches, worker: int) -> float:
    """The next worker's cache. The longest that storing one conversation took, in seconds of this
    thread: what the router stands still for."""
    structure.add_worker()
    longest = 0.0
    for names in caches.worker(worker):
        started = time.thread_time()
        structure.store(worker, names)
        longest = max(longest, time.thread_time() - started)
    return longest


def measure_hashing(rounds: int) -> dict[str, float]:
    random, root = Random(3), root_hash("model", "bfloat16", str(BLOCK_SIZE), "")
    return timed(
        lambda: [random.randrange(50_000) for _ in range(PROMPT_TOKENS)],
        lambda tokens: chain_hashes(root, tokens, BLOCK_SIZE),
        max(20, rounds // 10),
    )


def measure_decision(rounds: int, blocks: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each number of workers."""
    caches = FullCaches(blocks)
    rows = []
    for count in counts:
        while caches.workers < count:
            caches.add_worker()
        rows.append({
            "workers": count,
            "match_us": match_kinds(caches.known.held, caches.contents, rounds),
            **decide_parts(caches, rounds),
        })
    return rows


def decide_parts(caches: FullCaches, rounds: int) -> dict[str, dict[str, float]]:
    """Before each decision workers have changed, as by the decision before it."""
    router = BusyRouter(caches)

    def prompt() -> BusyRouter:
        router.ask(caches.contents.prompt("next_turn"))
        return router

    def known() -> RequestFacts:
        prompt()
        return router.facts()

    def collected() -> RequestFacts:
        facts = known()
        router.registry.candidates()
        return facts

    return {
        "facts_us": timed(prompt, BusyRouter.facts, rounds),
        "candidates_us": timed(prompt, lambda router: router.registry.candidates(), rounds),
        "decide_us": timed(collected, router.decision, rounds),
        "together_us": timed(prompt, lambda router: router.decision(router.facts()), rounds),
    }


def match_kinds(
    match: Callable[[list[bytes]], object], caches: Caches, rounds: int
) -> dict[str, dict[str, float]]:
    return {kind: timed(partial(caches.prompt, kind), match, rounds) for kind in KINDS}


def measure_structure(
    pipe: multiprocessing.connection.Connection, name: str, workers: int, blocks: int, rounds: int
) -> None:
    before = _resident()
    structure, caches = STRUCTURES[name](), Caches(blocks)
    longest = [fill(structure, caches, worker) for worker in range(workers)]
    resident = _resident() - before
    pipe.send({
        "structure": name,
        "longest_store_ms": max(longest) * 1e3,
        "bytes_per_block": resident / (workers * blocks),
        "match_us": match_kinds(structure.match, caches, rounds),
    })


def compare_structures(workers: int, blocks: int, rounds: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in STRUCTURES:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=measure_structure, args=(theirs, name, workers, blocks, rounds), daemon=True
        )
        process.start()
        theirs.close()
        rows.append(ours.recv())
        process.join()
    return rows


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def render(result: Result) -> str:
    machine = result.ran
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; "
        f"{PROMPT_TOKENS} tokens, {result.settings['cached_blocks']} cached blocks a worker, "
        f"{FLIGHTS} requests in flight on each",
        f"hashing {PROMPT_BLOCKS} blocks: {_pair(result.metrics['hashing_us'])} us, median (p99)",
        "",
        f"{'workers':>24}" + "".join(f"{kind:>15}" for kind in KINDS)
        + f"{'facts':>15}{'candidates':>15}{'decide':>15}{'together':>15}   us, median (p99)",
    ]
    for row in result.series["decision"]:
        lines.append(
            f"{row['workers']:>24}"
            + "".join(f"{_pair(row['match_us'][kind]):>15}" for kind in KINDS)
            + "".join(f"{_pair(row[part]):>15}" for part in PARTS)
        )
    if result.series["structures"]:
        lines += ["", f"{'structure':>24}" + "".join(f"{kind:>15}" for kind in KINDS)
                  + f"{'longest store':>15}{'bytes/block':>15}"]
    for row in result.series["structures"]:
        lines.append(
            f"{row['structure']:>24}"
            + "".join(f"{_pair(row['match_us'][kind]):>15}" for kind in KINDS)
            + f"{row['longest_store_ms']:>12.1f} ms{row['bytes_per_block']:>15.0f}"
        )
    lines += ["", *(f"{kind:>24}  {what}" for kind, what in KINDS.items())]
    return "\n".join(lines)


def _pair(figures: dict[str, float]) -> str:
    return f"{figures['median']:.1f} ({figures['p99']:.0f})"


def run(
    *,
    rounds: int = 1000,
    blocks: int = CACHED_BLOCKS,
    counts: Sequence[int] = COUNTS,
    structures: bool = False,
) -> Result:
    """Measure everything."""
    compared = compare_structures(max(counts), blocks, rounds) if structures else []
    hashing = measure_hashing(rounds)
    decision = measure_decision(rounds, blocks, counts)
    return found(
        "routing decision",
        settings={"rounds": rounds, "cached_blocks": blocks, "kinds": KINDS},
        metrics={"hashing_us": hashing},
        series={"decision": decision, "structures": compared},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="baton bench routing decision", description=__doc__)
    add_json(parser)
    parser.add_argument("--rounds", type=int, default=1000, help="timed look-ups of each kind")
    parser.add_argument("--blocks", type=int, default=CACHED_BLOCKS, help="cached by each worker")
    parser.add_argument("--structures", action="store_true", help="compare with other structures")
    options = parser.parse_args(arguments)
    result = run(rounds=options.rounds, blocks=options.blocks, structures=options.structures)
    if not deliver(result, options.json):
        print(render(result))


if __name__ == "__main__":
    main()
