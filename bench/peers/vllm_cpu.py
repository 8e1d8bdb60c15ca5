"""vLLM's CPU build as a peer: starts it from the Python of an environment of its own.

    colocated   replicas, each on one core, behind a round-robin
    split       one that reads prompts and one that answers, over NIXL, behind its kind of proxy

    python -P -m baton.bench.peers.vllm_cpu --python /path/to/bin/python split

prints the URL once all serve, and ends everything when it is ended. The environment has
`vllm-cpu` beside the torch that it names, without torchvision and torchaudio; for split also
`nixl`. Prefix caches are off: what is compared has to compute every prompt. The embedded model is
written out once for it, in bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from baton.bench.faults.proxy import free_port

START_SECONDS = 600.0
_NIXL = {
    "kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu",
    "kv_load_failure_policy": "fail",
}


def export_model(target: Path, model: str | None = None) -> Path:
    """`target`, with the weights as safetensors, configuration and tokenizer; nothing is done when
    they are there. `model`: as for `baton up`."""
    if (target / "config.json").exists():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from baton.engine.model.source import resolve_model

    path = Path(resolve_model(model).path)
    file: dict[str, Any] = {}
    how: dict[str, Any] = {}
    if path.is_file():
        file, path = {"gguf_file": path.name}, path.parent
        how = {"quantization_config": GgufConfig(dequantize=True)}
    loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, **file, **how)
    loaded.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(path, **file).save_pretrained(target)
    return target


def server_command(
    python: str, model: Path, port: int, *, split: bool, extra: Sequence[str] = ()
) -> list[str]:
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", "peer", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "bfloat16", "--no-enable-prefix-caching", *extra,
    ]
    return [*command, "--kv-transfer-config", json.dumps(_NIXL)] if split else command


def environment(core: int, kv_gib: int, side_port: int) -> dict[str, str]:
    """One core, and a side channel of its own. NIXL's UCX is told what there is on one host:
    choosing by itself, it failed to register the second server's memory."""
    return {
        "UCX_TLS": "posix,sysv,self,tcp",
        **os.environ,
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_port),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def running(
    python: str, how: str, *, cores: Sequence[int], port: int, model: Path, kv_gib: int,
    extra: Sequence[str] = (),
) -> Iterator[str]:
    """The URL of the front. Raises RuntimeError when one of them does not start."""
    processes: list[subprocess.Popen[bytes]] = []
    logs: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="baton-vllm-") as folder:
        try:
            urls = []
            for core in cores:
                ours, side = free_port(), free_port()
                logs.append(Path(folder) / f"{ours}.log")
                with logs[-1].open("wb") as log:
                    processes.append(subprocess.Popen(
                        server_command(python, model, ours, split=how == "split", extra=extra),
                        env=environment(core, kv_gib, side), stdout=log,
                        stderr=subprocess.STDOUT, start_new_session=True, cwd=folder,
                    ))
                urls.append(f"http://127.0.0.1:{ours}")
            mode = "split" if how == "split" else "round-robin"
            front = [sys.executable, "-P", "-m", "baton.bench.peers.front", "--port", str(port),
                     mode, *urls]
            for url, process, log_file in zip(urls, processes, logs, strict=True):
                _wait(url, process, log_file)
            processes.append(subprocess.Popen(front, start_new_session=True))
            url = f"http://127.0.0.1:{port}"
            _wait(url, processes[-1], None)
            yield url
        finally:
            _end(processes)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path | None) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.25)
    said = log.read_text(errors="replace")[-3000:] if log is not None else ""
    raise RuntimeError(f"{url} did not start:\n{said}")


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """With all that they started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vllm_cpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("colocated", "split"))
    parser.add_argument("--python", required=True, help="of the environment with vLLM")
    parser.add_argument("--model", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--exported", type=Path, metavar="FOLDER",
                        default=Path(tempfile.gettempdir()) / "baton-peer-model",
                        help="where the model is written out, once")
    parser.add_argument("--cores", type=int, nargs="+", default=[0, 1], help="one for each")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kv-gib", type=int, default=2, help="KV cache of each")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--max-num-batched-tokens", type=int, help="default: vLLM's own")
    options = parser.parse_args(arguments)
    if options.how == "split" and len(options.cores) != 2:
        parser.error("split is one server for prompts and one that answers: two --cores")
    extra = ["--max-model-len", str(options.max_model_len)]
    if options.max_num_batched_tokens:
        extra += ["--max-num-batched-tokens", str(options.max_num_batched_tokens)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # also while it starts
    model = export_model(options.exported, options.model)
    with running(options.python, options.how, cores=options.cores,
                 port=options.port or free_port(), model=model, kv_gib=options.kv_gib,
                 extra=extra) as url:
        print(f"vLLM, {options.how}, at {url}", flush=True)
        while True:
            signal.pause()


def _leave(*_: object) -> None:
    """Once: what is being ended is left to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
