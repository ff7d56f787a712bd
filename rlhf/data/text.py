"""Text files as the data of a run, in AlpacaFarm's columns: instructions, preferences, and prompts to evaluate on.

No evaluation prompt is ever trained on by SFT or PPO, and the judge and the reward model share no prompt. What is left
out of the files is logged with its count. Cutting texts to what a model has room for is left to the stages.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import TypeVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.config.data import TextConfig
from rlhf.data.files import Row, read_rows
from rlhf.data.source import Comparison, Demonstration, Draw, FactSpan, Prompt, Response, Split
from rlhf.data.templates import alpaca_prompt, shown_instruction
from rlhf.errors import DataError
from rlhf.validate import check

VERSION = 1  # bump when the same files and settings come to give other data
PAD, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
FILE_KEYS = ("instructions", "preferences", "evaluation")
TIES = (0, 1.5)

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preference:
    """One row of the preference file; `better` is the index in `outputs` of the one that the annotator chose."""

    prompt: Prompt
    outputs: tuple[str, str]
    better: int


class TextData:
    """The Source of `data=alpaca_farm`; the files are read and checked when it is made (DataError)."""

    def __init__(self, config: TextConfig) -> None:
        root = Path(config.root).expanduser().resolve()
        if not root.is_dir():
            raise DataError(f"data.root: there is no folder {root}")
        paths = {key: root / getattr(config, key) for key in FILE_KEYS}
        rows = {key: read_rows(path, f"data.{key}") for key, path in paths.items()}
        self._config, self._paths = config, paths

        self._evaluation = read_evaluation(rows["evaluation"])
        evaluation = {identity(prompt) for prompt in self._evaluation}
        usable = read_demonstrations(rows["instructions"], evaluation)
        self._tune, self._sft, self._train = split_demonstrations(usable, config)
        self._documents = pretraining_texts(self._sft + self._train)

        self._judge, self._reward = split_preferences(read_preferences(rows["preferences"]), config)
        self._rewarded = {identity(group[0].prompt) for group in self._reward}

    def fingerprint(self, comparisons: bool) -> str:
        """SHA-256 (hex) of the files and of all settings but `data.root`; preferences only with `comparisons`."""
        left_out = {"root"} if comparisons else {"root", "preferences", "judge_fraction"}
        return fingerprint(self._config, self._paths, left_out)

    def build_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """Byte-level BPE learnt from the sft and train rows; ConfigError where `vocab_size` can't hold all bytes."""
        return train_tokenizer((item.prompt.text + item.text for item in self._sft + self._train), vocab_size)

    def document(self, rng: Random, progress: float) -> str:
        """A random sft or train row between <bos> and <eos>, which the tokenizer of `build_tokenizer` knows."""
        return f"{BOS}{rng.choice(self._documents)}{EOS}"

    def demonstrations(self) -> list[Demonstration]:
        return list(self._sft)

    def prompts(self, split: Split, count: int, rng: Random) -> list[Prompt]:
        """`train`: random ones, none twice in one call as long as there are others. Else a sample in file order."""
        if split == "train":
            return [item.prompt for item in draw(self._train, count, rng)]
        available = self._evaluation if split == "eval" else [item.prompt for item in self._tune]
        if count > len(available):
            logger.warning("%d prompts of split %s are asked for, %d exist: using these", count, split, len(available))
        return [available[place] for place in sorted(rng.sample(range(len(available)), min(count, len(available))))]

    def comparisons(self, tokenizer: PreTrainedTokenizerBase, sample: Draw, judge: bool) -> list[Comparison]:
        """The pairs of the preference file, those of one prompt in one Comparison; `sample` is not called."""
        return [merge(group, tokenizer) for group in (self._judge if judge else self._reward)]

    def seen_by_reward(self, prompt: Prompt) -> bool:
        """Whether the reward model learns from responses to this prompt, so that a win rate should leave it out."""
        return identity(prompt) in self._rewarded

    def utility(self, prompt: Prompt, response: Response) -> float | None:
        return None

    def facts(self, prompt: Prompt, response: Response) -> tuple[int, int] | None:
        return None

    def fact_spans(self, prompt: Prompt, response: Response) -> list[FactSpan] | None:
        return None

    def describe(self, prompt: Prompt, response: Response) -> dict[str, float]:
        return {"words": float(len(response.text.split())), "characters": float(len(response.text))}


def fingerprint(config: TextConfig, paths: Mapping[str, Path], left_out: Collection[str]) -> str:
    """Settings and files without those `left_out`; the same files in another place are the same data."""
    settings = {name: value for name, value in asdict(config).items() if name not in left_out}
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for key, path in paths.items() if key not in left_out]
    described = json.dumps({"version": VERSION, "settings": settings, "files": files}, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def identity(prompt: Prompt) -> str:
    """What makes two prompts the same: the words shown, whatever the spacing and wherever the input begins."""
    return " ".join(prompt.instruction.split())


def read_prompt(row: Row) -> Prompt:
    instruction, context = row.filled_text("instruction"), row.optional_text("input")
    text = alpaca_prompt(instruction, context)
    return Prompt(shown_instruction(instruction, context), text, row.optional_text("dataset"))


def read_evaluation(rows: list[Row]) -> list[Prompt]:
    prompts = first_of_each([read_prompt(row) for row in rows], identity)
    log_left_out(rows[0].path, len(rows) - len(prompts), "repeat an earlier prompt")
    return prompts


def read_demonstrations(rows: list[Row], evaluation: set[str]) -> list[Demonstration]:
    """The distinct rows of the instruction file, in its order, without the prompts of `evaluation`."""
    everything = [Demonstration(read_prompt(row), row.filled_text("output")) for row in rows]
    distinct = first_of_each(everything, lambda item: identity(item.prompt))
    usable = [item for item in distinct if identity(item.prompt) not in evaluation]
    log_left_out(rows[0].path, len(everything) - len(distinct), "repeat an earlier prompt")
    log_left_out(rows[0].path, len(distinct) - len(usable), "are evaluation prompts")
    return usable


def read_preferences(rows: list[Row]) -> list[list[Preference]]:
    """The rows with a verdict, grouped by prompt in the order of the file."""
    preferences = [preference for row in rows if (preference := read_preference(row)) is not None]
    telling = [preference for preference in preferences if preference.outputs[0] != preference.outputs[1]]
    log_left_out(rows[0].path, len(rows) - len(preferences), "are ties")
    log_left_out(rows[0].path, len(preferences) - len(telling), "prefer one of two identical outputs")
    groups: dict[str, list[Preference]] = {}
    for preference in telling:
        groups.setdefault(identity(preference.prompt), []).append(preference)
    return list(groups.values())


def read_preference(row: Row) -> Preference | None:
    """The row's verdict, or None where it is a tie."""
    prompt, outputs = read_prompt(row), (row.text("output_1"), row.text("output_2"))
    number = row.values.get("preference")
    # JSON's true would pass for 1.
    if isinstance(number, bool) or number not in (1, 2, *TIES):
        raise row.error("preference", "1 or 2, the number of the better output, or 0 or 1.5 for a tie")
    return None if number in TIES else Preference(prompt, outputs, int(number) - 1)


def split_demonstrations(items: list[Demonstration], config: TextConfig) -> list[list[Demonstration]]:
    """The tune, sft and train parts. Tune is drawn first, so that it stays the same whatever the sft fraction."""
    sizes = [round(config.tune_fraction * len(items)), round(config.sft_fraction * len(items))]
    parts = partition(items, sizes, Random(f"instructions {config.seed}"))
    if not all(parts):
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


def log_left_out(path: Path, count: int, reason: str) -> None:
    if count:
        logger.info("%s: left out %d rows that %s", path, count, reason)


def first_of_each(items: Iterable[Item], key: Callable[[Item], str]) -> list[Item]:
    """Of the items with the same key, the first; in order."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())


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


def merge(group: list[Preference], tokenizer: PreTrainedTokenizerBase) -> Comparison:
    """All verdicts on one prompt; each row's verdict counts, also where rows repeat or contradict one another."""
    texts = list(dict.fromkeys(text for preference in group for text in preference.outputs))
    # A special token spelt out in a text stays text; only the end of sequence added here is one.
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    eos_id = tokenizer.eos_token_id
    assert isinstance(eos_id, int)
    responses = [Response([*ids, eos_id], text, finished=True) for ids, text in zip(encoded, texts, strict=True)]
    index = {text: place for place, text in enumerate(texts)}
    verdicts = [(index[item.outputs[item.better]], index[item.outputs[1 - item.better]]) for item in group]
    return Comparison(group[0].prompt, responses, verdicts)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text survives encoding and decoding unchanged; a text gets its BOS unless told otherwise."""
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
