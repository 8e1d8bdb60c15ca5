"""What one decision costs the router, part by part, over 1 to 64 workers with full caches.

A prompt of 4,096 tokens: its blocks are hashed (`hashing`), looked up in the prefix index
(`match`, for prompts that meet the caches in different ways), the workers' state is collected
(`candidates`) and a decision is taken (`decide`); sending it is not part of it. `together` is one
measurement of all but the hashing, for a conversation's next turn: who has which blocks, who could
lend them, candidates and decision. Workers' speeds and links are known. With --structures,
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
from heapq import nlargest
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

from baton.bench.results import Result, add_json, deliver, found
from baton.bench.routing.caches import BLOCK_SIZE, KINDS, PROMPT_BLOCKS, PROMPT_TOKENS, Caches
from baton.bench.routing.structures import STRUCTURES, Sharded, Structure
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.hashing import chain_hashes, root_hash
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Session
from baton.protocol.records import Curves, ModelCard, Request, RouterHello, Targets, WorkerHello
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens
from baton.router.candidates import Candidate, RequestFacts
from baton.router.flight import Flight
from baton.router.lending import MOST_ASKED, MOST_LENDERS
from baton.router.loans import Lender
from baton.router.policy import decide
from baton.router.registry import Registry

COUNTS = (1, 2, 4, 8, 16, 32, 64)
CACHED_BLOCKS = 100_000
FLIGHTS = 16
"""Requests that each worker holds."""
STEP = StepCurve(
    base=8e-3, chunk=1e-3, token=5e-5, pair=1e-9, decode=1e-4, context=1e-7, spread=0.1, steps=1000
)
LINK = LinkCurve(latency=1e-3, byte=1e-10, spread=0.2, transfers=100)
TOKEN_BYTES = 1 << 17


def timed(prepare: Callable[[], Any], run: Callable[[Any], Any], rounds: int) -> dict[str, float]:
    """Microseconds of `run`, each time with something new; the first rounds are left out."""
    taken = []
    for _ in range(rounds + rounds // 10):
        given = prepare()
        started = time.perf_counter()
        run(given)
        taken.append((time.perf_counter() - started) * 1e6)
    taken = sorted(taken[rounds // 10 :])
    return {"median": statistics.median(taken), "p99": taken[int(len(taken) * 0.99)]}


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


def make_registry(workers: int) -> Registry:
    """Half prefill, half decode; each holds FLIGHTS requests."""
    registry = Registry()
    request = Request(
        key=RequestKey("r", 0),
        choice=0,
        prompt=pack_tokens(range(2048)),
        sampling=SamplingParams(seed=1, max_tokens=100),
        targets=Targets(ttft=1.0, itl=0.1),
    )
    links = tuple((f"worker-{number}", LINK) for number in range(workers))
    for number in range(workers):
        identity = Identity(f"worker-{number}", number + 1)
        hello = WorkerHello(
            identity=identity,
            pid=1,
            host="host",
            role="mixed" if workers == 1 else ("prefill", "decode")[number % 2],
            model=ModelCard(
                fingerprint="f", name="model", max_model_len=8192, vocab_size=9, dtype="bfloat16"
            ),
            layout=KVLayout(2, 2, 8, BLOCK_SIZE, "bfloat16"),
            num_blocks=CACHED_BLOCKS,
            max_running=256,
            peer_address="inproc://none",
            device="none",
        )
        session = Session(number, 2, RouterHello(identity=identity), now=0.0, notify=_nothing)
        worker = registry.add(hello, session, 0.0)
        worker.learn(Curves(step=STEP, links=links))
        for place in range(FLIGHTS):
            flight = Flight(request, place, 0.0, _nothing)
            if hello.role == "prefill":
                worker.hold_prefill(flight, 2048, 0.05 / FLIGHTS, 0.0)
            else:
                worker.hold_decode(flight)
    return registry


def _nothing(*_: object) -> None:
    pass


def measure_hashing(rounds: int) -> dict[str, float]:
    random, root = Random(3), root_hash("model", "bfloat16", str(BLOCK_SIZE), "")
    return timed(
        lambda: [random.randrange(50_000) for _ in range(PROMPT_TOKENS)],
        lambda tokens: chain_hashes(root, tokens, BLOCK_SIZE),
        max(20, rounds // 10),
    )


def measure_decision(rounds: int, blocks: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each number of workers."""
    structure, caches = Sharded(), Caches(blocks)
    rows = []
    for count in counts:
        while len(structure.slots) < count:
            fill(structure, caches, len(structure.slots))
        rows.append({
            "workers": count,
            "match_us": match_kinds(structure, caches, rounds),
            **decide_parts(structure, caches, make_registry(count), rounds),
        })
    return rows


def decide_parts(
    structure: Structure, caches: Caches, registry: Registry, rounds: int
) -> dict[str, dict[str, float]]:
    """Before each decision two workers have changed, as by the decision before it."""
    workers, random = list(registry), Random(4)
    identities = [worker.identity for worker in workers]

    def facts(held: dict[int, int]) -> RequestFacts:
        """As the router collects them."""
        cached = {identities[place]: blocks for place, blocks in held.items()}
        most = nlargest(MOST_ASKED, cached.items(), key=itemgetter(1))[:MOST_LENDERS]
        return RequestFacts(
            tokens=PROMPT_TOKENS, blocks=PROMPT_BLOCKS + 1, remaining=100, due_in=1.0, itl=0.1,
            held=cached, block_size=BLOCK_SIZE, token_bytes=TOKEN_BYTES,
            lenders=[Lender(identity, blocks, workers[0].links) for identity, blocks in most],
        )

    def change() -> Registry:
        for worker in random.choices(workers, k=2):
            flight = next(iter(worker.decoding | worker.prefilling.keys()))
            worker.promise(flight, PROMPT_BLOCKS + 1)
        return registry

    def prompt() -> list[bytes]:
        change()
        return caches.prompt("next_turn")

    def known() -> tuple[RequestFacts, list[Candidate]]:
        change()
        return facts(structure.match(caches.prompt("next_turn"))), registry.candidates()

    def everything(names: list[bytes]) -> object:
        return decide(facts(structure.match(names)), registry.candidates(), (), 0.05)

    return {
        "candidates_us": timed(change, Registry.candidates, rounds),
        "decide_us": timed(known, lambda given: decide(given[0], given[1], (), 0.05), rounds),
        "together_us": timed(prompt, everything, rounds),
    }


def match_kinds(structure: Structure, caches: Caches, rounds: int) -> dict[str, dict[str, float]]:
    return {
        kind: timed(partial(caches.prompt, kind), structure.match, rounds) for kind in KINDS
    }


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
        "match_us": match_kinds(structure, caches, rounds),
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
        + f"{'candidates':>15}{'decide':>15}{'together':>15}   us, median (p99)",
    ]
    for row in result.series["decision"]:
        lines.append(
            f"{row['workers']:>24}"
            + "".join(f"{_pair(row['match_us'][kind]):>15}" for kind in KINDS)
            + f"{_pair(row['candidates_us']):>15}{_pair(row['decide_us']):>15}"
            + f"{_pair(row['together_us']):>15}"
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
