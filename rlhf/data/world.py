"""The embedded world: fictional people, documents about them, requests, demonstrations and an annotator's comparisons.

A Source that also knows what only a made-up world can: the exact utility of a response, and the facts it gets right and
wrong (docs/world.md). Leaves out the language (grammar.py), judgements (annotator.py) and who writes what (author.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from itertools import combinations
from random import Random

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.config.data import WorldConfig
from rlhf.data.annotator import ANNOTATORS, Reading, expected_utility, oracle_utility, prefers_first, read
from rlhf.data.author import demonstrate, write_document
from rlhf.data.grammar import (
    ATTRIBUTES,
    PRONOUNS,
    Kind,
    Person,
    Values,
    instructions,
    invent_values,
    invent_word,
    parse,
    prompt_text,
    sentence_spans,
    sentence_table,
    template_words,
)
from rlhf.data.source import Comparison, Demonstration, Draw, FactSpan, Prompt, Response, Source, Split
from rlhf.validate import check

VERSION = 3  # raise it whenever the same configuration gives other data than before

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<unk>")
MOST_READ = 2**14  # responses whose reading is remembered: an evaluation asks for each several times
MOST_PEOPLE = 10_000  # keeps invented names easy to come by

KINDS: Mapping[Kind, float] = {"biography": 0.5, "list": 0.25, "question": 0.25}

POPULARITY_OFFSET = 20  # the person of rank r (from 0) is written about in proportion to 1 / (r + offset)
FIRST_PEOPLE = 16
GROWTH_START, GROWTH_LENGTH = 0.1, 0.45  # in units of progress: everyone is there at 0.55

EPOCH_PROMPTS = 2000

COMPARISON_SETTINGS = ("comparison_prompts", "annotator", "annotator_temperature", "annotator_flips")
SAMPLE_TEMPERATURES = (0.7, 1.0, 1.0, 1.3)


class World(Source):
    """The data of a run on the embedded world; all of it follows from the configuration, in every process."""

    def __init__(self, config: WorldConfig) -> None:
        """Raises ConfigError where the configuration asks for more people or distinct prompts than there can be."""
        check(config.people <= MOST_PEOPLE, "data.people", config.people, f"must be at most {MOST_PEOPLE}")
        self.config = config
        self.values = invent_values(self._stream("values"))
        self.people = invent_people(config.people, config.undocumented, self.values, self._stream("people"))
        self.splits = self._split_people()
        self._tables = {pronoun: sentence_table(self.values, pronoun) for pronoun in PRONOUNS}
        self._parse = lru_cache(maxsize=MOST_READ)(
            lambda person, text: parse(text, person.name, self._tables[person.pronoun])
        )
        self._read = lru_cache(maxsize=MOST_READ)(
            lambda request, text, finished: read(
                request, self._parse(request.person, text), len(text.split()), finished
            )
        )
        self._comparison_prompts = self._draw_comparison_prompts()
        self._compared_texts = {prompt.text for prompt in self._comparison_prompts}

    def fingerprint(self, comparisons: bool) -> str:
        left_out = () if comparisons else COMPARISON_SETTINGS
        settings = {name: value for name, value in asdict(self.config).items() if name not in left_out}
        identity = json.dumps({"version": VERSION, **settings}, sort_keys=True)
        return sha256(identity.encode()).hexdigest()

    def build_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """A tokenizer of whole words, special tokens first; raises ConfigError if `vocab_size` is too small."""
        values = {value for options in self.values.values() for value in options}
        words = template_words() | values | {person.name for person in self.people}
        entries = [*SPECIAL_TOKENS, *sorted(words)]
        check(len(entries) <= vocab_size, "model.vocab_size", vocab_size, f"this world needs at least {len(entries)}")
        return word_tokenizer(entries)

    def document(self, rng: Random, progress: float) -> str:
        """A document from BOS to EOS about someone popular, among the first few people only while `progress` is low."""
        known = self.people[: known_people(len(self.people), progress)]
        popularity = [1 / (rank + POPULARITY_OFFSET) for rank in range(len(known))]
        return write_document(rng.choices(known, popularity)[0], rng)

    def demonstrations(self) -> list[Demonstration]:
        rng = self._stream("demonstrations")
        prompts = (draw_prompt(self.people, rng) for _ in range(self.config.demonstrations))
        return [Demonstration(prompt, demonstrate(prompt.detail, self.values, rng)) for prompt in prompts]

    def prompts(self, split: Split, count: int, rng: Random) -> list[Prompt]:
        return [draw_prompt(self.splits[split], rng) for _ in range(count)]

    def all_prompts(self) -> list[Prompt]:
        """The distinct ones of EPOCH_PROMPTS draws: kinds are as frequent as otherwise."""
        drawn = self.prompts("train", EPOCH_PROMPTS, self._stream("epoch"))
        return list({prompt.text: prompt for prompt in drawn}.values())

    def comparisons(self, tokenizer: PreTrainedTokenizerBase, sample: Draw, judge: bool) -> list[Comparison]:
        """Four samples to each prompt about train people, all pairs judged; prompts without any verdict are left out.

        Raises ConfigError with `judge`: this world's judge is the oracle.
        """
        check(not judge, "judge.name", "reward_model", "the embedded world has an exact oracle, choose judge=oracle")
        samples = [sample(self._comparison_prompts, temperature) for temperature in SAMPLE_TEMPERATURES]
        rng = self._stream("annotator")
        compared = [
            self._compare(prompt, list(responses), rng)
            for prompt, *responses in zip(self._comparison_prompts, *samples, strict=True)
        ]
        return [comparison for comparison in compared if comparison.verdicts]

    def count_demonstrations(self) -> int:
        return self.config.demonstrations

    def count_compared(self, judge: bool) -> int:
        return len(self._comparison_prompts)

    def seen_by_reward(self, prompt: Prompt) -> bool:
        """False for all evaluation prompts: the reward model learns from train people alone."""
        return prompt.text in self._compared_texts

    def describe(self, prompt: Prompt, response: Response) -> dict[str, float]:
        """Counts; `count_error` is 0 unless a list was asked for, and both answers are 0 unless a question was."""
        reading = self.read(prompt, response)
        return {
            "correct_facts": float(reading.correct),
            "wrong_facts": float(reading.wrong),
            "repeated_facts": float(reading.repeated),
            "fillers": float(reading.fillers),
            "dont_know": float(reading.dont_know),
            "unparseable": float(reading.unparseable),
            "sentences": float(reading.sentences),
            "count_error": float(reading.count_error),
            "right_answer": float(reading.answer is True),
            "wrong_answer": float(reading.answer is False),
        }

    def utility(self, prompt: Prompt, response: Response) -> float:
        return oracle_utility(self.read(prompt, response))

    def annotator_utility(self, prompt: Prompt, response: Response) -> float:
        return expected_utility(self.read(prompt, response), ANNOTATORS[self.config.annotator])

    def facts(self, prompt: Prompt, response: Response) -> tuple[int, int]:
        """How many distinct facts about the person asked for are right and wrong."""
        reading = self.read(prompt, response)
        return reading.correct, reading.wrong

    def fact_spans(self, prompt: Prompt, response: Response) -> list[FactSpan]:
        facts = prompt.detail.person.facts
        sentences = zip(sentence_spans(response.text), self._parse(prompt.detail.person, response.text), strict=True)
        return [
            (*span, facts[sentence.attribute] == sentence.value)
            for span, sentence in sentences
            if sentence.attribute is not None
        ]

    def read(self, prompt: Prompt, response: Response) -> Reading:
        """All that can be counted in a response, whatever its text is."""
        return self._read(prompt.detail, response.text, response.finished)

    def _stream(self, purpose: str) -> Random:
        return Random(f"{self.config.seed}/{purpose}")

    def _split_people(self) -> dict[Split, list[Person]]:
        shuffled = self.people.copy()
        self._stream("splits").shuffle(shuffled)
        tune = self.config.eval_people
        train = tune + self.config.tune_people
        return {"eval": shuffled[:tune], "tune": shuffled[tune:train], "train": shuffled[train:]}

    def _draw_comparison_prompts(self) -> list[Prompt]:
        rng = self._stream("comparison_prompts")
        remaining = {
            kind: [prompt for person in self.splits["train"] for prompt in possible_prompts(person, kind)]
            for kind in KINDS
        }
        for prompts in remaining.values():
            rng.shuffle(prompts)
        drawn: list[Prompt] = []
        for kind in rng.choices(list(KINDS), list(KINDS.values()), k=self.config.comparison_prompts):
            distinct = f"train people have too few distinct {kind} prompts; {len(drawn)} would do"
            check(len(remaining[kind]) > 0, "data.comparison_prompts", self.config.comparison_prompts, distinct)
            drawn.append(remaining[kind].pop())
        return drawn

    def _compare(self, prompt: Prompt, responses: list[Response], rng: Random) -> Comparison:
        readings = [self.read(prompt, response) for response in responses]
        annotator = ANNOTATORS[self.config.annotator]
        temperature, flips = self.config.annotator_temperature, self.config.annotator_flips
        verdicts = []
        for first, second in combinations(range(len(responses)), 2):
            if responses[first].token_ids == responses[second].token_ids:
                continue
            won = prefers_first(readings[first], readings[second], annotator, temperature, flips, rng)
            verdicts.append((first, second) if won else (second, first))
        return Comparison(prompt, responses, verdicts)


def invent_people(count: int, undocumented: float, values: Values, rng: Random) -> list[Person]:
    """People in order of popularity, with names that no value bears; fewer people are the first of more.

    An attribute goes undocumented with probability `undocumented`, less the more often it is mentioned.
    """
    taken = {value for options in values.values() for value in options}
    people = []
    for _ in range(count):
        name = invent_word(rng, taken)
        facts = {attribute.name: rng.choice(values[attribute.name]) for attribute in ATTRIBUTES}
        pronoun = rng.choice(list(PRONOUNS))
        chances = {attribute.name: undocumented * (1 - attribute.mention) for attribute in ATTRIBUTES}
        documented = frozenset(name for name, chance in chances.items() if rng.random() >= chance)
        people.append(Person(name, pronoun, facts, documented or frozenset([ATTRIBUTES[0].name])))
    return people


def known_people(people: int, progress: float) -> int:
    """How many people pretraining documents are about at this `progress`, from 0 to 1."""
    grown = min(1.0, max(0.0, (progress - GROWTH_START) / GROWTH_LENGTH))
    return min(people, FIRST_PEOPLE + int(grown * (people - FIRST_PEOPLE)))


def draw_prompt(people: Sequence[Person], rng: Random) -> Prompt:
    """A prompt about any of `people` alike, its kind drawn by KINDS."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    return rng.choice(possible_prompts(rng.choice(people), kind))


@lru_cache(maxsize=4096)  # they are drawn from many thousand times
def possible_prompts(person: Person, kind: Kind) -> tuple[Prompt, ...]:
    """Every prompt of a kind about a person."""
    return tuple(
        Prompt(instruction, prompt_text(instruction), kind, request)
        for instruction, request in instructions(person, kind)
    )


def word_tokenizer(entries: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of words between spaces, numbered as in `entries`, that adds and cleans up nothing."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(entries)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
