"""Settings of who follows a run beside its own files. They are no part of what a run is: see rlhf/infra/rundir.py."""

from dataclasses import dataclass

from omegaconf import MISSING

from rlhf.validate import check, check_choice, check_not_negative, check_positive


@dataclass
class TrackerConfig:
    name: str = "none"

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, ("none",))


@dataclass
class TensorboardConfig(TrackerConfig):
    responses: int = MISSING
    patience: float = MISSING

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, ("tensorboard",))
        check_not_negative("tracker", self, "responses")
        check_positive("tracker", self, "patience")


@dataclass
class WandbConfig(TrackerConfig):
    project: str = MISSING
    entity: str | None = MISSING
    responses: int = MISSING
    artifact: bool = MISSING
    patience: float = MISSING

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, ("wandb", "wandb_offline"))
        bad = set(self.project) & set("/\\#?%:")
        check(bool(self.project) and not bad, "tracker.project", self.project, "a name without / \\ # ? % :")
        check_not_negative("tracker", self, "responses")
        check_positive("tracker", self, "patience")


TRACKER_KINDS: dict[str, type[TrackerConfig]] = {
    "wandb": WandbConfig,
    "wandb_offline": WandbConfig,
    "tensorboard": TensorboardConfig,
}
