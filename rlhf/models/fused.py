"""Fast decoding of the Llama family: adapters merged into buffers of their own, a cache of fixed size, few operations.

The base's weights are read and never written: a layer with an adapter on is decoded from a buffer that holds their sum,
made anew for each rollout, one without from the base itself; a layer whose adapter is no sum, or whose base has few
bits, runs as it is. Layers are those of transformers' Llama, Mistral, Qwen2 and Qwen3, whose logits `matches` compares
with before anything relies on them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.batch import pad_left, positions
from rlhf.models.decoding import Logits, ModelDecoder
from rlhf.models.lora import adapters_on, base_of, is_plain, merged
from rlhf.models.precision import MixedLinear, mixed_linear

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROTARY = ("default", "linear", "llama3", "yarn")
"""Forms of the rotary embedding that do not depend on how long a sequence has become."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""By the dtype of products: root mean square error allowed, as a share of the logits' standard deviation."""

States = Float[Tensor, "rows new hidden"]
Places = slice | Int[Tensor, " new"]


class Projection:
    """Linear layers that read the same states; one matmul where an adapter is merged into any of them.

    Into a base of fewer bits than its states (`mixed`) nothing is merged, which would round the adapter: it stays
    beside it, all factors of the layers as one pair.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        plain = all(map(is_plain, layers))
        self.layers = [base_of(layer) for layer in layers] if plain else layers
        self.weight: Tensor | None = None
        self.factors: tuple[Tensor, Tensor] | None = None
        if plain and any(map(adapters_on, layers)):
            beside = isinstance(base_of(layers[0]), MixedLinear)
            self.factors = _factors(layers) if beside else None
            self.weight = torch.cat([base_of(layer).weight if beside else _merged(layer) for layer in layers])
        biases = [base_of(layer).bias for layer in layers]
        self.bias = torch.cat(biases) if biases[0] is not None else None

    def __call__(self, states: Tensor) -> Tensor:
        """The layers' outputs, side by side."""
        if self.weight is None:
            return torch.cat([layer(states) for layer in self.layers], dim=-1)
        found = mixed_linear(states, self.weight, self.bias)
        if self.factors is None:
            return found
        down, up = self.factors
        return found + F.linear(F.linear(states, down), up)


class FusedDecoder:
    """A Decoder, for models that `fits`, of at most `limit` tokens after the prompt."""

    def __init__(self, lm: PreTrainedModel, limit: int) -> None:
        trunk: Any = lm.base_model
        self.lm, self.trunk, self.limit, self.layers = lm, trunk, limit, list(trunk.layers)
        self.inputs = [Projection(_attention_inputs(layer)) for layer in self.layers]
        self.outputs = [Projection([layer.self_attn.o_proj]) for layer in self.layers]
        self.gates = [Projection([layer.mlp.gate_proj, layer.mlp.up_proj]) for layer in self.layers]
        self.downs = [Projection([layer.mlp.down_proj]) for layer in self.layers]

    def start(self, input_ids: Int[Tensor, "rows length"], attention_mask: Int[Tensor, "rows length"]) -> Logits:
        rows, self.length = input_ids.shape
        self.next_position = attention_mask.sum(1)
        states = self.trunk.embed_tokens(input_ids)
        room = self._room()
        everywhere = torch.arange(room, device=states.device)[None]
        self.cos, sin = (table[0] for table in self.trunk.rotary_emb(states, everywhere))
        self.sin = torch.cat([-sin[:, : sin.shape[1] // 2], sin[:, sin.shape[1] // 2 :]], dim=1)
        keys = self.layers[0].self_attn.k_proj
        heads = base_of(keys).out_features // self.layers[0].self_attn.head_dim
        shape = (2, len(self.layers), rows, heads, room, self.layers[0].self_attn.head_dim)
        self.cache = states.new_empty(shape)  # what has not been written is never read
        lowest = torch.finfo(states.dtype).min
        self.bias = states.new_zeros(rows, 1, 1, room)
        self.bias[..., : self.length].masked_fill_(attention_mask[:, None, None] == 0, lowest)
        causal = states.new_full((self.length, self.length), lowest).triu(1)
        seen = torch.maximum(causal + self.bias[..., : self.length], causal.new_tensor(lowest))
        return self._forward(states, positions(attention_mask), seen, slice(self.length))

    def step(self, tokens: Int[Tensor, "rows 1"]) -> Logits:
        states, place = self.trunk.embed_tokens(tokens), self.length
        at, self.length = self.next_position[:, None], self.length + 1
        self.next_position = self.next_position + 1
        return self._forward(states, at, self.bias[..., : self.length], slice(place, self.length))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        for states in self.cache.flatten(0, 1):  # in place, a layer at a time: a second cache may not fit
            states[: len(rows), :, : self.length] = states[rows, :, : self.length]
        self.cache = self.cache[:, :, : len(rows)]
        self.bias, self.next_position = self.bias[rows], self.next_position[rows]

    def _room(self) -> int:
        """Tokens for which there is memory: the prompt's and all that may follow."""
        return self.length + self.limit

    def _forward(self, states: States, at: Int[Tensor, "rows new"], seen: Tensor, places: Places) -> Logits:
        """Logits after the last of each row's new tokens, whose `places` in the cache are filled."""
        cos, sin = self.cos[at][:, None], self.sin[at][:, None]
        for index, layer in enumerate(self.layers):
            normed = _rms_norm(layer.input_layernorm, states)
            states = states + self._attend(index, normed, cos, sin, seen, places)
            normed = _rms_norm(layer.post_attention_layernorm, states)
            gate, up = self.gates[index](normed).chunk(2, dim=-1)
            states = states + self.downs[index](layer.mlp.act_fn(gate) * up)
        head: Any = self.lm.get_output_embeddings()
        return head(_rms_norm(self.trunk.norm, states[:, -1])).float()

    def _attend(self, index: int, normed: States, cos: Tensor, sin: Tensor, seen: Tensor, places: Places) -> States:
        attention, (rows, new, _) = self.layers[index].self_attn, normed.shape
        keys, values = self.cache[0, index], self.cache[1, index]
        heads = self.inputs[index](normed).view(rows, new, -1, attention.head_dim).transpose(1, 2)
        turned, value = heads.split([heads.shape[1] - keys.shape[1], keys.shape[1]], dim=1)
        if hasattr(attention, "q_norm"):
            query, key = turned.split([turned.shape[1] - keys.shape[1], keys.shape[1]], dim=1)
            turned = torch.cat([_rms_norm(attention.q_norm, query), _rms_norm(attention.k_norm, key)], dim=1)
        turned = _rotate(turned, cos, sin)
        query, key = turned.split([turned.shape[1] - keys.shape[1], keys.shape[1]], dim=1)
        keys[:, :, places] = key
        values[:, :, places] = value
        known = slice(seen.shape[-1])
        found = _attention(query, keys[:, :, known], values[:, :, known], seen, attention.scaling)
        return self.outputs[index](found.transpose(1, 2).reshape(rows, new, -1))


def fits(lm: PreTrainedModel) -> bool:
    """Whether this model is of a family that a FusedDecoder knows."""
    config = lm.config
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or []) or (
        config.model_type == "mistral" and config.sliding_window is not None
    )
    return config.model_type in FAMILIES and rotary in ROTARY and not sliding


@torch.no_grad()
def matches(lm: PreTrainedModel) -> bool:
    """Whether the logits of two short prompts and of one token after each are the model's own."""
    ids, mask = pad_left([[1, 2, 3], [3]], 0, lm.device)
    token = ids[:, -1:] * 0 + 1
    products = base_of(_linears(lm)[0]).weight.dtype
    tolerance = TOLERANCE[products if products.is_floating_point else lm.dtype]
    found, wanted = FusedDecoder(lm, 1), ModelDecoder(lm)
    for mine, own in ((found.start(ids, mask), wanted.start(ids, mask)), (found.step(token), wanted.step(token))):
        if (mine - own).square().mean().sqrt() > tolerance * own.std():
            return False
    return True


def _attention_inputs(layer: Any) -> list[nn.Module]:
    return [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]


def _linears(lm: PreTrainedModel) -> list[nn.Module]:
    layers: Any = lm.base_model
    return [
        linear
        for layer in layers.layers
        for linear in (
            *_attention_inputs(layer),
            *(layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj),
        )
    ]


def _merged(layer: Any) -> Float[Tensor, "outputs inputs"]:
    """The layer's weight with its adapter added, computed in float32."""
    base, names = base_of(layer), adapters_on(layer)
    weight = base.weight
    for name in names:
        factors = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
        weight = merged(weight.float(), *factors, layer.scaling[name])
    return weight.to(base.weight.dtype)


def _factors(layers: Sequence[Any]) -> tuple[Float[Tensor, "ranks inputs"], Float[Tensor, "outputs ranks"]]:
    """The adapters of layers side by side: their first factors together, the second, scaled, on the diagonal."""
    downs, ups = [], []
    for layer in layers:
        names = adapters_on(layer)
        downs += [layer.lora_A[name].weight for name in names]
        scaled = [layer.scaling[name] * layer.lora_B[name].weight for name in names]
        ups.append(torch.cat([layer.weight.new_empty(len(layer.weight), 0).float(), *scaled], 1))
    return torch.cat(downs).float(), torch.block_diag(*ups)


def _rms_norm(norm: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, (states.shape[-1],), norm.weight, norm.variance_epsilon)


def _attention(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Attention: torch's kernel for prompts, two matmuls for single-token steps, twice as fast on a CPU.

    In 16 bits on a GPU that kernel is the faster one for steps too, but where heads share keys, which it copies.
    """
    rows, heads, new, size = query.shape
    shared = keys.shape[1]
    grouped = heads != shared
    if new > 1 or (query.is_cuda and query.element_size() == 2 and not grouped):
        return F.scaled_dot_product_attention(query, keys, values, seen, scale=scale, enable_gqa=grouped)
    together = query.reshape(rows, shared, heads // shared, size) * scale
    weights = (together @ keys.transpose(2, 3) + seen).softmax(-1, dtype=torch.float32).to(values.dtype)
    return (weights @ values).view(rows, heads, 1, size)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in transformers' layout, halves rather than pairs; `sin` has its first half negated."""
    return states * cos + states.roll(states.shape[-1] // 2, -1) * sin
