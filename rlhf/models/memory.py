"""How much memory a run takes on one device, estimated before anything is loaded.

Weights, adapters and optimizer states are counted exactly, on a model without storage; caches and activations follow
the shape of a decoder of attention and gated feed-forward: a test holds what training keeps to a quarter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf.config.models import LoraConfig
from rlhf.config.run import Config
from rlhf.errors import ConfigError
from rlhf.models.layers import attention_layers
from rlhf.models.precision import DTYPES

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0, "mixed": 2.0, "8bit": 1.0, "4bit": 0.53}
"""Bytes of one weight of a linear layer; 4bit with the scale of every 64 weights, itself in 8 bits."""
FLOAT = BYTES["float32"]
ADAM = 3
"""A trained weight's gradient and two moments, each as large as the weight."""
LOGITS = 4
"""Copies of a chunk of logits: themselves, log-probabilities, what is made of both, a gradient."""
WORLD_RESPONSES = 4
"""To each compared prompt of the embedded world; files of text have two."""
ADVICE = {
    "sft": "model.gradient_checkpointing=true, or sft.epochs=0 with a model.path that is fine-tuned already",
    "reward": "a smaller reward.micro_batch_size or max_response_tokens, model.gradient_checkpointing=true, and "
    "reward=adapter where it is full",
    "ppo": "model.dtype=bfloat16, model.quantization=4bit, LoRA, reward=adapter, or distributed=fsdp on more GPUs; "
    "then model.gradient_checkpointing=true, and a smaller ppo.micro_batch_size and rollout.decode_batch_size",
}

Parts = dict[str, float]
"""Bytes by what takes them."""


class Size:
    """Counts of a causal LM: weights, those in its layers' matrices, and numbers per token."""

    def __init__(self, lm: PreTrainedModel) -> None:
        shape = lm.config.get_text_config()
        heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
        width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
        self.weights, self.matrices = lm.num_parameters(), matrices(lm)
        self.layers, self.vocabulary = shape.num_hidden_layers, shape.vocab_size
        self.cache = 2 * self.layers * heads * width  # keys and values of all layers
        self.hidden, self.inner = shape.hidden_size, inner


@dataclass(frozen=True)
class Estimate:
    """Bytes per device of each stage that needs much."""

    stages: dict[str, Parts]

    @property
    def stage(self) -> str:
        """The one that takes most."""
        return max(self.stages, key=lambda name: sum(self.stages[name].values()))

    @property
    def total(self) -> float:
        return sum(self.stages[self.stage].values())

    @property
    def lasting(self) -> float:
        """What is there all through that stage, weights and optimizer states: exact."""
        return sum(value for name, value in self.stages[self.stage].items() if name in ("program", "weights", "adam"))

    def __str__(self) -> str:
        parts = sorted(self.stages[self.stage].items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {value / GIB:.2g}" for name, value in parts if value > 0.01 * self.total)
        return f"about {self.total / GIB:.2g} GiB, most of all in {self.stage}: {listed}"


def advise(found: Estimate, capacity: float) -> str:
    """The estimate in words beside the device's memory, in bytes, and where that is less, what to change."""
    words = f"{found}; the GPU has {capacity / GIB:.3g}"
    return words if found.total <= capacity else f"{words}: where it runs out, use {ADVICE[found.stage]}"


def check_fits(found: Estimate, capacity: float, device: str = "the GPU") -> None:
    """Raises ConfigError where weights and optimizer states alone are more than the device holds, in bytes."""
    if found.lasting > capacity:
        raise ConfigError(
            f"the run takes {found}, and {device} has {capacity / GIB:.3g} GiB: it can't fit. Use {ADVICE[found.stage]}"
        )


def empty_model(shape: PreTrainedConfig) -> PreTrainedModel:
    """The model of that shape, without storage."""
    with init_empty_weights(include_buffers=True):
        return AutoModelForCausalLM.from_config(shape)


def linear_layers(lm: PreTrainedModel, modules: Sequence[str] = ("all-linear",)) -> list[nn.Linear | Conv1D]:
    """The layers that `modules`, as in lora.target_modules, stand for; never the output head."""
    lists = [attention_layers(lm) if name == "attention" else [name] for name in modules]
    endings = tuple(f".{name}" for names in lists for name in names)
    head, everywhere = lm.get_output_embeddings(), "all-linear" in modules
    return [
        layer
        for name, layer in lm.named_modules()
        if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head and (everywhere or f".{name}".endswith(endings))
    ]


def matrices(lm: PreTrainedModel, modules: Sequence[str] = ("all-linear",)) -> int:
    return sum(layer.weight.numel() for layer in linear_layers(lm, modules))


def adapter_weights(lm: PreTrainedModel, config: LoraConfig) -> int:
    """Weights of one adapter: r x (in + out) for each layer that it is on."""
    assert config.r is not None
    return config.r * sum(sum(layer.weight.shape) for layer in linear_layers(lm, config.target_modules))


def activations(size: Size, tokens: int, number: float, recompute: bool, feed_forward: bool) -> float:
    """Bytes kept for the backward pass of so many tokens: of all layers, or their inputs and one layer's.

    `number` is a state's size in bytes; `feed_forward` says whether weights are trained there too.
    """
    fed = size.hidden + size.inner if feed_forward else 0
    layer = number * (9 * size.hidden + 3 * size.inner + fed)
    if number < FLOAT:  # norms and adapters keep copies in float32
        layer += FLOAT * (4 * size.hidden + fed)
    return tokens * (size.layers * size.hidden * number + layer if recompute else size.layers * layer)


def trains_feed_forward(lm: PreTrainedModel, config: LoraConfig) -> bool:
    """Whether an adapter, or where there is none all weights, are trained outside of attention too."""
    attention = set(linear_layers(lm, ("attention",)))
    return config.r is None or not attention.issuperset(linear_layers(lm, config.target_modules))


def estimate(
    config: Config, lm: PreTrainedModel, chunk: int, processes: int, program: float = 0.0, reward: float = 0.0
) -> Estimate:
    """The memory of a run on the base `lm`; `chunk` logits exist at once.

    `program` are bytes taken before anything is loaded, `reward` those of a reward model that was made elsewhere.
    """
    size, model, number = Size(lm), config.model, float(DTYPES[config.model.dtype].itemsize)
    shared = processes if config.distributed.name == "fsdp" else 1
    base = size.matrices * BYTES[model.quantization or model.dtype] / shared + (size.weights - size.matrices) * number
    length = config.rollout.max_prompt_tokens + config.rollout.max_response_tokens
    kept = _kept_weights(config, lm, size)
    ppo = {"program": program, "weights": base + reward + kept["weights"], "adam": kept["adam"]}
    stages = {"ppo": ppo | _passes(config, lm, size, length, chunk, processes)}

    def full_training(rows: int, chunk: int, beside: float) -> Parts:
        """All weights trained in float32, `beside` other bytes."""
        return {
            "program": program,
            "weights": size.weights * FLOAT + beside,
            "adam": ADAM * size.weights * FLOAT,
            "activations": activations(size, rows * length, FLOAT, model.gradient_checkpointing, True),
            "logits": LOGITS * FLOAT * min(chunk, rows * length * size.vocabulary),
        }

    if config.sft.epochs > 0:
        stages["sft"] = full_training(config.sft.batch_size, chunk, beside=0.0)
    if not config.reward.is_external or config.judge.second_reward:
        stages["reward"] = _reward_training(config, lm, size, base, chunk) | {"program": program}
    return Estimate(stages)


def _reward_training(config: Config, lm: PreTrainedModel, size: Size, base: float, chunk: int) -> Parts:
    """All responses of a micro-batch's prompts at once, as long as they may be; without a limit as in a rollout."""
    rollout, whole = config.rollout, config.reward.backbone == "full"
    longest = config.reward.max_response_tokens or rollout.max_response_tokens
    rows = (config.reward.micro_batch_size or config.reward.batch_size) * (
        WORLD_RESPONSES if config.data.name == "world" else 2
    )
    lora = config.reward.lora
    trained = size.weights * FLOAT if whole else adapter_weights(lm, lora) * BYTES[lora.dtype]
    number = FLOAT if whole else float(DTYPES[config.model.dtype].itemsize)
    tokens = rows * (rollout.max_prompt_tokens + longest)
    feed_forward = whole or trains_feed_forward(lm, lora)
    logits = 0 if config.reward.logprobs == "none" else rows * longest * size.vocabulary
    return {
        "weights": base + trained,
        "adam": ADAM * trained,
        "activations": activations(size, tokens, number, config.model.gradient_checkpointing, feed_forward),
        "logits": LOGITS * FLOAT * min(chunk, logits),
    }


def _kept_weights(config: Config, lm: PreTrainedModel, size: Size) -> Parts:
    """What PPO has beside the base: the policy and a value of its own, which are trained, reward model and judge."""
    whole, rewards = size.weights * FLOAT, config.reward.members + config.judge.second_reward
    adapter = adapter_weights(lm, config.reward.lora) * BYTES[config.reward.lora.dtype]
    policy = whole if config.lora.r is None else adapter_weights(lm, config.lora) * BYTES[config.lora.dtype]
    on_reward = config.value.init == "backbone"  # a copy of the reward model, with an adapter of its own
    own = adapter_weights(lm, config.value.lora) * BYTES[config.value.lora.dtype] if on_reward else adapter
    trained = policy + (own if config.value.name == "adapter" else 0.0)
    copied = size.weights * DTYPES[config.model.dtype].itemsize if on_reward else 0.0
    frozen = {"adapter": adapter, "full": whole}.get(config.reward.backbone, 0.0) * rewards
    return {"weights": frozen + copied + trained, "adam": ADAM * trained}


def _passes(config: Config, lm: PreTrainedModel, size: Size, length: int, chunk: int, processes: int) -> Parts:
    """Sampling, or updating: they take turns, so that the smaller of the two counts nothing."""
    model, ppo, number = config.model, config.ppo, float(DTYPES[config.model.dtype].itemsize)
    together = max(config.rollout.batch_size, config.evaluation.prompts)  # longer ones are fewer: Sampler._rows
    rows = min(config.rollout.decode_batch_size, -(-together // processes))
    rollout = rows * (length * size.cache * number + LOGITS * FLOAT * size.vocabulary)
    if config.lora.r is not None and config.rollout.engine == "fast" and model.quantization is None:
        rollout += matrices(lm, config.lora.target_modules) * BYTES[model.dtype]
    micro = config.micro_batch_size(processes)
    if ppo.repeat_micro_batch:  # which the processes share
        micro = min(micro, -(-(ppo.micro_batch_size or micro) // processes))
    full, feed_forward = FLOAT if config.lora.r is None else number, trains_feed_forward(lm, config.lora)
    kept = activations(size, micro * length, full, model.gradient_checkpointing, feed_forward)
    if config.value.name == "adapter":
        feed_forward = trains_feed_forward(lm, config.reward.lora)
        kept += activations(size, micro * length, number, model.gradient_checkpointing, feed_forward)
    update = {
        "activations": kept,
        "logits": LOGITS * FLOAT * min(chunk, micro * config.rollout.max_response_tokens * size.vocabulary),
    }
    return {"rollout": rollout} if rollout >= sum(update.values()) else update
