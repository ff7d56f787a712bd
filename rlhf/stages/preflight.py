"""Refusals before any work: what can be known to go wrong from the configuration, the data and the models' shapes."""

import logging

import psutil
import torch

from rlhf.config.run import Config
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judges import Resources, load_judge
from rlhf.models.backbone import expand, model_shape
from rlhf.models.external_reward import check_external, external_weights
from rlhf.models.initial_adapter import check_start
from rlhf.models.logprobs import CHUNK
from rlhf.models.memory import Estimate, advise, check_fits, empty_model, estimate
from rlhf.models.precision import DTYPES
from rlhf.rl.regularizer import Regularizer
from rlhf.stages.checks import check_context
from rlhf.stages.pipeline import Pipeline
from rlhf.validate import check

log = logging.getLogger(__name__)


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


def program_memory(device: torch.device) -> float:
    """Return the bytes that this process holds on the device before it loads a model."""
    return 0.0 if device.type == "cuda" else float(psutil.Process().memory_info().rss)


def check_memory(config: Config, device: torch.device, ranks: int, program: float) -> Estimate:
    """Estimate a run's memory on one device beside the `program`'s, and log it where the model is not the world's own.

    Raises ConfigError where a GPU can't hold it.
    """
    on_gpu = device.type == "cuda"
    reward = external_weights(config.reward) * float(DTYPES[config.model.dtype].itemsize)
    found = estimate(config, empty_model(model_shape(config.model)), CHUNK, ranks, program, reward)
    if on_gpu:
        capacity = float(torch.cuda.get_device_properties(device).total_memory)
        check_fits(found, capacity)
        log.info(f"memory: {advise(found, capacity)}")
    elif config.model.path is not None:
        log.info(f"memory: {found}")
    return found
