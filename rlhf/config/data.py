"""Settings of the data: the embedded world, or tables of text."""

from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_fraction, check_positive


@dataclass
class DataConfig:
    name: str = MISSING
    seed: int = MISSING


ANNOTATORS = ("gentle", "standard", "harsh")


@dataclass
class WorldConfig(DataConfig):
    people: int = MISSING
    tune_people: int = MISSING
    eval_people: int = MISSING
    demonstrations: int = MISSING
    comparison_prompts: int = MISSING
    annotator: str = MISSING
    annotator_temperature: float = MISSING
    annotator_flips: float = MISSING
    undocumented: float = MISSING

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, ("world",))
        check_positive("data", self, "people", "tune_people", "eval_people", "demonstrations", "comparison_prompts")
        check_choice("data.annotator", self.annotator, ANNOTATORS)
        check_positive("data", self, "annotator_temperature")
        check_fraction("data", self, "annotator_flips", "undocumented")
        held_out = self.tune_people + self.eval_people
        check(held_out < self.people, "data.people", self.people, f"must exceed tune_people + eval_people = {held_out}")


@dataclass
class TextConfig(DataConfig):
    root: str | None = MISSING
    instructions: str = MISSING
    prompts: str | None = MISSING
    preferences: str = MISSING
    validation: str | None = MISSING
    evaluation: str = MISSING
    template: str = MISSING
    limit: int | None = MISSING
    sft_fraction: float | None = MISSING
    tune_fraction: float | None = MISSING
    judge_fraction: float = MISSING

    def __post_init__(self) -> None:
        check(self.name not in ("", "world"), "data.name", self.name, "must be the name of a file of text in conf/data")
        check_choice("data.template", self.template, ("alpaca", "chat", "plain"))
        if self.limit is not None:
            check_positive("data", self, "limit")
        self._check_split("sft_fraction", "prompts")
        self._check_split("tune_fraction", "validation")
        self._check_share("judge_fraction")
        used = (self.sft_fraction or 0) + (self.tune_fraction or 0)
        check(used < 1, "data.sft_fraction", self.sft_fraction, "with tune_fraction it must leave prompts for PPO")

    def _check_split(self, fraction: str, table: str) -> None:
        """Prompts are a share of the instructions, or come from a table of their own."""
        value, given = getattr(self, fraction), getattr(self, table)
        if given is None:
            check(value is not None, f"data.{fraction}", value, f"must say how instructions are split, or data.{table}")
            self._check_share(fraction)
        else:
            check(value is None, f"data.{fraction}", value, f"data.{table} is given, so that it must be null")

    def _check_share(self, name: str) -> None:
        value = getattr(self, name)
        check(0 < value < 1, f"data.{name}", value, "must lie between 0 and 1, both excluded")


DATA_KINDS: dict[str, type[DataConfig]] = {"world": WorldConfig, "text": TextConfig}
