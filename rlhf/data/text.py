"""Tables of text as the data of a run: instructions, preferences, and prompts to evaluate on (docs/data.md).

No evaluation prompt is ever trained on by SFT or PPO, nor one that settings are chosen on, and the judge and the reward
model share no prompt. What is left out of the tables is logged with its count. Cutting texts to what a model has room
for is left to the stages.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import TypeVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.config.data import TextConfig
from rlhf.data.encoding import encode_response
from rlhf.data.formats import (
    DEMONSTRATIONS,
    PREFERENCES,
    PROMPTS,
    WITHOUT_ANSWERS,
    Preference,
    log_left_out,
    read_all,
)
from rlhf.data.source import Comparison, Demonstration, Draw, Prompt, Response, Source, Split
from rlhf.data.tables import Table, read_table
from rlhf.errors import DataError
from rlhf.validate import check

VERSION = 3  # bump when the same tables and settings come to give other data
PAD, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
TABLES = ("instructions", "prompts", "preferences", "validation", "evaluation")
LIMITED = ("instructions", "prompts", "preferences")
"""Tables that `data.limit` shortens; prompts that must not be trained on are all read."""

Item = TypeVar("Item")
Asks = TypeVar("Asks", Prompt, Demonstration, Preference)
logger = logging.getLogger(__name__)


class TextData(Source):
    """The Source of all kinds of text; reads and checks the tables when it is made (DataError)."""

    def __init__(self, config: TextConfig) -> None:
        tables = read_tables(config)
        self._config, self._digests = config, {key: table.digest for key, table in tables.items()}

        self._evaluation = self._prompts(tables["evaluation"], "evaluation", set())
        held_out = {identity(prompt) for prompt in self._evaluation}
        given_tune = self._prompts(tables.get("validation"), "validation", held_out)
        held_out |= {identity(prompt) for prompt in given_tune}
        given_train = self._prompts(tables.get("prompts"), "prompts", held_out)

        read = DEMONSTRATIONS if config.sft_fraction != 0 else WITHOUT_ANSWERS
        demonstrations = read_all(tables["instructions"], "instructions", read, config.template)
        usable = training_items(tables["instructions"], demonstrations, held_out)
        tune, self._sft, train = split_demonstrations(usable, config)
        self._tune = given_tune or [item.prompt for item in tune]
        self._train = given_train or [item.prompt for item in train]
        self._learnt = self._sft + train  # what a model from scratch may read

        self._judge, self._reward = self._preferences(tables.get("preferences"))
        self._rewarded = {identity(group[0]) for group in self._reward}

    def _preferences(self, table: Table | None) -> list[list[list[Preference]]]:
        """The judge's part and the reward model's, in groups of one prompt; none without a table."""
        if table is None:
            return [[], []]
        found = read_all(table, "preferences", PREFERENCES, self._config.template)
        return split_preferences(group_by_prompt(found), self._config)

    def _prompts(self, table: Table | None, key: str, held_out: set[str]) -> list[Prompt]:
        """The distinct prompts of a table, which may not be configured, without those held out."""
        if table is None:
            return []
        found = read_all(table, key, PROMPTS, self._config.template)
        usable = training_items(table, found, held_out)
        if not usable:
            raise DataError(f"data.{key}: {table.name} holds no usable prompt")
        return usable

    def fingerprint(self, comparisons: bool) -> str:
        """SHA-256 (hex) of the tables' rows and of all settings but where they lie; preferences with `comparisons`."""
        left_out = {"name", "root", *TABLES} | (set() if comparisons else {"judge_fraction"})
        settings = {name: value for name, value in asdict(self._config).items() if name not in left_out}
        tables = {key: digest for key, digest in self._digests.items() if comparisons or key != "preferences"}
        described = json.dumps({"version": VERSION, "settings": settings, "tables": tables}, sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()

    def build_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """Byte-level BPE learnt from the sft and train rows; ConfigError where `vocab_size` can't hold all bytes."""
        return train_tokenizer((item.prompt.text + item.text for item in self._learnt), vocab_size)

    def document(self, rng: Random, progress: float) -> str:
        """A random sft or train row between <bos> and <eos>, which the tokenizer of `build_tokenizer` knows."""
        return f"{BOS}{rng.choice(self._documents)}{EOS}"

    @cached_property
    def _documents(self) -> list[str]:
        return pretraining_texts(self._learnt)

    def demonstrations(self) -> list[Demonstration]:
        return list(self._sft)

    def prompts(self, split: Split, count: int, rng: Random) -> list[Prompt]:
        """`train`: random ones, none twice in one call as long as there are others. Else a sample in file order."""
        if split == "train":
            return draw(self._train, count, rng)
        available = self._evaluation if split == "eval" else self._tune
        if count > len(available):
            logger.warning("%d prompts of split %s are asked for, %d exist: using these", count, split, len(available))
        return [available[place] for place in sorted(rng.sample(range(len(available)), min(count, len(available))))]

    def all_prompts(self) -> list[Prompt]:
        return list(self._train)

    def comparisons(self, tokenizer: PreTrainedTokenizerBase, sample: Draw, judge: bool) -> list[Comparison]:
        """The pairs of the preference table, those of one prompt in one Comparison; `sample` is not called."""
        return [merge(group, tokenizer) for group in (self._judge if judge else self._reward)]

    def count_demonstrations(self) -> int:
        return len(self._sft)

    def count_compared(self, judge: bool) -> int:
        return len(self._judge if judge else self._reward)

    def given_prompts(self) -> Iterable[Prompt]:
        yield from (*self._evaluation, *self._tune, *self._train)
        yield from (item.prompt for item in self._learnt)
        yield from (item.prompt for groups in (self._judge, self._reward) for group in groups for item in group)

    def seen_by_reward(self, prompt: Prompt) -> bool:
        """Whether the reward model learns from responses to this prompt, so that a win rate should leave it out."""
        return identity(prompt) in self._rewarded

    def describe(self, prompt: Prompt, response: Response) -> dict[str, float]:
        return {"words": float(len(response.text.split())), "characters": float(len(response.text))}


def read_tables(config: TextConfig) -> dict[str, Table]:
    """The tables that the configuration names, by their keys."""
    root = None if config.root is None else Path(config.root).expanduser().resolve()
    if root is not None and not root.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    tables = {}
    for key in TABLES:
        location, limit = getattr(config, key), config.limit if key in LIMITED else None
        if location is not None:
            tables[key] = read_table(location, f"data.{key}", root, limit)
            if len(tables[key].rows) == limit:
                logger.info("data.%s: taken the first %d rows of %s", key, limit, tables[key].name)
    return tables


def identity(item: Prompt | Demonstration | Preference) -> str:
    """What makes two prompts the same: the words shown, whatever the spacing and wherever the input begins."""
    prompt = item if isinstance(item, Prompt) else item.prompt
    return " ".join(prompt.instruction.split())


def training_items(table: Table, items: list[Asks], held_out: set[str]) -> list[Asks]:
    """The first item of each prompt, in order, without the prompts held out."""
    distinct = [group[0] for group in group_by_prompt(items)]
    usable = [item for item in distinct if identity(item) not in held_out]
    log_left_out(table, len(items) - len(distinct), "repeat an earlier prompt")
    log_left_out(table, len(distinct) - len(usable), "are prompts of evaluation or validation")
    return usable


def group_by_prompt(items: Iterable[Asks]) -> list[list[Asks]]:
    """Items of the same prompt together, in order."""
    groups: dict[str, list[Asks]] = {}
    for item in items:
        groups.setdefault(identity(item), []).append(item)
    return list(groups.values())


def partition(items: Sequence[Item], sizes: Sequence[int], rng: Random) -> list[list[Item]]:
    """Random parts of the given sizes, then the rest as one more part; each keeps the order of `items`."""
    order = rng.sample(range(len(items)), len(items))
    bounds = [0, *accumulate(sizes), len(items)]
    return [[items[index] for index in sorted(order[start:end])] for start, end in pairwise(bounds)]


def draw(items: Sequence[Item], count: int, rng: Random) -> list[Item]:
    """`count` random items; none comes again before all others have come as often."""
    drawn: list[Item] = []
    while len(drawn) < count:
        drawn += rng.sample(items, min(len(items), count - len(drawn)))
    return drawn


def split_demonstrations(items: list[Demonstration], config: TextConfig) -> list[list[Demonstration]]:
    """The tune, sft and train parts. Tune is drawn first, so that it stays the same whatever the sft fraction.

    A part that has a table of its own is empty.
    """
    tune = round((config.tune_fraction or 0) * len(items))
    sft = len(items) - tune if config.sft_fraction is None else round(config.sft_fraction * len(items))
    parts = partition(items, [tune, sft], Random(f"instructions {config.seed}"))
    needed = (config.validation is None, config.sft_fraction != 0, config.prompts is None)
    if not all(part or not wanted for part, wanted in zip(parts, needed, strict=True)):
        raise DataError(
            f"data.instructions: {len(items)} usable prompts are too few for data.tune_fraction={config.tune_fraction} "
            f"and data.sft_fraction={config.sft_fraction}: the parts would get {[len(part) for part in parts]}"
        )
    return parts


def split_preferences(groups: list[list[Preference]], config: TextConfig) -> list[list[list[Preference]]]:
    """The judge's and the reward model's part; no prompt is in both."""
    size = round(config.judge_fraction * len(groups))
    parts = partition(groups, [size], Random(f"preferences {config.seed}"))
    if not all(parts):
        raise DataError(
            f"data.preferences: {len(groups)} prompts with a verdict are too few for data.judge_fraction="
            f"{config.judge_fraction}: judge and reward model would get {[len(part) for part in parts]}"
        )
    return parts


def pretraining_texts(items: list[Demonstration]) -> list[str]:
    """Prompt and output as one text; texts that spell out a special token are left out, since it would pass for one."""
    texts = [item.prompt.text + item.text for item in items]
    plain = [text for text in texts if not any(token in text for token in SPECIAL_TOKENS)]
    if not plain:
        raise DataError(f"data.instructions: every row holds one of {', '.join(SPECIAL_TOKENS)}: none to pretrain on")
    if len(plain) < len(texts):
        logger.info("left out of pretraining %d rows that hold a special token as text", len(texts) - len(plain))
    return plain


def merge(group: list[Preference], tokenizer: PreTrainedTokenizerBase) -> Comparison:
    """All verdicts on one prompt; each row's verdict counts, also where rows repeat or contradict one another."""
    texts = list(dict.fromkeys(text for preference in group for text in preference.outputs))
    responses = [Response(encode_response(tokenizer, text), text, finished=True) for text in texts]
    index = {text: place for place, text in enumerate(texts)}
    verdicts = [(index[item.outputs[item.better]], index[item.outputs[1 - item.better]]) for item in group]
    return Comparison(group[0].prompt, responses, verdicts)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text survives encoding and decoding unchanged; BOS is added by default."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(SPECIAL_TOKENS)
    check(vocab_size >= smallest, "model.vocab_size", vocab_size, f"all bytes and special tokens take {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = (BOS, SPECIAL_TOKENS.index(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
