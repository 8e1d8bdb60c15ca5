"""How fast one worker's steps are, beside what the machine's memory and arithmetic allow.

A decode step reads all weights once, so its floor is the time to read them; a prefill step is
bound by matrix products. Both limits are measured in the same run, in turns with the steps, so
that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import torch

from baton.bench.report import at_most
from baton.bench.results import Result, add_json, deliver, found
from baton.engine.batch import BatchItem
from baton.engine.kv_memory import KVMemory
from baton.engine.model.config import ModelConfig
from baton.engine.model.source import load_config, resolve_model
from baton.engine.models.llama import LlamaModel
from baton.engine.models.registry import build_model
from baton.engine.runner import ModelRunner
from baton.engine.sequence import Sequence
from baton.engine.weights import iter_weights
from baton.protocol.errors import ConfigError
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

CONTEXT = 320
BATCHES = (1, 4, 16)
PROMPTS = (256, 512)
BLOCK_SIZE = 16
RATIO_LIMIT = 2.5
"""Batch 16 may take at most so many times batch 1."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    median: float
    best: float
    samples: int


@dataclass(frozen=True)
class StepTiming:
    """One kind of step: `batch` sequences with `tokens` new tokens each."""

    stage: str
    batch: int
    tokens: int
    ms: Timing
    tokens_per_second: float


@dataclass(frozen=True)
class EngineResult:
    dtype: str
    ops: str
    load_seconds: float
    weight_bytes: int
    steps: tuple[StepTiming, ...]
    batch_ratio: float
    """Median step time at the largest batch over that at batch 1."""
    weight_read_ms: Timing
    """Reading a buffer as large as the weights that a decode step uses."""
    read_gb_per_second: float
    matmul_tflops: float
    """Best of a large product in this dtype."""


def run(
    model: str | None = None,
    *,
    dtypes: tuple[str, ...] = ("bfloat16", "float32"),
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 15,
) -> Result:
    """Measure. `model`: as for `baton up`, None is the embedded one. Raises ConfigError
    for a model or dtype that is not there."""
    if threads is not None:
        torch.set_num_threads(threads)
    source = resolve_model(model)
    config = load_config(source)
    results = []
    for name in dtypes:
        started = time.perf_counter()
        built = build_model(config, dtype=_dtype(name), device=device)
        built.load_weights(iter_weights(source))
        results.append(_measure(built, time.perf_counter() - started, rounds))
        del built
    return found(
        "engine",
        settings={
            "model": source.name,
            "device": device,
            "threads": torch.get_num_threads(),
            "context": CONTEXT,
        },
        series={"dtypes": [asdict(result) for result in results]},
        rows=[
            at_most(f"{result.dtype}, step of batch {max(BATCHES)} over batch 1", RATIO_LIMIT,
                    result.batch_ratio)
            for result in results
        ],
    )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the measurements as a table, or as JSON."""
    parser = argparse.ArgumentParser(
        prog="baton bench engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--dtype", default="bfloat16,float32", help="names, separated by commas")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds per case")
    add_json(parser)
    options = parser.parse_args(None if arguments is None else list(arguments))
    report = run(
        options.model,
        dtypes=tuple(name.strip() for name in options.dtype.split(",")),
        threads=options.threads,
        device=options.device,
        rounds=options.rounds,
    )
    if not deliver(report, options.json):
        print(_table(report))


# -- measuring -------------------------------------------------------------------------------


def _measure(model: LlamaModel, load_seconds: float, rounds: int) -> EngineResult:
    layout = model.kv_layout(BLOCK_SIZE)
    per_sequence = layout.blocks_for(max(CONTEXT, *PROMPTS))
    runner = ModelRunner(
        model, KVMemory(layout, per_sequence * max(BATCHES), model.device)
    )
    runner.warm_up()
    vocab = model.config.vocab_size
    weight_bytes = _weights_per_step(model.config) * model.dtype.itemsize

    actions: dict[tuple[str, int, int], Callable[[], object]] = {}
    for batch in BATCHES:
        rows = [
            BatchItem(_sequence(n, CONTEXT, CONTEXT - 1, per_sequence, vocab), 1, True)
            for n in range(batch)
        ]
        actions["decode", batch, 1] = lambda rows=rows: runner.step(rows)  # type: ignore[misc]
    for length in PROMPTS:
        chunk = BatchItem(_sequence(0, length, 0, per_sequence, vocab), length, True)
        actions["prefill", 1, length] = lambda chunk=chunk: runner.step([chunk])  # type: ignore[misc]
    buffer = torch.ones(weight_bytes // 8, dtype=torch.int64, device=model.device)
    actions["read", 0, 0] = lambda: buffer.sum().item()
    side = 2048
    a, b = (torch.randn(side, side, device=model.device).to(model.dtype) for _ in "ab")
    actions["matmul", 0, 0] = lambda: torch.mm(a, b)[0, 0].item()

    with torch.inference_mode():
        timings = _in_turns(actions, rounds)
    steps = tuple(
        StepTiming(stage, batch, tokens, timing, batch * tokens / timing.median * 1e3)
        for (stage, batch, tokens), timing in timings.items()
        if stage in ("decode", "prefill")
    )
    decode = {step.batch: step.ms.median for step in steps if step.stage == "decode"}
    return EngineResult(
        dtype=model.dtype_name,
        ops=model.ops.name,
        load_seconds=load_seconds,
        weight_bytes=weight_bytes,
        steps=steps,
        batch_ratio=decode[max(BATCHES)] / decode[1],
        weight_read_ms=timings["read", 0, 0],
        read_gb_per_second=weight_bytes / timings["read", 0, 0].best / 1e6,
        matmul_tflops=2 * side**3 / timings["matmul", 0, 0].best / 1e9,
    )


def _in_turns(
    actions: dict[tuple[str, int, int], Callable[[], object]], rounds: int
) -> dict[tuple[str, int, int], Timing]:
    """Time each action once a round. Every action ends with a value on the host, so that an
    accelerator's work is included."""
    samples: dict[tuple[str, int, int], list[float]] = {name: [] for name in actions}
    for number in range(rounds + 2):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if number >= 2:  # The first rounds warm caches up.
                samples[name].append((time.perf_counter() - started) * 1e3)
    return {
        name: Timing(statistics.median(values), min(values), len(values))
        for name, values in samples.items()
    }


def _weights_per_step(config: ModelConfig) -> int:
    """Matrix elements that a decode step reads: all but the embedding's unused rows."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (2 * q + 2 * kv)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + feed_forward) + config.vocab_size * config.hidden_size


def _sequence(index: int, length: int, computed: int, blocks: int, vocab: int) -> Sequence:
    request = Request(
        key=RequestKey(f"bench-{index}", 0),
        choice=0,
        prompt=pack_tokens(_tokens(length, vocab, seed=index)),
        sampling=SamplingParams(seed=0, max_tokens=1, temperature=0.0),
    )
    seq = Sequence.from_request(request, hold=False)
    seq.block_ids = list(range(index * blocks, (index + 1) * blocks))
    seq.num_computed = computed
    return seq


def _tokens(length: int, vocab: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    return iter(torch.randint(0, vocab, (length,), generator=generator).tolist())


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ConfigError(f"unknown dtype {name!r}; known: {', '.join(known)}")
    return known[name]


# -- showing ---------------------------------------------------------------------------------


def _table(report: Result) -> str:
    machine, settings = report.ran, report.settings
    lines = [
        f"{settings['model']} on "
        f"{machine['gpu'] if settings['device'] == 'cuda' else machine['cpu']}, "
        f"{settings['threads']} threads, {machine['cpu_capability']}",
        f"torch {machine['torch']}, Python {machine['python']}, commit {machine['commit']}",
        f"command: {machine['command']}",
    ]
    for result in report.series["dtypes"]:
        lines += [
            "",
            f"{result['dtype']}, {result['ops']} kernels, loaded in {result['load_seconds']:.1f} s",
            f"{'step':<24}{'median ms':>10}{'best ms':>10}{'tokens/s':>10}",
        ]
        for step in result["steps"]:
            what = (
                f"decode, batch {step['batch']}"
                if step["stage"] == "decode"
                else f"prefill, {step['tokens']} tokens"
            )
            timing = step["ms"]
            lines.append(
                f"{what:<24}{timing['median']:>10.2f}{timing['best']:>10.2f}"
                f"{step['tokens_per_second']:>10.0f}"
            )
        read = result["weight_read_ms"]
        lines += [
            f"{'read the weights':<24}{read['median']:>10.2f}{read['best']:>10.2f}"
            f"{result['read_gb_per_second']:>7.1f} GB/s",
            f"matrix product peak: {result['matmul_tflops']:.2f} TFLOP/s",
            f"batch {max(BATCHES)} / batch 1: {result['batch_ratio']:.2f} "
            f"(limit {RATIO_LIMIT})",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
