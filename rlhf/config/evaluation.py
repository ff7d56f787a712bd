"""Settings of what is measured, by whom, and of what must hold before PPO."""

import math
from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.config.endpoint import EndpointConfig
from rlhf.validate import check, check_choice, check_fraction, check_not_negative, check_positive

BASELINE_READS = ("split", "prompts", "references", "temperature", "control_temperatures", "max_response_tokens")
"""What of `evaluation` the SFT model's own responses depend on."""


@dataclass
class EvaluationConfig:
    split: str = MISSING
    prompts: int = MISSING
    references: int = MISSING
    temperature: float = MISSING
    control_temperatures: list[float] = MISSING
    max_response_tokens: int | None = MISSING
    best_of: int = MISSING
    every: int = MISSING
    interim_prompts: int | None = MISSING

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
    name: str = MISSING

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("oracle", "reward_model"))


@dataclass
class LlmJudgeConfig(EndpointConfig, JudgeConfig):
    style: str = MISSING
    labels: list[str] = MISSING
    prompt_file: str | None = MISSING
    order: str = MISSING

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("llm",))
        check_choice("judge.style", self.style, ("preference", "ranking"))
        check_choice("judge.order", self.order, ("seeded", "both"))
        distinct = len({label.strip() for label in self.labels} - {""}) == len(self.labels) == 2
        check(distinct, "judge.labels", self.labels, "must be two different names, of output_1 and of output_2")
        self.check("judge")


@dataclass
class AnnotationsJudgeConfig(JudgeConfig):
    file: str = MISSING

    def __post_init__(self) -> None:
        check_choice("judge.name", self.name, ("annotations",))


JUDGE_KINDS: dict[str, type[JudgeConfig]] = {"llm": LlmJudgeConfig, "annotations": AnnotationsJudgeConfig}


@dataclass
class FactualityConfig:
    name: str = MISSING

    def __post_init__(self) -> None:
        check_choice("factuality.name", self.name, ("world", "none"))


@dataclass
class FactScoreConfig(EndpointConfig, FactualityConfig):
    knowledge: str = MISSING
    dataset: str | None = MISSING
    prompts: int | None = MISSING
    passages: int = MISSING
    passage_words: int = MISSING
    penalty_facts: int = MISSING

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
    min_factuality: float | None = MISSING
    max_factuality: float | None = MISSING
    min_accuracy: float | None = MISSING
    min_oracle_agreement: float | None = MISSING

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
