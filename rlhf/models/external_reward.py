"""Rewards that were made elsewhere: they read text, whatever tokens the policy wrote it in, and are not trained here.

A classifier of another family, a model in AlpacaFarm's format, or a function of the user's.
"""

import hashlib
import inspect
import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from rlhf.config.models import RewardConfig
from rlhf.data.source import Prompt, Response
from rlhf.errors import CheckError, ConfigError
from rlhf.models.alpaca_farm import AlpacaFarmReward, backbone_shape
from rlhf.models.batch import pad_left, positions
from rlhf.models.hub import fingerprint, loading
from rlhf.models.precision import DTYPES
from rlhf.models.reward import Scaled
from rlhf.validate import check

log = logging.getLogger(__name__)

MODELS: dict[str, tuple[Any, str]] = {
    "classifier": (AutoModelForSequenceClassification, "AutoModelForSequenceClassification with a tokenizer"),
    "alpaca_farm": (AlpacaFarmReward, "reward model in AlpacaFarm's format, with a tokenizer,"),
}
"""The class of each kind of model, and what is looked for at `reward.path`."""

CHAT, PAIR, PLAIN = "by its chat template", "as a pair of prompt and response", "prompt and response end to end"
PROBE = ("Name a colour.", "Blue.")

Score = Callable[[Sequence[Prompt], Sequence[Response]], Float[Tensor, " texts"]]


class ExternalReward(Scaled):
    """Scores of text; `backbone` is the causal LM inside, of a model that is made of one."""

    def __init__(self, config: RewardConfig, raw: Score, backbone: PreTrainedModel | None = None) -> None:
        self.config, self.raw, self.backbone = config, raw, backbone

    @torch.no_grad()
    def scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Float[Tensor, " texts"]:
        return self.standardized(self.raw(prompts, responses))


def load_external(config: RewardConfig, dtype: str, device: torch.device) -> ExternalReward:
    """The reward that `reward.backbone` names; its weights in `dtype`."""
    if config.function is not None:
        return ExternalReward(config, load_function(config.function))
    return ExternalReward(config, *load_model(config, dtype, device))


def check_external(config: RewardConfig) -> None:
    """Raises ConfigError, before anything is loaded, where it is not there, can't be called, or gives no one number."""
    if config.function is not None:
        load_function(config.function)
    else:
        external_shape(config)


def external_fingerprint(config: RewardConfig) -> list[Any]:
    """What identifies it: its files, or the source of its function."""
    return function_fingerprint(config.function) if config.function is not None else fingerprint(str(config.path))


def external_weights(config: RewardConfig) -> int:
    """How many weights it has."""
    if config.path is None:
        return 0
    shape = external_shape(config)
    with init_empty_weights():
        model = MODELS[config.backbone][0]
        return (model(shape) if model is AlpacaFarmReward else model.from_config(shape)).num_parameters()


# ---- Models. --------------------------------------------------------------------------------------------------------


def external_shape(config: RewardConfig) -> PreTrainedConfig:
    """The model's config; raises ConfigError where there is none, or it has several outputs."""
    path = str(config.path)
    with loading("reward.path", path, MODELS[config.backbone][1]):
        if config.backbone == "alpaca_farm":
            return backbone_shape(path)
        shape = AutoConfig.from_pretrained(path, trust_remote_code=False)
    outputs = shape.num_labels
    check(outputs == 1, "reward.path", path, f"its classifier has {outputs} outputs, and a reward has 1")
    return shape


def load_model(config: RewardConfig, dtype: str, device: torch.device) -> tuple[Score, PreTrainedModel | None]:
    """The scores of the model at `reward.path`, which reads a text in its own tokens, and the causal LM inside."""
    (model, wanted), path = MODELS[config.backbone], str(config.path)
    shape = external_shape(config)
    with loading("reward.path", path, wanted):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        place = {"dtype": DTYPES[dtype], "device_map": {"": device}, "trust_remote_code": False}
        lm = model.from_pretrained(path, config=shape, **place).eval()
    limit = lm.config.get_text_config().max_position_embeddings
    if config.backbone == "alpaca_farm":
        how, scores = PLAIN, alpaca_farm_scores(lm, tokenizer, limit)
    else:
        limit = min(limit, tokenizer.model_max_length)
        how, scores = classifier_scores(lm, tokenizer, limit)
    log.info(f"reward: {path} reads the text in its own tokens, {how}, of longer texts the last {limit}")
    return scores, getattr(lm, "backbone_model", None)


def alpaca_farm_scores(lm: AlpacaFarmReward, tokenizer: Any, limit: int) -> Score:
    """AlpacaFarm's reward model, which reads the last token of prompt and response end to end, without EOS."""

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        texts = [prompt.text + response.text for prompt, response in zip(prompts, responses, strict=True)]
        encoded = [token_ids[-limit:] for token_ids in tokenizer(texts)["input_ids"]]
        input_ids, attention_mask = pad_left(encoded, tokenizer.pad_token_id or 0, lm.device)
        return lm(input_ids, attention_mask, positions(attention_mask)).float()

    return scores


def classifier_scores(lm: PreTrainedModel, tokenizer: Any, limit: int) -> tuple[str, Score]:
    """The one output of an AutoModelForSequenceClassification, and how it reads a conversation: as its tokenizer does.

    The pad token is EOS where there is no other; what is cut off is the text's beginning.
    """
    how = CHAT if tokenizer.chat_template is not None else PAIR if tokenizer.sep_token is not None else PLAIN
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lm.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"

    def written(prompt: Prompt, response: Response) -> tuple[str, ...]:
        if how == CHAT:
            turns = [{"role": "user", "content": prompt.instruction}, {"role": "assistant", "content": response.text}]
            return (tokenizer.apply_chat_template(turns, tokenize=False),)
        return (prompt.instruction, response.text) if how == PAIR else (prompt.text + response.text,)

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        texts = zip(*map(written, prompts, responses), strict=True)
        whole = tokenizer(*texts, add_special_tokens=how != CHAT, truncation=True, max_length=limit)
        return lm(**tokenizer.pad(whole, return_tensors="pt").to(lm.device)).logits[:, 0].float()

    return how, scores


# ---- Functions. -----------------------------------------------------------------------------------------------------


def load_function(settings: dict[str, Any]) -> Score:
    """`reward.function`: `_target_` is its dotted path, the rest keywords; it is called with (instruction, response).

    Raises ConfigError where it can't be imported, or gives no finite number when tried.
    """
    name, function = settings["_target_"], find_function(settings)
    refused = f"reward.function._target_={name} is not allowed"
    try:
        value = function(*PROBE)
    except Exception as error:
        raise ConfigError(f"{refused}: called with {PROBE} it fails ({error!r})") from error
    if not _is_number(value):
        raise ConfigError(f"{refused}: it must return a finite number, and for {PROBE} it returns {value!r}")

    def score(prompt: Prompt, response: Response) -> float:
        text = (prompt.instruction, response.text)
        value = function(*text)
        if not _is_number(value):
            raise CheckError(f"{name} must return a finite number, and for {text} it returned {value!r}")
        return float(value)

    return lambda prompts, responses: torch.tensor([score(*pair) for pair in zip(prompts, responses, strict=True)])


def function_fingerprint(settings: dict[str, Any]) -> list[Any]:
    """Its name and keywords, and the file it stands in."""
    try:
        file = inspect.getsourcefile(find_function(settings).func)
    except TypeError:  # it is not written in Python
        file = None
    source = Path(file).read_bytes() if file is not None else b""
    return [json.dumps(settings, sort_keys=True), hashlib.sha256(source).hexdigest()]


def find_function(settings: dict[str, Any]) -> partial[Any]:
    try:
        return instantiate(settings, _partial_=True, _recursive_=False)
    except InstantiationException as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"reward.function._target_={settings['_target_']} is not allowed: {why}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
