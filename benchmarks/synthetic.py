"""A PPO learner that no stage was trained for: random weights, made-up prompts, responses of a known length.

Arithmetic does not mind what weights say, so random ones do for timing. With `model.path` the model there is measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlhf.config.models import ModelConfig
from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response, Source, Split
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.backbone import expand, load_backbone, prepare_torch, random_backbone, resolve_device
from rlhf.models.precision import quantized
from rlhf.models.reward import RewardModel
from rlhf.models.sampler import Sampler
from rlhf.stages.learner import Learner
from rlhf.stages.published import build_learner
from rlhf.validate import check

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

PAD, EOS = 0, 1
POOL = 512
"""Prompts that rollouts draw from."""

SHORTEST = 5 / 7
"""The shortest prompt's share of the longest: 20 of 28 tokens."""

NEVER = 40.0
"""Nats by which the end's logit lies below the others together where no response is to end."""


class SyntheticPrompts(Source):
    """Prompts of random words of a tokenizer, from `SHORTEST` of `longest` tokens to all; and nothing else."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, longest: int, seed: int) -> None:
        rng = Random(f"{seed}/bench prompts")
        special = set(tokenizer.all_special_ids)
        words = [token for token in range(len(tokenizer)) if token not in special]
        lengths = [rng.randint(math.ceil(SHORTEST * longest), longest) for _ in range(POOL)]
        self.pool = [as_prompt(tokenizer, rng.choices(words, k=length)) for length in lengths]

    def prompts(self, split: Split, count: int, rng: Random) -> list[Prompt]:
        return rng.choices(self.pool, k=count)


def synthetic_prompts(config: Config, tokenizer: PreTrainedTokenizerBase) -> SyntheticPrompts:
    """Those of a configuration; all that is measured on it draws from them."""
    longest = config.rollout.max_prompt_tokens
    return SyntheticPrompts(tokenizer, longest, config.seed)  # pyright: ignore[reportAbstractUsage]


def as_prompt(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> Prompt:
    text = tokenizer.decode(token_ids)
    assert isinstance(text, str)
    return Prompt(text, text, "bench")


class RecordingSampler(Sampler):
    """Remembers the last rollout, whose length is reported."""

    prompts: list[Prompt]
    responses: list[Response]

    def sample(self, role: Role, prompts: Sequence[Prompt], *args: Any, **kwargs: Any) -> list[Response]:
        self.prompts = list(prompts)
        self.responses = super().sample(role, prompts, *args, **kwargs)
        return self.responses

    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of the last rollout's prompts, and of its responses."""
        return list(map(len, self.encode(self.prompts))), [len(each.token_ids) for each in self.responses]


@dataclass
class Setting:
    """Untrained roles on one base."""

    config: Config
    source: SyntheticPrompts
    base: SharedBase
    reward: RewardModel
    sampler: RecordingSampler

    def learner(self) -> Learner:
        return build_learner(self.config, self.source, self.base, self.reward, self.sampler)


def build_setting(config: Config, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Setting:
    """Roles on `lm`, as a run of this configuration has them after its stages, all of them untrained."""
    source = synthetic_prompts(config, tokenizer)
    base = SharedBase(lm, config.model.path or "", config.model.gradient_checkpointing, quick=True)
    reward = RewardModel.create(base, config.reward, "reward")
    reward.trunk.freeze()
    reward.head.requires_grad_(False)
    return Setting(config, source, base, reward, RecordingSampler(tokenizer, config.rollout, lm.device))


def load_lm(config: Config, mean_length: float | None) -> Loaded:
    """The model of `model.path`, as a run loads it; or, where that is null, one with random weights.

    Its responses never end, or else after `mean_length` tokens on average, geometrically distributed.
    """
    model, device = config.model, resolve_device(config.device, config.device_memory)
    prepare_torch(model.threads)
    if model.path is not None:
        check(mean_length is None, "--mean-length", mean_length, "how long responses are is the model's matter")
        return load_backbone(expand(model.path), model.dtype, device, model.attention, model.quantization)
    torch.manual_seed(config.seed)
    tokenizer = word_tokenizer(model.vocab_size)
    return random_lm(model, tokenizer, device, mean_length), tokenizer


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A pad token (0), an EOS (1), and numbered words between spaces: as many tokens as words."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {f"w{number}": number for number in range(2, size)}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def random_lm(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, device: torch.device, mean_length: float | None
) -> LlamaForCausalLM:
    """A Llama as the config says, made on the device, for `word_tokenizer`; `set_stop` needs a head of its own."""
    check(not config.tied, "model.tied", config.tied, "whether a response ends is set in the head alone")
    check(config.quantization != "8bit", "model.quantization", config.quantization, "random weights take 4bit or null")
    allowed = "a geometric length has a mean above 1"
    check(mean_length is None or mean_length > 1, "--mean-length", mean_length, allowed)
    settings = quantized(config.quantization, config.dtype)
    lm = random_backbone(config, tokenizer, device)
    assert isinstance(lm, LlamaForCausalLM)
    set_stop(lm, mean_length)
    return lm if settings is None else in_four_bits(lm, settings)


def in_four_bits(lm: LlamaForCausalLM, settings: BitsAndBytesConfig) -> LlamaForCausalLM:
    """The same with the trunk's linear layers quantized, one after another, so that few are there twice.

    transformers does so only with weights that it reads from files.
    """
    from bitsandbytes.nn.modules import Linear4bit, Params4bit  # pyright: ignore[reportMissingImports]

    kind, twice = settings.bnb_4bit_quant_type, settings.bnb_4bit_use_double_quant
    linears = [(name, layer) for name, layer in lm.model.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in linears:
        small = Linear4bit(
            layer.in_features, layer.out_features, False, settings.bnb_4bit_compute_dtype, twice, kind, device="meta"
        )
        weight: Any = Params4bit(layer.weight.data, False, compress_statistics=twice, quant_type=kind)  # pyright: ignore[reportCallIssue]
        small.weight = weight.to(lm.device)
        lm.model.set_submodule(name, small)
    lm.is_loaded_in_4bit = True  # pyright: ignore[reportArgumentType] - peft asks
    return lm


@torch.no_grad()
def set_stop(lm: LlamaForCausalLM, mean_length: float | None) -> None:
    """Make EOS as likely as `mean_length` asks at every token, or impossible; pads are impossible anyhow.

    A Llama's head has no bias. So the states' first dimension is made constant: embeddings set it, no layer writes to
    it, and of the head only the rows of EOS and pad read it.
    """
    hidden_size = lm.config.hidden_size
    lm.model.embed_tokens.weight[:, 0] = 10 * math.sqrt(hidden_size)
    for layer in lm.model.layers:
        layer.self_attn.o_proj.weight[0] = 0  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue, reportArgumentType]
        layer.mlp.down_proj.weight[0] = 0  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue, reportArgumentType]
    head = lm.lm_head.weight
    head[:, 0] = 0
    head[[PAD, EOS]] = 0
    states = some_states(lm)
    constant = states[:, 0].mean()
    others = (states @ head[2:].float().T).logsumexp(-1).mean()
    head[PAD, 0] = (others - NEVER) / constant
    head[EOS, 0] = (others - (NEVER if mean_length is None else math.log(mean_length - 1))) / constant


def some_states(lm: LlamaForCausalLM) -> Float[Tensor, "tokens hidden"]:
    """The last states after some random words, in float32."""
    words = torch.randint(2, lm.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    return lm.model(input_ids=words.to(lm.device), use_cache=False).last_hidden_state.flatten(0, 1).float()
