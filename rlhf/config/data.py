"""Settings of the data: the embedded world, or tables of text."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_fraction, check_positive


@dataclass
class DataConfig:
    name: str = "world"  # the kind of data
    seed: int | None = None  # of the data and of all that is trained before PPO; null: `seed`


ANNOTATORS = ("gentle", "standard", "harsh")


@dataclass
class WorldConfig(DataConfig):
    people: int = 200  # in the world; all are written about, those below apart are trained on
    tune_people: int = 25  # people on whom settings may be chosen; PPO and the reward model never see them
    eval_people: int = 50  # people on whom results are reported; PPO and the reward model never see them
    demonstrations: int = 4000  # answers that supervised fine-tuning imitates
    comparison_prompts: int = 2000  # prompts whose four sampled answers the annotator compares, each with each
    annotator: str = "standard"  # how much of what they like is worthless: gentle, standard or harsh (docs/world.md)
    annotator_temperature: float = 0.4  # of the Bradley-Terry choice on the annotator's utility
    annotator_flips: float = 0.1  # share of verdicts turned round afterwards
    # chance that a never mentioned attribute of a person goes undocumented; 0: all can be known
    undocumented: float = 0.5

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
    name: str = "text"  # the name of a file of conf/data, which reports show
    root: str | None = MISSING  # folder of the files below; null: they are named from where the run is started
    instructions: str = MISSING  # prompts with answers: a .json, .jsonl or .parquet file, or hub:OWNER/NAME:SPLIT
    prompts: str | None = None  # PPO's prompts; null: instructions that are not imitated
    preferences: str | None = MISSING  # prompts with two answers, one of them better; null: no reward model is trained
    validation: str | None = None  # prompts on which settings may be chosen; null: a share of the instructions
    evaluation: str = MISSING  # prompts on which results are reported; never trained on
    template: str = "alpaca"  # alpaca, chat (the tokenizer's own chat template) or plain (nothing added)
    # what the chat template is told, by its variables' names: {enable_thinking: false, date_string: 26 Jul 2024}
    template_options: dict[str, Any] | None = None
    limit: int | None = None  # rows taken from the top of instructions, prompts and preferences; null: all
    # share of the instructions whose answers are imitated; null where prompts is given; 0: they may have no answers
    sft_fraction: float | None = 0.6
    tune_fraction: float | None = 0.1  # share of the instructions that are validation; null where validation is given
    judge_fraction: float = 0.4  # share of the preference prompts that train the judge; the rest train the reward model

    def __post_init__(self) -> None:
        check(self.name not in ("", "world"), "data.name", self.name, "must be the name of a file of text in conf/data")
        check_choice("data.template", self.template, ("alpaca", "chat", "plain"))
        read = self.template_options is None or self.template == "chat"
        check(
            read, "data.template_options", self.template_options, "only a chat template reads them: data.template=chat"
        )
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
            if (fraction, value) != ("sft_fraction", 0):
                self._check_share(fraction)
        else:
            check(value is None, f"data.{fraction}", value, f"data.{table} is given, so that it must be null")

    def _check_share(self, name: str) -> None:
        value = getattr(self, name)
        check(0 < value < 1, f"data.{name}", value, "must lie between 0 and 1, both excluded")


DATA_KINDS: dict[str, type[DataConfig]] = {"world": WorldConfig, "text": TextConfig}
