"""Who has the same model: a fingerprint that agrees between machines, and the size in memory.

Workers hand KV to each other only if their fingerprints agree. Reading all weights would cost
seconds, so of each tensor three short pieces are read: weights that were trained further differ
all over.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from baton.engine.model.config import ModelConfig
from baton.engine.model.source import ModelSource, stored_tensors
from baton.engine.model.tensors import StoredTensor

_SAMPLE = 64
_BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


def fingerprint(source: ModelSource, config: ModelConfig, dtype: str) -> str:
    """32 hex digits, equal for equal configuration, dtype of computation, and tensors (name,
    shape, stored dtype, sampled content), wherever the files lie and however they are split."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([asdict(config), dtype], sort_keys=True).encode())
    tensors = sorted(stored_tensors(source), key=lambda tensor: tensor.name)
    samples = _samples(tensors)
    for tensor in tensors:
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(samples[tensor.name])
    return digest.hexdigest()


def estimate_weights_bytes(source: ModelSource, config: ModelConfig, dtype: str) -> int:
    """Bytes of all weights in memory as `dtype`, tied embeddings counted once."""
    skipped = ("lm_head.weight", "output.weight") if config.tie_word_embeddings else ()
    elements = sum(t.elements for t in stored_tensors(source) if t.name not in skipped)
    return elements * _BYTES_PER_ELEMENT[dtype]


def _samples(tensors: list[StoredTensor]) -> dict[str, bytes]:
    """Head, middle and tail of each tensor, by name."""
    by_file: dict[Path, list[StoredTensor]] = defaultdict(list)
    for tensor in tensors:
        by_file[tensor.file].append(tensor)
    samples = {}
    for path, mine in by_file.items():
        with path.open("rb", buffering=0) as stream:
            for tensor in mine:
                pieces = []
                last = max(0, tensor.nbytes - _SAMPLE)
                for start in (0, last // 2, last):
                    stream.seek(tensor.offset + start)
                    pieces.append(stream.read(min(_SAMPLE, tensor.nbytes)))
                samples[tensor.name] = b"".join(pieces)
    return samples
