"""Rewards that were made elsewhere: they read text, whatever tokens the policy wrote it in, and are not trained here.

A classifier of another family, a model in AlpacaFarm's format, or a function.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.config.models import RewardConfig
from rlhf.data.source import Prompt, Response
from rlhf.models.alpaca_farm import AlpacaFarmReward, backbone_shape
from rlhf.models.batch import pad_left, positions
from rlhf.models.dtypes import DTYPES
from rlhf.models.function_reward import function_fingerprint, load_function
from rlhf.models.hub import fingerprint, loading
from rlhf.models.scale import Scaled
from rlhf.validate import check

log = logging.getLogger(__name__)

CLASSIFIER = "AutoModelForSequenceClassification with a tokenizer"
ALPACA_FARM = "reward model in AlpacaFarm's format, with a tokenizer,"

Score = Callable[[Sequence[Prompt], Sequence[Response]], Float[Tensor, " texts"]]


class ExternalReward(Scaled):
    """Scores of text."""

    def __init__(self, config: RewardConfig, raw: Score) -> None:
        self.config, self.raw = config, raw

    @torch.no_grad()
    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Float[Tensor, " texts"]:
        return self.standardized(self.raw(prompts, responses))


def load_given(config: RewardConfig, dtype: str, device: torch.device) -> ExternalReward:
    """The reward that `reward.backbone` names; its weights in `dtype`."""
    if config.function is not None:
        return ExternalReward(config, load_function(config.function))
    assert config.path is not None
    load = load_classifier if config.backbone == "classifier" else load_alpaca_farm
    return ExternalReward(config, load(config.path, dtype, device))


def check_given(config: RewardConfig) -> None:
    """Raises ConfigError, before anything is loaded, where it is not there, can't be called, or gives no one number."""
    if config.function is not None:
        load_function(config.function)
        return
    assert config.path is not None
    if config.backbone == "alpaca_farm":
        with loading("reward.path", config.path, ALPACA_FARM):
            backbone_shape(config.path)
        return
    with loading("reward.path", config.path, CLASSIFIER):
        outputs = AutoConfig.from_pretrained(config.path, trust_remote_code=False).num_labels
    check(outputs == 1, "reward.path", config.path, f"its classifier has {outputs} outputs, and a reward has 1")


def given_fingerprint(config: RewardConfig) -> list[Any]:
    """What identifies it: its files, or the source of its function."""
    return function_fingerprint(config.function) if config.function is not None else fingerprint(str(config.path))


def given_weights(config: RewardConfig) -> int:
    """How many weights it has."""
    if config.path is None:
        return 0
    with loading("reward.path", config.path, CLASSIFIER), init_empty_weights():
        if config.backbone == "alpaca_farm":
            return AlpacaFarmReward(backbone_shape(config.path)).num_parameters()
        shape = AutoConfig.from_pretrained(config.path, trust_remote_code=False)
        return AutoModelForSequenceClassification.from_config(shape).num_parameters()


def load_classifier(path: str, dtype: str, device: torch.device) -> Score:
    """The one output of an AutoModelForSequenceClassification, reading a conversation as its tokenizer writes one."""
    with loading("reward.path", path, CLASSIFIER):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        lm = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=DTYPES[dtype], device_map={"": device}, trust_remote_code=False
        ).eval()
    prepare_padding(lm, tokenizer)
    write, how = chosen_writer(tokenizer)
    limit = min(lm.config.get_text_config().max_position_embeddings, tokenizer.model_max_length)
    log.info(f"reward: {path} reads the text in its own tokens, {how}, of longer texts the last {limit}")

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        written = [write(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        whole = tokenizer(
            *zip(*written, strict=True), add_special_tokens=how != CHAT, truncation=True, max_length=limit
        )
        given = tokenizer.pad(whole, return_tensors="pt").to(device)
        return lm(**given).logits[:, 0].float()

    return scores


CHAT, PAIR, PLAIN = "by its chat template", "as a pair of prompt and response", "prompt and response end to end"


def chosen_writer(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Callable[[Prompt, Response], tuple[str, ...]], str]:
    """How a prompt and its response become what the tokenizer takes, and that in words."""
    if tokenizer.chat_template is not None:
        return lambda prompt, response: (_conversation(tokenizer, prompt, response),), CHAT
    if tokenizer.sep_token is not None:  # of an encoder
        return lambda prompt, response: (prompt.instruction, response.text), PAIR
    return lambda prompt, response: (prompt.text + response.text,), PLAIN


def _conversation(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, response: Response) -> str:
    turns = [{"role": "user", "content": prompt.instruction}, {"role": "assistant", "content": response.text}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert isinstance(text, str)
    return text


def prepare_padding(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A pad token, if need be EOS, that model and tokenizer agree on; what is cut off is the text's beginning."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    lm.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"


def load_alpaca_farm(path: str, dtype: str, device: torch.device) -> Score:
    """AlpacaFarm's reward model, which reads the last token of prompt and response end to end, without EOS."""
    with loading("reward.path", path, ALPACA_FARM):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        lm = AlpacaFarmReward.from_pretrained(
            path, config=backbone_shape(path), dtype=DTYPES[dtype], device_map={"": device}
        ).eval()
    limit = lm.config.get_text_config().max_position_embeddings
    log.info(f"reward: {path} reads the text in its own tokens, {PLAIN}, of longer texts the last {limit}")

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        texts = [prompt.text + response.text for prompt, response in zip(prompts, responses, strict=True)]
        encoded = [token_ids[-limit:] for token_ids in tokenizer(texts)["input_ids"]]
        input_ids, attention_mask = pad_left(encoded, tokenizer.pad_token_id or 0, device)
        return lm(input_ids, attention_mask, positions(attention_mask)).float()

    return scores
