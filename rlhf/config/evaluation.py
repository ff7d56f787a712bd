"""Settings of what is measured, by whom, and of what must hold before PPO."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from rlhf.config.endpoint import EndpointConfig
from rlhf.validate import check, check_choice, check_fraction, check_not_negative, check_positive


@dataclass
class EvaluationConfig:
    split: str = "eval"  # eval, or tune: choose settings on tune, report results on eval
    prompts: int = 512  # evaluated; their number sets the standard error
    # sampled responses of the SFT model to each prompt; greedy ones are compared with its greedy one
    references: int = 4
    temperature: float = 1.0  # of both sides' sampling, beside which both are greedy; 0: greedy alone
    # at which the SFT model is set against itself: what sharpening alone wins
    control_temperatures: list[float] = field(default_factory=lambda: [0.7, 0.5])
    max_prompt_tokens: int | None = None  # longer prompts are cut on the left; null: as rollout.max_prompt_tokens
    max_response_tokens: int | None = None  # null: as rollout.max_response_tokens
    best_of: int = 1  # responses drawn to each prompt, of which the reward model's favourite is evaluated
    every: int = 5  # PPO steps between evaluations; 0: only before and after
    interim_prompts: int | None = 256  # evaluated before the last step, the first of all; null: all

    def __post_init__(self) -> None:
        check_choice("evaluation.split", self.split, ("eval", "tune"))
        check(
            self.prompts > 1, "evaluation.prompts", self.prompts, "must be 2 or more, so that there is a standard error"
        )
        check_positive("evaluation", self, "references", "best_of")
        check_not_negative("evaluation", self, "temperature", "every")
        allowed = "must be 2 or more, or null for all"
        fits = self.interim_prompts is None or self.interim_prompts > 1
        check(fits, "evaluation.interim_prompts", self.interim_prompts, allowed)
        allowed = "must be different numbers greater than 0"
        distinct = len(set(self.control_temperatures)) == len(self.control_temperatures)
        sampled = distinct and all(0 < temperature < math.inf for temperature in self.control_temperatures)
        check(sampled, "evaluation.control_temperatures", self.control_temperatures, allowed)
        for name in ("max_prompt_tokens", "max_response_tokens"):
            if getattr(self, name) is not None:
                check_positive("evaluation", self, name)
        allowed = "draws at evaluation.temperature=0 are all the same; use 1"
        check(self.best_of == 1 or self.temperature > 0, "evaluation.best_of", self.best_of, allowed)


WORLD, TEXT, OUTPUTS, PAIRS = "data=world", "data of text", "finished outputs", "pairs that people compared"
"""What a judge or a factuality measure can be used for: runs on either kind of data, rlhf.evaluate, rlhf.judge."""


@dataclass
class MeasureConfig:
    """How responses are measured, by name; class variables say what must be known before the measure is loaded."""

    section: ClassVar[str]  # the group of conf/ it is chosen in
    suits: ClassVar[tuple[str, ...]] = (TEXT, OUTPUTS, PAIRS)  # what it can be used for
    asks_endpoint: ClassVar[bool] = False  # its answers may fail, and are not cached with the stages

    name: str = MISSING

    def __post_init__(self) -> None:
        own = KINDS[self.section].get(self.name, PLAIN[self.section])
        check(type(self) is own, f"{self.section}.name", self.name, f"choose it by {self.section}=NAME, with its keys")

    @property
    def label(self) -> tuple[str, ...]:
        """Parts of the name that its figures are filed under."""
        return (self.name,)

    def fill(self, cache_dir: str) -> None:
        """Take from the whole configuration what null leaves to it."""

    def check_use(self, use: str) -> None:
        """Raises ConfigError where it can't be used for one of WORLD, TEXT, OUTPUTS, PAIRS."""
        names = ", ".join(name for name, kind in KINDS[self.section].items() if use in kind.suits)
        check(use in self.suits, self.section, self.name, f"for {use} choose one of {names}")


@dataclass
class JudgeConfig(MeasureConfig):
    """A judge without keys of its own, which reads texts and asks nobody, unless a subclass says otherwise."""

    section = "judge"
    second_reward: ClassVar[bool] = False  # it compares by a second reward model, which the run trains
    reads_models: ClassVar[bool] = False  # it compares by a model of the run, which is loaded when the stages are built


@dataclass
class NoJudgeConfig(JudgeConfig):
    suits = (WORLD, TEXT)

    name: str = "none"


@dataclass
class OwnRewardJudgeConfig(JudgeConfig):
    suits = (WORLD, TEXT)
    reads_models = True

    name: str = "reward"


@dataclass
class OracleJudgeConfig(JudgeConfig):
    suits = (WORLD,)

    name: str = "oracle"


@dataclass
class RewardModelJudgeConfig(JudgeConfig):
    suits = (TEXT,)
    second_reward = True
    reads_models = True

    name: str = "reward_model"


@dataclass
class LlmJudgeConfig(EndpointConfig, JudgeConfig):
    asks_endpoint = True

    name: str = "llm"
    max_tokens: int | None = 1  # of an answer; more for models that think first
    style: str = "preference"  # preference: one label, weighted by its log-probability; ranking: both labels with ranks
    labels: list[str] = field(default_factory=lambda: ["m", "M"])  # what the judge calls output_1 and output_2
    # your template, with {instruction}, {output_1} and {output_2}; null: the built-in one
    prompt_file: str | None = None
    force: bool = False  # take its word even where its answers show that the order of the texts decides
    order: str = "seeded"  # seeded: one order per instruction, as AlpacaEval draws it; both: both orders, averaged

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("judge.style", self.style, ("preference", "ranking"))
        check_choice("judge.order", self.order, ("seeded", "both"))
        distinct = len({label.strip() for label in self.labels} - {""}) == len(self.labels) == 2
        check(distinct, "judge.labels", self.labels, "must be two different names, of output_1 and of output_2")
        self.check("judge")

    @property
    def label(self) -> tuple[str, ...]:
        kind = "llm" if self.style == "preference" else "llm_ranking"
        return (kind, self.model, *(["both"] if self.order == "both" else []))


@dataclass
class AnnotationsJudgeConfig(JudgeConfig):
    suits = (OUTPUTS,)

    name: str = "annotations"
    file: str = MISSING  # rows {instruction, output_1, output_2, preference}, output_2 being the judged model's

    @property
    def label(self) -> tuple[str, ...]:
        return ("annotations", Path(self.file).stem)


@dataclass
class FactualityConfig(MeasureConfig):
    """A factuality measure without keys of its own."""

    section = "factuality"


@dataclass
class NoFactualityConfig(FactualityConfig):
    suits = (WORLD, TEXT)

    name: str = "none"


@dataclass
class WorldFactualityConfig(FactualityConfig):
    suits = (WORLD,)

    name: str = "world"


@dataclass
class FactScoreConfig(EndpointConfig, FactualityConfig):
    suits = (TEXT, OUTPUTS)
    asks_endpoint = True

    name: str = "factscore"
    max_tokens: int | None = 1024  # of an answer: room for the list of a response's facts
    knowledge: str = MISSING  # the collection: rows {title, text}, .jsonl or .json
    dataset: str | None = None  # only prompts of this `dataset` count; null: all
    # at most so many responses, the first; each costs a call and one more per fact; null: all
    prompts: int | None = 100
    passages: int = 5  # shown with each fact: the nearest by BM25
    passage_words: int = 256  # longest passage; longer texts are cut
    penalty_facts: int = 10  # up to so many facts, the penalized score is times exp(1 - penalty_facts / facts)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("factuality", self, "passages", "passage_words")
        check_not_negative("factuality", self, "penalty_facts")
        if self.prompts is not None:
            check(self.prompts > 1, "factuality.prompts", self.prompts, "must be 2 or more, or null for all")
        self.check("factuality")

    @property
    def label(self) -> tuple[str, ...]:
        return ("factscore", self.model)


JUDGE_KINDS: dict[str, type[JudgeConfig]] = {
    "none": NoJudgeConfig,
    "reward": OwnRewardJudgeConfig,
    "oracle": OracleJudgeConfig,
    "reward_model": RewardModelJudgeConfig,
    "llm": LlmJudgeConfig,
    "annotations": AnnotationsJudgeConfig,
}
FACTUALITY_KINDS: dict[str, type[FactualityConfig]] = {
    "none": NoFactualityConfig,
    "world": WorldFactualityConfig,
    "factscore": FactScoreConfig,
}
KINDS: dict[str, Mapping[str, type[MeasureConfig]]] = {"judge": JUDGE_KINDS, "factuality": FACTUALITY_KINDS}
"""The dataclasses of measures that have keys or class variables of their own, by section and name."""
PLAIN: dict[str, type[MeasureConfig]] = {"judge": JudgeConfig, "factuality": FactualityConfig}


@dataclass
class EvaluateConfig:
    """`python -m rlhf.evaluate` and `python -m rlhf.judge`, composed from conf/evaluate.yaml."""

    cache_dir: str = "outputs/cache"  # where answers are kept
    judge: JudgeConfig | None = None
    factuality: FactualityConfig | None = None

    def __post_init__(self) -> None:
        for measure in (self.judge, self.factuality):
            if measure is not None:
                measure.fill(self.cache_dir)
                measure.check_use(OUTPUTS)


@dataclass
class ChecksConfig:
    prompts: int = 512  # of the tuning split, on which the SFT model is measured
    min_factuality: float | None = 55.0  # per cent, of the SFT model's biographies
    max_factuality: float | None = 85.0  # above it nothing is left to lose
    min_accuracy: float | None = 0.55  # of the reward model on comparisons kept aside
    min_oracle_agreement: float | None = 0.6  # of the reward model with the oracle; its standard error is about 0.018

    def __post_init__(self) -> None:
        check_positive("checks", self, "prompts")
        for name in ("min_accuracy", "min_oracle_agreement"):
            if getattr(self, name) is not None:
                check_fraction("checks", self, name)
        for name in ("min_factuality", "max_factuality"):
            value = getattr(self, name)
            ok = value is None or 0 <= value <= 100
            check(ok, f"checks.{name}", value, "must be a percentage, or null for no check")
        low, high = self.min_factuality, self.max_factuality
        if low is not None and high is not None:
            check(low < high, "checks.min_factuality", low, f"must be below checks.max_factuality={high}")
