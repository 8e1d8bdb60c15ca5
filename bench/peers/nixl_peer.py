"""Scattered blocks between two processes by NIXL (UCX back end), for comparison.

Run by the Python of an environment with `nixl` in it:

    python nixl_peer.py '{"rounds": 7, "pool_bytes": 536870912, "cases": [[65536, 1024]]}'

prints one line of JSON: per case and direction the seconds of each round. Memory is registered
and descriptors are prepared beforehand; a round is timed at the initiator, from making the
transfer of its blocks until NIXL says it is done. Blocks are drawn from a pool much larger than
the caches, others in each round, as in the measurement of ours.
"""

# Runs where nixl is and this project is not, so its types are not checked.
# mypy: ignore-errors

import json
import multiprocessing
import sys
import time

import numpy as np


def blocks_of_round(count, available, number):
    """The same draw as ours: consecutive parts of one permutation."""
    order = np.random.default_rng(1).permutation(available)
    first = number * count % (available - count + 1)
    return order[first : first + count]


def make_agent(name, pool_bytes):
    from nixl._api import nixl_agent, nixl_agent_config

    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    pool = np.ones(pool_bytes, np.uint8)
    agent.register_memory([(pool.ctypes.data, pool.nbytes, 0, "pool")], "DRAM")
    return agent, pool


def descriptors(agent, address, block_bytes, available):
    spans = [(address + i * block_bytes, block_bytes, 0) for i in range(available)]
    return agent.get_xfer_descs(spans, "DRAM")


def target(pipe, pool_bytes):
    agent, pool = make_agent("target", pool_bytes)
    pipe.send((agent.get_agent_metadata(), pool.ctypes.data))
    agent.add_remote_agent(pipe.recv())
    pipe.send("ready")
    pipe.recv()


def measure(wanted):
    ours, theirs = multiprocessing.Pipe()
    pool_bytes = wanted["pool_bytes"]
    process = multiprocessing.Process(target=target, args=(theirs, pool_bytes), daemon=True)
    process.start()
    agent, pool = make_agent("initiator", pool_bytes)
    metadata, address = ours.recv()
    remote = agent.add_remote_agent(metadata)
    ours.send(agent.get_agent_metadata())
    ours.recv()
    results = []
    for block_bytes, count in wanted["cases"]:
        available = pool_bytes // block_bytes
        here = agent.prep_xfer_dlist(
            "NIXL_INIT_AGENT", descriptors(agent, pool.ctypes.data, block_bytes, available)
        )
        there = agent.prep_xfer_dlist(
            remote, descriptors(agent, address, block_bytes, available)
        )
        for operation in ("WRITE", "READ"):
            seconds = []
            for number in range(wanted["rounds"] + 1):
                chosen = blocks_of_round(count, available, number)
                started = time.perf_counter()
                handle = agent.make_prepped_xfer(operation, here, chosen, there, chosen)
                state = agent.transfer(handle)
                while state not in ("DONE", "ERR"):
                    state = agent.check_xfer_state(handle)
                ended = time.perf_counter()
                if state == "ERR":
                    raise RuntimeError(f"NIXL {operation} of {count} x {block_bytes} failed")
                agent.release_xfer_handle(handle)
                seconds.append(ended - started)
            # The first round also sets up connections.
            results.append(
                {"block_bytes": block_bytes, "blocks": count, "operation": operation,
                 "seconds": seconds[1:]}
            )  # fmt: skip
    ours.send("end")
    process.join(5)
    process.kill()
    return results


if __name__ == "__main__":
    import importlib.metadata

    multiprocessing.set_start_method("spawn")
    results = measure(json.loads(sys.argv[1]))
    print(json.dumps({"version": importlib.metadata.version("nixl"), "results": results}))
