"""Settings of the data: the embedded world, or files of text."""

from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_fraction, check_positive


@dataclass
class DataConfig:
    name: str = MISSING
    seed: int = MISSING


@dataclass
class WorldConfig(DataConfig):
    people: int = MISSING
    tune_people: int = MISSING
    eval_people: int = MISSING
    demonstrations: int = MISSING
    comparison_prompts: int = MISSING
    annotator_temperature: float = MISSING
    annotator_flips: float = MISSING
    undocumented: float = MISSING

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, ("world",))
        check_positive("data", self, "people", "tune_people", "eval_people", "demonstrations", "comparison_prompts")
        check_positive("data", self, "annotator_temperature")
        check_fraction("data", self, "annotator_flips", "undocumented")
        held_out = self.tune_people + self.eval_people
        check(held_out < self.people, "data.people", self.people, f"must exceed tune_people + eval_people = {held_out}")


@dataclass
class TextConfig(DataConfig):
    root: str = MISSING
    instructions: str = MISSING
    preferences: str = MISSING
    evaluation: str = MISSING
    sft_fraction: float = MISSING
    tune_fraction: float = MISSING
    judge_fraction: float = MISSING

    def __post_init__(self) -> None:
        check_choice("data.name", self.name, ("alpaca_farm",))
        for name in ("sft_fraction", "tune_fraction", "judge_fraction"):
            value = getattr(self, name)
            check(0 < value < 1, f"data.{name}", value, "must lie between 0 and 1, both excluded")
        used = self.sft_fraction + self.tune_fraction
        check(used < 1, "data.sft_fraction", self.sft_fraction, "with tune_fraction it must leave prompts for PPO")


DATA_KINDS: dict[str, type[DataConfig]] = {"world": WorldConfig, "text": TextConfig}
