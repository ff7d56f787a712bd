"""Settings of what is measured, by whom, and of what must hold before PPO."""

import math
from dataclasses import dataclass, field

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
        if self.max_response_tokens is not None:
            check_positive("evaluation", self, "max_response_tokens")
        allowed = "draws at evaluation.temperature=0 are all the same; use 1"
        check(self.best_of == 1 or self.temperature > 0, "evaluation.best_of", self.best_of, allowed)


@dataclass
class JudgeConfig:
    name: str = "oracle"

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("oracle", "reward_model"))


@dataclass
class LlmJudgeConfig(EndpointConfig, JudgeConfig):
    name: str = "llm"
    max_tokens: int | None = 1  # of an answer; more for models that think first
    style: str = "preference"  # preference: one label, weighted by its log-probability; ranking: both labels with ranks
    labels: list[str] = field(default_factory=lambda: ["m", "M"])  # what the judge calls output_1 and output_2
    # your template, with {instruction}, {output_1} and {output_2}; null: the built-in one
    prompt_file: str | None = None
    order: str = "seeded"  # seeded: one order per instruction, as AlpacaEval draws it; both: both orders, averaged

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("llm",))
        check_choice("judge.style", self.style, ("preference", "ranking"))
        check_choice("judge.order", self.order, ("seeded", "both"))
        distinct = len({label.strip() for label in self.labels} - {""}) == len(self.labels) == 2
        check(distinct, "judge.labels", self.labels, "must be two different names, of output_1 and of output_2")
        self.check("judge")


@dataclass
class AnnotationsJudgeConfig(JudgeConfig):
    name: str = "annotations"
    file: str = MISSING  # rows {instruction, output_1, output_2, preference}, output_2 being the judged model's

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("annotations",))


JUDGE_KINDS: dict[str, type[JudgeConfig]] = {"llm": LlmJudgeConfig, "annotations": AnnotationsJudgeConfig}


@dataclass
class FactualityConfig:
    name: str = "world"

    def __post_init__(self) -> None:
        check_choice("factuality.name", self.name, ("world", "none"))


@dataclass
class FactScoreConfig(EndpointConfig, FactualityConfig):
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
        check_choice("factuality.name", self.name, ("factscore",))
        check_positive("factuality", self, "passages", "passage_words")
        check_not_negative("factuality", self, "penalty_facts")
        if self.prompts is not None:
            check(self.prompts > 1, "factuality.prompts", self.prompts, "must be 2 or more, or null for all")
        self.check("factuality")


FACTUALITY_KINDS: dict[str, type[FactualityConfig]] = {"factscore": FactScoreConfig}


@dataclass
class ChecksConfig:
    min_factuality: float | None = 55.0  # per cent, of the SFT model's biographies
    max_factuality: float | None = 85.0  # above it nothing is left to lose
    min_accuracy: float | None = 0.55  # of the reward model on comparisons kept aside
    min_oracle_agreement: float | None = 0.6  # of the reward model with the oracle; its standard error is about 0.018

    def __post_init__(self) -> None:
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
