"""Step times from a device's figures, where nobody measured: the last resort, and marked so.

    a step    overhead + max(matrix products, their weights) + attention + sums over the group
    products  2 FLOP a weight and token, of the layers for each token, of the output for the last
    weights   read once a step; of experts, those that some token of the step goes to
    attention arithmetic of prompts, and the KV that decoding sequences attend to, read once
    sums      two a layer over the tensor-parallel group: a latency each, and bytes over its links

Of each figure a share is reached (`Efficiency`).
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.bench.planning.hardware.devices import Device
from baton.bench.planning.hardware.grid import Fitted, Step, fit
from baton.bench.planning.models import ModelShape
from baton.protocol.curves import attention_pairs


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """What is reached of a device's figures. The defaults were fitted on the points that
    `baton bench planner` names."""

    memory: float = 0.74
    products: float = 0.64
    """In 16 bits."""
    products_fp8: float = 0.48
    attention: float = 0.7
    peer: float = 0.46
    sum_latency: float = 7.2e-6
    """Seconds of one sum over the group."""
    step: float = 1.26e-3
    """Seconds of every step: launching, sampling, the scheduler."""
    sequence: float = 48e-6
    """Seconds for each sequence that a token is sampled for."""


@dataclass(frozen=True)
class Roofline:
    """A model on `devices` of a kind, as one worker."""

    model: ModelShape
    device: Device
    devices: int
    efficiency: Efficiency = Efficiency()
    kv_byte: float = 2.0
    """Bytes of one value in the KV cache."""

    def curve(self) -> Fitted:
        return fit(self.seconds)

    def seconds(self, step: Step) -> float:
        model, device, reached = self.model, self.device, self.efficiency
        tokens = step.prompts * step.tokens + step.sequences
        sampled = step.prompts + step.sequences
        narrow = model.byte <= 1 and device.fp8 is not None
        arithmetic = self.devices * (
            (device.fp8 or 0.0) * reached.products_fp8
            if narrow
            else device.bf16 * reached.products
        )
        memory = self.devices * device.bandwidth * reached.memory
        layers = max(
            2 * model.layer_parameters * tokens / arithmetic,
            self._layer_bytes(tokens) / memory,
        )
        head = max(
            2 * model.head_parameters * sampled / (self.devices * device.bf16 * reached.products),
            model.head_parameters * max(2.0, model.byte) / memory,
        )
        # Queries times keys, weights times values: 4 FLOP a pair and head dimension.
        pairs = step.prompts * attention_pairs(step.tokens, 0)
        attention = (
            4 * model.layers * model.heads * model.head_dim * pairs
            / (self.devices * device.bf16 * reached.attention)
        )
        token_bytes = 2 * model.layers * model.kv_heads * model.head_dim * self.kv_byte
        context = step.sequences * step.context * token_bytes / memory
        return (
            reached.step + reached.sequence * sampled + layers + head + attention + context
            + self._sums(tokens)
        )

    def _layer_bytes(self, tokens: int) -> float:
        """Of the layers' weights that a step with so many tokens reads."""
        model = self.model
        missed = (1 - model.active_experts / model.experts) ** tokens
        experts = model.experts * (1 - missed)
        return model.layers * model.byte * (
            model.attention_parameters + experts * model.expert_parameters
        )

    def _sums(self, tokens: int) -> float:
        if self.devices == 1:
            return 0.0
        # A ring moves each byte 2 (n - 1) / n times.
        moved = 2 * (self.devices - 1) / self.devices * tokens * self.model.hidden * 2
        return 2 * self.model.layers * (
            self.efficiency.sum_latency + moved / (self.device.peer * self.efficiency.peer)
        )


def pool_tokens(model: ModelShape, device: Device, devices: int, kv_byte: float = 2.0) -> int:
    """Tokens of KV that fit beside the weights; below 1 where the weights do not fit."""
    room = devices * (_MEMORY_SHARE * device.memory - _WORKSPACE) - model.weight_bytes
    return int(room / (2 * model.layers * model.kv_heads * model.head_dim * kv_byte))


_MEMORY_SHARE = 0.92
_WORKSPACE = 2e9
"""Bytes of activations and libraries."""
