"""Settings of the dashboards that a run logs to. They do not change a run's identity (rlhf/storage/rundir.py)."""

from dataclasses import dataclass

from rlhf.validate import check, check_choice, check_not_negative, check_positive


@dataclass
class TrackerConfig:
    name: str = "none"

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, ("none",))


@dataclass
class TensorboardConfig(TrackerConfig):
    name: str = "tensorboard"
    responses: int = 16  # the first so many prompts of each evaluation whose responses are shown
    patience: float = 30.0  # seconds that the end of a run waits at most for pending writes

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, ("tensorboard",))
        check_not_negative("tracker", self, "responses")
        check_positive("tracker", self, "patience")


@dataclass
class WandbConfig(TrackerConfig):
    name: str = "wandb_offline"
    project: str = "rlhf"  # of wandb; created where it does not exist
    entity: str | None = None  # the user or team; null: your default one
    responses: int = 64  # the first so many prompts of each evaluation whose responses go into a table
    artifact: bool = False  # true: upload the final policy as an artifact
    patience: float = 30.0  # seconds that the end of a run waits at most for pending writes and uploads

    def __post_init__(self) -> None:
        check_choice("tracker.name", self.name, ("wandb", "wandb_offline"))
        bad = set(self.project) & set("/\\#?%:")
        check(bool(self.project) and not bad, "tracker.project", self.project, "a name without / \\ # ? % :")
        check_not_negative("tracker", self, "responses")
        check_positive("tracker", self, "patience")


TRACKER_KINDS: dict[str, type[TrackerConfig]] = {
    "none": TrackerConfig,
    "wandb": WandbConfig,
    "wandb_offline": WandbConfig,
    "tensorboard": TensorboardConfig,
}
