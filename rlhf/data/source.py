"""What a run asks of its data, whether the embedded world answers or files of text.

Stages know this protocol alone; load.py has the sources by the kind of `data`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

Split = Literal["train", "tune", "eval"]


class Message(NamedTuple):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """One request.

    `instruction` is what a person asks, `text` what the model reads: the instruction in its template, ready to be
    continued. Where there are `messages`, it reads these instead, in its tokenizer's chat template. `dataset` names the
    subset it comes from; `detail` holds what only its source understands. `turns` are what was said in a conversation,
    whatever its template, for models that have a template of their own. `place` is the file and row that it stands in.
    """

    instruction: str
    text: str
    dataset: str
    detail: Any = None
    messages: tuple[Message, ...] = ()
    turns: tuple[Message, ...] = field(default=(), compare=False)
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Response:
    """What a model answered: its token ids (with EOS where `finished`), and the same as text without EOS."""

    token_ids: list[int]
    text: str
    finished: bool


@dataclass(frozen=True)
class Demonstration:
    """A prompt with the answer that supervised fine-tuning imitates."""

    prompt: Prompt
    text: str


@dataclass(frozen=True)
class Comparison:
    """Several responses to one prompt with an annotator's verdicts: pairs (index of the better, index of the worse)."""

    prompt: Prompt
    responses: list[Response]
    verdicts: list[tuple[int, int]]


FactSpan = tuple[int, int, bool]
"""The characters that state a fact, from the first to before the second number, and whether it is right."""

Draw = Callable[[Sequence[Prompt], float], list[Response]]
"""Draws one response to each prompt from the SFT model at a temperature."""


@runtime_checkable
class Source(Protocol):
    """The data of a run. Sources inherit what only an oracle can answer: null."""

    def fingerprint(self, comparisons: bool) -> str:
        """SHA-256 (hex) of all that the data is made of, for the key of a cached stage.

        Without `comparisons`, of what a stage reads that learns from no comparison.
        """
        ...

    def build_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """The tokenizer of a model that is trained from scratch on this data, with at most `vocab_size` entries."""
        ...

    def document(self, rng: Random, progress: float) -> str:
        """One document to pretrain on; `progress` runs from 0 to 1 over pretraining, for sources with a curriculum."""
        ...

    def demonstrations(self) -> list[Demonstration]:
        """What supervised fine-tuning imitates."""
        ...

    def prompts(self, split: Split, count: int, rng: Random) -> list[Prompt]:
        """`count` prompts of a split. Training never sees `eval`; settings are chosen on `tune`."""
        ...

    def all_prompts(self) -> list[Prompt]:
        """The distinct training prompts, in a fixed order."""
        ...

    def comparisons(self, tokenizer: PreTrainedTokenizerBase, sample: Draw, judge: bool) -> list[Comparison]:
        """What a reward model learns from, in a fixed order, one prompt only once.

        `sample` is for sources that have the SFT model's own responses annotated. With `judge`, the comparisons set
        aside for a second reward model, the judge; it shares no prompt with the first.
        """
        ...

    def count_demonstrations(self) -> int:
        """How many there are, known before any is made."""
        ...

    def count_compared(self, judge: bool) -> int:
        """How many prompts `comparisons` has at most, known before any response is drawn."""
        ...

    def given_prompts(self) -> Iterable[Prompt]:
        """All prompts that a person has written, each with its `place`, for checks before any work."""
        return ()

    def seen_by_reward(self, prompt: Prompt) -> bool:
        """Whether the reward model's comparisons hold this prompt; evaluation leaves it out of the win rate then."""
        ...

    def utility(self, prompt: Prompt, response: Response) -> float | None:
        """What the response is truly worth, where the source is an oracle; else null."""
        return None

    def annotator_utility(self, prompt: Prompt, response: Response) -> float | None:
        """What the annotator makes of the response on average, where that is known; else null."""
        return None

    def facts(self, prompt: Prompt, response: Response) -> tuple[int, int] | None:
        """How many facts the response gets right and wrong, where the source knows; else null."""
        return None

    def fact_spans(self, prompt: Prompt, response: Response) -> list[FactSpan] | None:
        """Where the text states facts, in its order, repeated ones too, where the source knows; else null."""
        return None

    def describe(self, prompt: Prompt, response: Response) -> dict[str, float]:
        """What the source can count in a response beyond what every run logs; the same keys for each response."""
        ...
