"""The decoder of the Llama family, driven by `ModelConfig`.

Pre-norm transformer with rotary positions, grouped key/value heads and a gated feed-forward part.
What its relatives add (biases, norms on q and k, sliding windows) are fields of the configuration.
Weights live here; the KV cache and what a step consists of come from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.engine.model.config import ModelConfig
from baton.engine.models.rope import Rope
from baton.engine.models.weight_slots import WeightSlots
from baton.kernels.attention_batch import AttentionBatch, AttentionShape, LayerKV
from baton.kernels.ops import Ops, PackedLinear, select_ops
from baton.protocol.kvlayout import KVLayout


class LlamaLayer:
    """One block: attention, then the feed-forward part."""

    input_norm: Tensor
    qkv: PackedLinear
    q_norm: Tensor
    k_norm: Tensor
    attention_output: PackedLinear
    post_attention_norm: Tensor
    gate_up: PackedLinear
    down: PackedLinear

    def __init__(self, config: ModelConfig, index: int, ops: Ops) -> None:
        self.ops = ops
        self.eps = config.rms_norm_eps
        self.has_qk_norm = config.qk_norm
        sliding = config.sliding_layers is not None and config.sliding_layers[index]
        self.shape = AttentionShape(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            scale=config.head_dim**-0.5,
            window=config.sliding_window if sliding else None,
        )

    def declare(self, slots: WeightSlots, config: ModelConfig, prefix: str) -> None:
        """Say which tensors this layer wants, and where they go."""
        hidden, wide = config.hidden_size, config.intermediate_size
        q_rows = config.num_heads * config.head_dim
        kv_rows = config.num_kv_heads * config.head_dim
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"

        def to(field: str) -> _Setter:
            return _Setter(self, field)

        slots.vector(f"{prefix}.input_layernorm.weight", hidden, to("input_norm"))
        slots.linear(
            [
                (f"{attention}.q_proj", q_rows),
                (f"{attention}.k_proj", kv_rows),
                (f"{attention}.v_proj", kv_rows),
            ],
            hidden,
            bias=config.attention_bias,
            put=to("qkv"),
        )
        if config.qk_norm:
            slots.vector(f"{attention}.q_norm.weight", config.head_dim, to("q_norm"))
            slots.vector(f"{attention}.k_norm.weight", config.head_dim, to("k_norm"))
        slots.linear(
            [(f"{attention}.o_proj", hidden)],
            q_rows,
            bias=config.attention_output_bias,
            put=to("attention_output"),
        )
        slots.vector(
            f"{prefix}.post_attention_layernorm.weight", hidden, to("post_attention_norm")
        )
        slots.linear(
            [(f"{mlp}.gate_proj", wide), (f"{mlp}.up_proj", wide)],
            hidden,
            bias=config.mlp_bias,
            put=to("gate_up"),
        )
        slots.linear([(f"{mlp}.down_proj", hidden)], wide, bias=config.mlp_bias, put=to("down"))

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        angles: tuple[Tensor, Tensor],
        kv: LayerKV,
        batch: AttentionBatch,
    ) -> tuple[Tensor, Tensor]:
        """(x, residual) [T, hidden] in and out; their sum is what flows between layers. Keeping
        them apart lets each addition join the norm that follows it."""
        ops = self.ops
        if residual is None:
            residual, x = x, ops.rms_norm(x, self.input_norm, self.eps)
        else:
            x, residual = ops.add_rms_norm(x, residual, self.input_norm, self.eps)
        qkv = self.qkv(x)
        if self.has_qk_norm:
            self._norm_heads(qkv)
        x = self.attention_output(ops.attention(qkv, *angles, kv, batch, self.shape))
        x, residual = ops.add_rms_norm(x, residual, self.post_attention_norm, self.eps)
        return self.down(ops.silu_and_mul(self.gate_up(x))), residual

    def _norm_heads(self, qkv: Tensor) -> None:
        heads = qkv.view(qkv.shape[0], -1, self.shape.head_dim)
        q_end = self.shape.num_heads
        k_end = q_end + self.shape.num_kv_heads
        q, k = heads[:, :q_end], heads[:, q_end:k_end]
        q.copy_(self.ops.rms_norm(q, self.q_norm, self.eps))
        k.copy_(self.ops.rms_norm(k, self.k_norm, self.eps))


class LlamaModel:
    """A whole decoder. `load_weights` must come before `forward`."""

    embedding: Tensor
    final_norm: Tensor
    head: PackedLinear

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        ops: Ops | None = None,
    ) -> None:
        """Allocates nothing to speak of. Raises ConfigError for a rope scaling that is not
        known."""
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.ops = ops or select_ops(self.device, dtype)
        self.rope = Rope(config, self.device)
        self.layers = [LlamaLayer(config, n, self.ops) for n in range(config.num_layers)]

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def kv_layout(self, block_size: int) -> KVLayout:
        """The cache that this model wants, in its own dtype."""
        config = self.config
        return KVLayout(
            config.num_layers, config.num_kv_heads, config.head_dim, block_size, self.dtype_name
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take all (name, tensor) of a checkpoint, names as Hugging Face writes them, any float
        dtype, any device. Raises ConfigError naming a tensor that is missing, unknown, twice
        there, or of the wrong shape."""
        config = self.config
        slots = WeightSlots(self.ops, self.dtype, self.device)
        size = (config.vocab_size, config.hidden_size)
        slots.matrix("model.embed_tokens.weight", *size, _Setter(self, "embedding"))
        for index, layer in enumerate(self.layers):
            layer.declare(slots, config, f"model.layers.{index}")
        slots.vector("model.norm.weight", config.hidden_size, _Setter(self, "final_norm"))
        if config.tie_word_embeddings:
            slots.ignore("lm_head.weight")
        else:
            slots.linear(
                [("lm_head", config.vocab_size)],
                config.hidden_size,
                bias=False,
                put=_Setter(self, "head"),
            )
        with torch.inference_mode():
            slots.load(weights)
            if config.tie_word_embeddings:
                self.head = self.ops.pack_linear(self.embedding, None)

    def forward(
        self,
        tokens: Tensor,
        batch: AttentionBatch,
        kv: Sequence[LayerKV],
        after_layer: Callable[[int], None] | None = None,
    ) -> Tensor:
        """int64 [T] to [T, hidden], before the final norm; writes the tokens' KV. `after_layer` is
        called after each with how many there were; on a device they may only be queued then."""
        x = F.embedding(tokens, self.embedding)
        residual: Tensor | None = None
        angles = self.rope.angles(batch.positions)
        for index, (layer, layer_kv) in enumerate(zip(self.layers, kv, strict=True)):
            x, residual = layer.forward(x, residual, angles, layer_kv, batch)
            if after_layer is not None:
                after_layer(index + 1)
        return x if residual is None else x + residual

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, hidden], rows of what `forward` returned, to float32 [R, vocab]."""
        return self.head(
            self.ops.rms_norm(hidden, self.final_norm, self.config.rms_norm_eps)
        ).float()


class _Setter:
    """Puts a loaded parameter in its place."""

    def __init__(self, owner: object, field: str) -> None:
        self._owner = owner
        self._field = field

    def __call__(self, value: Tensor | PackedLinear) -> None:
        setattr(self._owner, self._field, value)
