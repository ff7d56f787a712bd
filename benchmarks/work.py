"""The matrix products that a PPO step can't do without: what its floor is made of.

Counted are the frozen linear layers and the output head, at real tokens only. Attention, norms, adapters, sampling and
optimizers are not, so that what is computed from here lies below any step that does this work.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from rlhf.config.run import Config

Product = tuple[int, int, int]
"""Rows, inputs and outputs of `rows x inputs @ inputs x outputs`."""

Products = Counter[Product]
"""How often each is computed."""

FUSABLE = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Layers that read the same states, and so can be one product."""


@dataclass(frozen=True)
class Linears:
    """(inputs, outputs) of a causal LM's linear layers: those of its trunk, and its output head."""

    trunk: list[tuple[int, int]]
    head: tuple[int, int]

    @classmethod
    def of(cls, lm: PreTrainedModel) -> "Linears":
        """Those of a base that carries no adapters yet."""
        trunk = [
            (name, (layer.in_features, layer.out_features))
            for name, layer in lm.base_model.named_modules()
            if isinstance(layer, nn.Linear)
        ]
        return cls(fuse(trunk), (lm.config.hidden_size, lm.config.vocab_size))

    @property
    def weights(self) -> int:
        return sum(inputs * outputs for inputs, outputs in [*self.trunk, self.head])

    def trunk_pass(self, rows: int) -> Products:
        return Products((rows, *shape) for shape in self.trunk) if rows else Products()

    def trunk_back(self, rows: int) -> Products:
        """Gradients on the way down through frozen weights."""
        return Products((rows, outputs, inputs) for inputs, outputs in self.trunk) if rows else Products()

    def head_pass(self, rows: int) -> Products:
        return Products([(rows, *self.head)])


def fuse(layers: Sequence[tuple[str, tuple[int, int]]]) -> list[tuple[int, int]]:
    """The layers' shapes by name, those that can be one product put together."""
    merged: dict[str, tuple[int, int]] = {}
    for name, (inputs, outputs) in layers:
        parent, _, last = name.rpartition(".")
        group = next((names[0] for names in FUSABLE if last in names), last)
        key = f"{parent}.{group}"
        merged[key] = (inputs, outputs + merged.get(key, (inputs, 0))[1])
    return list(merged.values())


@dataclass(frozen=True)
class Lengths:
    """Tokens of each prompt of a rollout and of its response."""

    prompts: list[int]
    responses: list[int]

    @property
    def tokens(self) -> int:
        return sum(self.prompts) + sum(self.responses)

    def groups(self, size: int) -> Iterator["Lengths"]:
        for start in range(0, len(self.prompts), size):
            part = slice(start, start + size)
            yield Lengths(self.prompts[part], self.responses[part])

    def rows(self) -> list[int]:
        """How many responses have a first token, a second, and so on."""
        return [sum(length > count for length in self.responses) for count in range(max(self.responses))]


def rollout_products(linears: Linears, lengths: Lengths, at_once: int) -> Products:
    """Read the prompts, then decode `at_once` responses together, finished ones left out.

    The trunk reads each token but a response's last; the head is asked once for every token.
    """
    products: Products = Products()
    for group in lengths.groups(at_once):
        rows = group.rows()
        products += linears.trunk_pass(sum(group.prompts))
        for count in rows:
            products += linears.head_pass(count)
        for count in rows[1:]:
            products += linears.trunk_pass(count)
    return products


def passes(config: Config) -> tuple[int, int]:
    """Trunks that read each response: in scoring (policy, reference, reward model, value), and in the update."""
    value = int(config.value.name == "adapter")
    return 3 + value, 1 + value


def scoring_products(linears: Linears, lengths: Lengths, config: Config) -> Products:
    """A pass of each role, a micro-batch at a time, and the policy's and the reference's heads on the responses."""
    products: Products = Products()
    for group in lengths.groups(config.micro_batch_size(1)):
        trunk, head = linears.trunk_pass(group.tokens), linears.head_pass(sum(group.responses))
        products += repeat(trunk, passes(config)[0]) + repeat(head, 2)
    return products


def update_products(linears: Linears, lengths: Lengths, config: Config) -> Products:
    """Forward and back, epoch for epoch: through policy, head and value; with lora=full the policy's weights' too."""
    products: Products = Products()
    rows, inputs = config.micro_batch_size(1), linears.head[0]
    for group in lengths.groups(rows):
        trunk = linears.trunk_pass(group.tokens) + linears.trunk_back(group.tokens)
        responses = sum(group.responses)
        head = linears.head_pass(responses) + Products([(responses, linears.head[1], inputs)])
        products += repeat(trunk, passes(config)[1]) + head
        if config.lora.r is None:
            products += linears.trunk_pass(group.tokens) + linears.head_pass(responses)
    return repeat(products, config.ppo.epochs)


def repeat(products: Products, times: int) -> Products:
    return Products({product: times * count for product, count in products.items()})


def flops(products: Products) -> float:
    """A multiplication and an addition for each weight and row."""
    return sum(2.0 * rows * inputs * outputs * count for (rows, inputs, outputs), count in products.items())
