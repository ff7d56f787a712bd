"""The configuration of `python -m rlhf.evaluate` and `python -m rlhf.judge`, composed from conf/evaluate.yaml."""

from dataclasses import dataclass

from rlhf.config.endpoint import EndpointConfig
from rlhf.config.evaluation import FactualityConfig, JudgeConfig
from rlhf.validate import check


@dataclass
class EvaluateConfig:
    cache_dir: str = "outputs/cache"  # where answers are kept
    judge: JudgeConfig | None = None
    factuality: FactualityConfig | None = None

    def __post_init__(self) -> None:
        for asked in (self.judge, self.factuality):
            if isinstance(asked, EndpointConfig):
                asked.fill(self.cache_dir)
        if self.judge is not None:
            allowed = "finished outputs are judged by llm, llm_ranking or annotations"
            check(self.judge.name in ("llm", "annotations"), "judge", self.judge.name, allowed)
        if self.factuality is not None:
            allowed = "of finished outputs it is measured by factscore"
            check(self.factuality.name == "factscore", "factuality", self.factuality.name, allowed)
