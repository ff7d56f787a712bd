"""Refusals before any work: what can be known to go wrong from the configuration, the data and the models' shapes."""

import logging

import torch

from rlhf.config.run import Config
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judges import Resources, load_judge
from rlhf.models.backbone import expand, model_shape, usable_memory
from rlhf.models.external_reward import check_external, external_weights
from rlhf.models.initial_adapter import check_start
from rlhf.models.logprobs import CHUNK
from rlhf.models.memory import Estimate, advise, check_fits, empty_model, estimate
from rlhf.models.precision import DTYPES
from rlhf.process.distributed import ALONE, Ranks
from rlhf.process.signals import StopSignals
from rlhf.rl.regularizer import Regularizer
from rlhf.stages.checks import check_context
from rlhf.stages.pipeline import Pipeline
from rlhf.validate import check

log = logging.getLogger(__name__)


def checked_pipeline(config: Config, ranks: Ranks = ALONE, stop: StopSignals | None = None) -> Pipeline:
    """Return the stages of a run that can be built, and that fits the device; raises UserError."""
    check_run(config, ranks.size)
    pipeline = Pipeline(config, ranks, stop)
    check_stages(pipeline)
    check_memory(pipeline, config)
    return pipeline


def check_stages(pipeline: Pipeline) -> None:
    """Raise UserError where what the runs of this pipeline share can't be built or used."""
    config, prompts = pipeline.config, pipeline.prompts
    judged = sum(not pipeline.source.seen_by_reward(prompt) for prompt in prompts)
    allowed = f"the reward model's comparisons leave {judged} of these prompts to judge, and 2 are needed"
    check(judged > 1, "evaluation.prompts", config.evaluation.prompts, allowed)
    if config.model.path is not None:
        check_context(expand(config.model.path), config)
    resources = Resources(pipeline.source, prompts)
    if not config.judge.second_reward:  # which is still to be trained
        load_judge(config.judge, resources)
    load_factuality(config.factuality, resources)
    if config.reward.is_external:
        check_external(config.reward)


def check_run(config: Config, ranks: int = 1) -> None:
    """Raise UserError where a run's own sections can't be used: `regularizer`, `lora.path`, a share for each rank."""
    config.micro_batch_size(ranks)
    check_start(config.lora)
    Regularizer.create(config.regularizer)


def memory_estimate(pipeline: Pipeline, config: Config) -> Estimate:
    """Estimate the memory on one device of a run of `config`, beside what the program held before it loaded a model."""
    reward = external_weights(config.reward) * float(DTYPES[config.model.dtype].itemsize)
    shape = empty_model(model_shape(config.model))
    return estimate(config, shape, CHUNK, pipeline.ranks.size, pipeline.program, reward)


def check_memory(pipeline: Pipeline, config: Config) -> None:
    """Log a run's memory where the model is not the world's own; raises ConfigError where a GPU can't hold it."""
    found = memory_estimate(pipeline, config)
    if pipeline.device.type == "cuda":
        total = float(torch.cuda.get_device_properties(pipeline.device).total_memory)
        capacity = usable_memory(total, config.device_memory)
        check_fits(found, capacity)
        log.info(f"memory: {advise(found, capacity)}")
    elif config.model.path is not None:
        log.info(f"memory: {found}")
