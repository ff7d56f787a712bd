"""Rewards that were made elsewhere: they read text, whatever tokens the policy wrote it in, and are not trained here.

A classifier of another family, a model in AlpacaFarm's format, or a function of the user's.
"""

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
from rlhf.data.encoding import check_deterministic, encode_chat
from rlhf.data.source import Message, Prompt, Response, Source
from rlhf.errors import CheckError, ConfigError
from rlhf.models.alpaca_farm import AlpacaFarmReward, backbone_shape
from rlhf.models.backbone import expand, known_ids
from rlhf.models.batch import pad_left, positions
from rlhf.models.hub import fingerprint, load_whole, loading, without_report
from rlhf.models.layers import position_limit
from rlhf.models.precision import DTYPES
from rlhf.models.reward import Scaled
from rlhf.storage.files import checksum
from rlhf.validate import check

log = logging.getLogger(__name__)

MODELS: dict[str, tuple[Any, str]] = {
    "classifier": (AutoModelForSequenceClassification, "AutoModelForSequenceClassification with a tokenizer"),
    "alpaca_farm": (AlpacaFarmReward, "reward model in AlpacaFarm's format, with a tokenizer,"),
}
"""The class of each kind of model, and what is looked for at `reward.path`."""

CHAT, PAIR, PLAIN = "by its chat template", "as a pair of prompt and response", "prompt and response end to end"
LONGEST = 2**20
"""A tokenizer without a limit of its own names a number beyond any text's length."""
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
        load_given(config, "float32", torch.device("meta"))


def check_read(source: Source, config: RewardConfig) -> None:
    """Render each prompt, answered, by a classifier's chat template; raises DataError naming the first row refused."""
    _, tokenizer = load_given(config, "float32", torch.device("meta"))
    if config.backbone == "classifier" and reads_how(tokenizer) == CHAT:
        check_deterministic(tokenizer, "reward.path")
        for prompt in source.given_prompts():
            encode_chat(tokenizer, conversation(prompt, PROBE[1]), "reward.path", asks=False, place=prompt.place)


def external_fingerprint(config: RewardConfig) -> list[Any]:
    """What identifies it: its files, or the source of its function."""
    return (
        function_fingerprint(config.function) if config.function is not None else fingerprint(expand(str(config.path)))
    )


def external_weights(config: RewardConfig) -> int:
    """How many weights it has."""
    if config.path is None:
        return 0
    shape = external_shape(config)
    with init_empty_weights(include_buffers=True):
        model = MODELS[config.backbone][0]
        return (model(shape) if model is AlpacaFarmReward else model.from_config(shape)).num_parameters()


# ---- Models. --------------------------------------------------------------------------------------------------------


def external_shape(config: RewardConfig) -> PreTrainedConfig:
    """The model's config; raises ConfigError where there is none, or it has several outputs."""
    path = expand(str(config.path))
    with loading("reward.path", path, MODELS[config.backbone][1]):
        if config.backbone == "alpaca_farm":
            return backbone_shape(path)
        shape = AutoConfig.from_pretrained(path, trust_remote_code=False)
    outputs = shape.num_labels
    check(outputs == 1, "reward.path", path, f"its classifier has {outputs} outputs, and a reward has 1")
    return shape


def load_given(config: RewardConfig, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """The model at `reward.path` and its tokenizer; with the device "meta" its files are checked, no weight is read."""
    (kind, wanted), path = MODELS[config.backbone], expand(str(config.path))
    shape = external_shape(config)
    with loading("reward.path", path, wanted), without_report():  # of a model_type that only AlpacaFarm has
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    pads = [token for token in (tokenizer.pad_token, tokenizer.eos_token) if token is not None]
    check(len(pads) > 0, "reward.path", path, "its tokenizer has neither a pad nor an EOS token: give it one of them")
    tokenizer.pad_token = pads[0]
    lm = load_whole(kind, "reward.path", path, wanted, config=shape, dtype=DTYPES[dtype], device_map={"": device})
    rows, known = lm.get_input_embeddings().num_embeddings, known_ids(tokenizer)
    allowed = f"its tokenizer has ids up to {known - 1} and its embedding {rows} rows: save the model's own beside it"
    check(known <= rows, "reward.path", path, allowed)
    return lm, tokenizer


def load_model(config: RewardConfig, dtype: str, device: torch.device) -> tuple[Score, PreTrainedModel | None]:
    """The scores of the model at `reward.path`, which reads a text in its own tokens, and the causal LM inside."""
    lm, tokenizer = load_given(config, dtype, device)
    limit = position_limit(lm, lm.config)
    if config.backbone == "alpaca_farm":
        how, scores = PLAIN, alpaca_farm_scores(lm, tokenizer, limit)
    else:
        longest = min(int(tokenizer.model_max_length), LONGEST)
        limit = longest if limit is None else min(limit, longest)
        how, scores = classifier_scores(lm, tokenizer, limit)
    cut = "" if limit is None or limit == LONGEST else f", of longer texts the last {limit}"
    log.info(f"reward: {config.path} reads the text in its own tokens, {how}{cut}")
    return scores, getattr(lm, "backbone_model", None)


def alpaca_farm_scores(lm: AlpacaFarmReward, tokenizer: Any, limit: int | None) -> Score:
    """AlpacaFarm's reward model, which reads the last token of prompt and response end to end, without EOS."""

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        texts = [prompt.text + response.text for prompt, response in zip(prompts, responses, strict=True)]
        encoded = [token_ids[-(limit or 0) :] for token_ids in tokenizer(texts)["input_ids"]]
        input_ids, attention_mask = pad_left(encoded, tokenizer.pad_token_id, lm.device)
        return lm(input_ids, attention_mask, positions(attention_mask)).float()

    return scores


def reads_how(tokenizer: Any) -> str:
    """How a classifier with this tokenizer reads a prompt and a response."""
    return CHAT if tokenizer.chat_template is not None else PAIR if tokenizer.sep_token is not None else PLAIN


def conversation(prompt: Prompt, response: str) -> list[Message]:
    """The prompt's own turns, or its instruction as one, and the response as the assistant's.

    In a transcript (data.template=plain) white space parts a response from its speaker's name.
    """
    turns = prompt.turns or (Message("user", prompt.instruction),)
    return [*turns, Message("assistant", response if prompt.messages or not prompt.turns else response.strip())]


def classifier_scores(lm: PreTrainedModel, tokenizer: Any, limit: int) -> tuple[str, Score]:
    """The one output of an AutoModelForSequenceClassification, and how it reads a conversation: as its tokenizer does.

    What is cut off is the text's beginning.
    """
    how = reads_how(tokenizer)
    lm.config.get_text_config().pad_token_id = lm.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"

    def encoded(prompt: Prompt, response: Response) -> dict[str, Any]:
        if how == CHAT:
            turns = conversation(prompt, response.text)
            return {"input_ids": encode_chat(tokenizer, turns, "reward.path", asks=False)[-limit:]}
        texts = (prompt.instruction, response.text) if how == PAIR else (prompt.text + response.text,)
        return dict(tokenizer(*texts, truncation=True, max_length=limit))

    def scores(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        rows = list(map(encoded, prompts, responses))
        return lm(**tokenizer.pad(rows, return_tensors="pt").to(lm.device)).logits[:, 0].float()

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
    """Its name and keywords, and the contents of the file it stands in and of those that its keywords name."""
    try:
        file = inspect.getsourcefile(find_function(settings).func)
    except TypeError:  # it is not written in Python
        file = None
    named = [expand(value) for value in settings.values() if isinstance(value, str) and is_file(value)]
    files = [*([file] if file is not None else []), *named]
    return [json.dumps(settings, sort_keys=True), *(checksum(Path(path)) for path in files)]


def is_file(text: str) -> bool:
    """Whether that is the path of a file; it may be any text."""
    try:
        return Path(expand(text)).is_file()
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or ~ with nobody's name
        return False


def find_function(settings: dict[str, Any]) -> partial[Any]:
    try:
        return instantiate(settings, _partial_=True, _recursive_=False)
    except InstantiationException as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"reward.function._target_={settings['_target_']} is not allowed: {why}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
