"""How much memory a run takes on one device, reckoned before anything is loaded.

Weights, adapters and optimizer states are counted exactly, on a model without storage; caches and activations follow
the shape of a decoder of attention and gated feed-forward, and are right to some tens of per cent.
"""

from dataclasses import dataclass

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf.config.models import LoraConfig
from rlhf.config.run import Config
from rlhf.errors import ConfigError
from rlhf.models.dtypes import DTYPES
from rlhf.models.families import attention_layers

GIB = 2**30
BYTES = {"float32": 4.0, "bfloat16": 2.0, "mixed": 2.0, "8bit": 1.0, "4bit": 0.53}
"""Of one weight of a linear layer; 4bit with the scale of every 64 weights, itself in 8 bits."""
ADAM = 3
"""A trained weight's gradient and two moments, each as large as the weight."""
LOGITS = 4
"""Copies of a chunk of logits: themselves, log-probabilities, what is made of both, a gradient."""


@dataclass(frozen=True)
class Size:
    """Of a causal LM: weights in all, those in its layers' matrices, and what a token takes on its way, in numbers."""

    weights: int
    matrices: int
    layers: int
    hidden: int
    inner: int
    cache: int
    vocabulary: int


@dataclass(frozen=True)
class Estimate:
    """Bytes per device: of each stage that needs much, by what takes them."""

    stages: dict[str, dict[str, float]]

    @property
    def stage(self) -> str:
        """The one that takes most."""
        return max(self.stages, key=lambda name: sum(self.stages[name].values()))

    @property
    def total(self) -> float:
        return sum(self.stages[self.stage].values())

    @property
    def lasting(self) -> float:
        """Of the same stage, what is there all the time: weights and optimizer states, exact."""
        return sum(value for name, value in self.stages[self.stage].items() if name in ("program", "weights", "adam"))

    def __str__(self) -> str:
        parts = sorted(self.stages[self.stage].items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {value / GIB:.2g}" for name, value in parts if value > 0.01 * self.total)
        return f"about {self.total / GIB:.2g} GiB, most of all in {self.stage}: {listed}"


def empty_model(shape: PreTrainedConfig) -> PreTrainedModel:
    """The model of that shape, without storage."""
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(shape)


def size_of(lm: PreTrainedModel) -> Size:
    shape = lm.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    return Size(
        weights=lm.num_parameters(),
        matrices=sum(layer.weight.numel() for _, layer in linear_layers(lm)),
        layers=shape.num_hidden_layers,
        hidden=shape.hidden_size,
        inner=inner,
        cache=2 * shape.num_hidden_layers * heads * width,
        vocabulary=shape.vocab_size,
    )


def linear_layers(lm: PreTrainedModel) -> list[tuple[str, nn.Linear | Conv1D]]:
    """Names and layers, without the output head."""
    head = lm.get_output_embeddings()
    linear = (nn.Linear, Conv1D)
    return [(name, layer) for name, layer in lm.named_modules() if isinstance(layer, linear) and layer is not head]  # pyright: ignore[reportReturnType]


def adapter_weights(lm: PreTrainedModel, config: LoraConfig) -> int:
    """Of one adapter: r x (in + out) for each layer that it is on."""
    assert config.r is not None
    return config.r * sum(sum(layer.weight.shape) for layer in adapted_layers(lm, config))


def adapted_layers(lm: PreTrainedModel, config: LoraConfig) -> list[nn.Linear | Conv1D]:
    """Those that an adapter is on."""
    lists = [attention_layers(lm) if name == "attention" else [name] for name in config.target_modules]
    endings = tuple(f".{name}" for names in lists for name in names)
    everywhere = "all-linear" in config.target_modules
    return [layer for name, layer in linear_layers(lm) if everywhere or f".{name}".endswith(endings)]


def estimate(
    config: Config, lm: PreTrainedModel, chunk: int, processes: int, program: float = 0.0, reward: float = 0.0
) -> Estimate:
    """Of a run on the base `lm`, in stages; `chunk` logits exist at once.

    `program` are bytes taken before anything is loaded, `reward` those of a reward model that was made elsewhere.
    """
    size, model = size_of(lm), config.model
    number = float(DTYPES[model.dtype].itemsize)
    layers = size.matrices * BYTES[model.quantization or model.dtype]
    shared = processes if config.distributed.name == "fsdp" else 1
    weights = layers / shared + (size.weights - size.matrices) * number
    ppo = {"program": program, "weights": weights + reward, "adam": 0.0}
    ppo["weights"] += _reward_weights(config, lm, size)
    for trained in _trained(config, lm, size):
        ppo["weights"] += trained
        ppo["adam"] += ADAM * trained
    length = config.rollout.max_prompt_tokens + config.rollout.max_response_tokens
    rows = min(config.rollout.decode_batch_size, -(-config.rollout.batch_size // processes))
    passes = 2 if config.value.name == "adapter" else 1
    ppo["rollout"] = rows * (length * size.cache * number + LOGITS * 4 * size.vocabulary)
    if config.lora.r is not None and config.rollout.engine == "fast" and model.quantization is None:
        merged = sum(layer.weight.numel() for layer in adapted_layers(lm, config.lora))
        ppo["rollout"] += merged * BYTES[model.dtype]
    micro = min(config.ppo.micro_batch_size or config.ppo.step_batch_size, config.ppo.step_batch_size // processes)
    full = BYTES["float32"] if config.lora.r is None else number
    ppo["activations"] = passes * activations(size, micro * length, full, model.gradient_checkpointing)
    ppo["logits"] = LOGITS * 4.0 * min(chunk, micro * config.rollout.max_response_tokens * size.vocabulary)
    ppo.update(_larger(ppo))
    stages = {"ppo": ppo}
    if config.sft.epochs > 0:
        tokens = config.sft.batch_size * length
        stages["sft"] = _full_training(size, tokens, chunk, model.gradient_checkpointing, program)
    if config.reward.backbone == "full":
        tokens = 2 * config.reward.batch_size * length
        trained = _full_training(size, tokens, 0, model.gradient_checkpointing, program)
        stages["reward"] = trained | {"weights": trained["weights"] + weights}
    return Estimate(stages)


def activations(size: Size, tokens: int, number: float, recompute: bool) -> float:
    """Bytes kept for the backward pass of so many tokens: of all layers, or their inputs and one layer's."""
    layer = 10 * size.hidden + 4 * size.inner
    kept = size.layers * size.hidden + layer if recompute else size.layers * layer
    return tokens * number * kept


def advise(found: Estimate, capacity: float) -> str:
    """The estimate in words beside the device's memory, in bytes, and where that is less, what to change."""
    words = f"{found}; the GPU has {capacity / GIB:.3g}"
    return words if found.total <= capacity else f"{words}: where it runs out, use {ADVICE[found.stage]}"


def check_fits(found: Estimate, capacity: float) -> None:
    """Raises ConfigError where weights and optimizer states alone are more than the device holds, in bytes."""
    if found.lasting > capacity:
        raise ConfigError(
            f"the run takes {found}, and the GPU has {capacity / GIB:.3g} GiB: it can't fit. Use {ADVICE[found.stage]}"
        )


ADVICE = {
    "sft": "sft.epochs=0 with a model.path that is fine-tuned already",
    "reward": "reward=adapter, so that the base's weights are in memory once",
    "ppo": "model.dtype=bfloat16, model.quantization=4bit, LoRA, reward=adapter, or distributed=fsdp on more GPUs; "
    "then model.gradient_checkpointing=true, and a smaller ppo.micro_batch_size and rollout.decode_batch_size",
}


def _trained(config: Config, lm: PreTrainedModel, size: Size) -> list[float]:
    """Bytes of what the optimizer trains: of the policy, and of a value of its own."""
    found = []
    if config.lora.r is None:
        found.append(size.weights * BYTES["float32"])
    else:
        found.append(adapter_weights(lm, config.lora) * BYTES[config.lora.dtype])
    if config.value.name == "adapter":
        found.append(adapter_weights(lm, config.reward.lora) * BYTES[config.reward.lora.dtype])
    return found


def _reward_weights(config: Config, lm: PreTrainedModel, size: Size) -> float:
    """Bytes of the reward model that is trained here, and of a second one that judges."""
    each = {
        "adapter": lambda: adapter_weights(lm, config.reward.lora) * BYTES[config.reward.lora.dtype],
        "full": lambda: size.weights * BYTES["float32"],
    }.get(config.reward.backbone, lambda: 0.0)()
    return each * (config.reward.members + (config.judge.name == "reward_model"))


def _full_training(size: Size, tokens: int, chunk: int, recompute: bool, program: float) -> dict[str, float]:
    """Bytes of training all weights in float32."""
    number = BYTES["float32"]
    return {
        "program": program,
        "weights": size.weights * number,
        "adam": ADAM * size.weights * number,
        "activations": activations(size, tokens, number, recompute),
        "logits": LOGITS * 4.0 * min(chunk, tokens * size.vocabulary),
    }


def _larger(parts: dict[str, float]) -> dict[str, float]:
    """Sampling and updating take turns: the smaller of the two counts nothing."""
    update = parts["activations"] + parts["logits"]
    return {"rollout": 0.0} if parts["rollout"] < update else {"activations": 0.0, "logits": 0.0}
