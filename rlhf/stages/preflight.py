"""Refusals before any work: what can be known to go wrong from the configuration, the data and the models' shapes."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from rlhf.config.data import DataConfig, TextConfig
from rlhf.config.run import Config
from rlhf.config.stages import SETTING, identity
from rlhf.data.encoding import encode_prompt, tell_template
from rlhf.data.source import Source
from rlhf.errors import UserError
from rlhf.evaluation.factuality import load_factuality
from rlhf.evaluation.judges import Resources, load_judge
from rlhf.models.adapters import check_modules
from rlhf.models.backbone import expand, load_causal_lm, load_tokenizer, model_shape, usable_memory
from rlhf.models.external_reward import check_external, check_read, external_shape, external_weights
from rlhf.models.initial_adapter import check_base, check_start
from rlhf.models.logprobs import CHUNK
from rlhf.models.memory import Estimate, advise, check_fits, empty_model, estimate
from rlhf.models.precision import DTYPES
from rlhf.models.value import check_words
from rlhf.process.distributed import ALONE, Ranks
from rlhf.process.signals import StopSignals
from rlhf.rl.regularizer import Regularizer
from rlhf.stages.checks import check_context
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.reward import JUDGE, check_size, settings_of
from rlhf.storage.places import check_folder
from rlhf.validate import check

META = torch.device("meta")

log = logging.getLogger(__name__)


def checked_pipeline(config: Config, ranks: Ranks = ALONE, stop: StopSignals | None = None) -> Pipeline:
    """Return the stages of a run that can be built, and that fits the device; raises UserError."""
    config.micro_batch_size(ranks.size)
    check_folder("cache_dir", config.cache_dir)
    if config.checkpoint_local_dir is not None:
        check_folder("checkpoint_local_dir", os.path.expandvars(config.checkpoint_local_dir))
    Regularizer.create(config.regularizer)
    pipeline = Pipeline(config, ranks, stop)
    check_stages(pipeline)
    check_run(pipeline, config)
    check_memory(pipeline, config)
    return pipeline


def check_sweep(configs: Sequence[Config], here: bool) -> None:
    """Raise UserError, naming the run, where one of a sweep's can't be done; the device is looked at `here` only."""
    pipelines: dict[str, Pipeline] = {}
    for number, config in enumerate(configs):
        try:
            asked = config if here else replace(config, device="cpu", device_memory=None)
            key = identity(asdict(asked), SETTING)
            if key not in pipelines:
                check_folder("cache_dir", asked.cache_dir)
                pipelines = {key: Pipeline(asked)}  # one at a time: data may be large
                check_stages(pipelines[key])
            check_run(pipelines[key], asked)
            if here:
                check_memory(pipelines[key], asked)
        except UserError as error:
            raise type(error)(f"run {number} of the sweep: {error}") from error


def check_stages(pipeline: Pipeline) -> None:
    """Raise UserError where what the runs of this pipeline share can't be built or used."""
    config, prompts = pipeline.config, pipeline.prompts
    check_counts(pipeline.source, config)
    if config.reward.is_external:
        check_external(config.reward)
    judged = sum(not pipeline.source.seen_by_reward(prompt) for prompt in prompts)
    allowed = f"the reward model's comparisons leave {judged} of these prompts to judge, and 2 are needed"
    check(judged > 1, "evaluation.prompts", config.evaluation.prompts, allowed)
    if config.model.path is not None:
        tokenizer = load_tokenizer(expand(config.model.path))
        lm = load_causal_lm(expand(config.model.path), config.model.dtype, META)
        check_context(lm, config)
        check_modules(lm, config.reward.lora, "reward.lora")
        if config.value.init == "backbone" and config.reward.is_external:
            shapes = model_shape(config.model), external_shape(config.reward)
            check_words(config.value, *(shape.get_text_config().vocab_size for shape in shapes))
        check_templates(config.data, tokenizer)
        check_rows(pipeline.source, tokenizer)
    else:
        check_modules(empty_model(model_shape(config.model)), config.reward.lora, "reward.lora")
    resources = Resources(pipeline.source, prompts)
    if not config.judge.reads_models:  # which may still have to be trained
        load_judge(config.judge, resources)
    load_factuality(config.factuality, resources)
    if config.reward.path is not None:
        check_read(pipeline.source, config.reward)


def check_counts(source: Source, config: Config) -> None:
    """Raise ConfigError where the data has too few rows for a batch of SFT, the reward model or the judge."""
    if config.sft.epochs:
        count = source.count_demonstrations()
        check(count >= config.sft.batch_size, "sft.batch_size", config.sft.batch_size, f"the data has {count} rows")
    if not config.reward.is_external:
        check_size(source.count_compared(judge=False), config.reward)
    if config.judge.second_reward:
        check_size(source.count_compared(judge=True), settings_of(config.reward, JUDGE))


def check_templates(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError for options that the chat template does not read; warn where it is there and not used."""
    if not isinstance(data, TextConfig):
        return
    tell_template(tokenizer, data.template_options)
    if data.template != "chat" and tokenizer.chat_template is not None:
        log.warning(
            f"data.template={data.template}: this model has a chat template of its own, which it was trained to answer "
            "in; data.template=chat uses it"
        )


def check_rows(source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
    """Render each conversation by the model's chat template; raises DataError naming the first row that it refuses."""
    for prompt in source.given_prompts():
        if prompt.messages:
            encode_prompt(tokenizer, prompt)


def check_run(pipeline: Pipeline, config: Config) -> None:
    """Raise UserError where a run's own sections can't be used: `regularizer`, `lora`, a share for each rank."""
    config.micro_batch_size(pipeline.ranks.size)
    Regularizer.create(config.regularizer)
    if config.lora.r is not None:
        check_modules(empty_model(model_shape(config.model)), config.lora)
    check_start(config.lora)
    if config.lora.path is not None:
        check_base(config.lora.path, pipeline.planned_sft())


def memory_estimate(config: Config, processes: int = 1, program: float = 0.0) -> Estimate:
    """Estimate a run's memory on each of so many devices, beside `program`, the bytes held without a model."""
    reward = external_weights(config.reward) * float(DTYPES[config.model.dtype].itemsize)
    return estimate(config, empty_model(model_shape(config.model)), CHUNK, processes, program, reward)


def check_memory(pipeline: Pipeline, config: Config) -> None:
    """Log a run's memory where the model is not the world's own; raises ConfigError where a GPU can't hold it."""
    found = memory_estimate(config, pipeline.ranks.size, pipeline.program)
    if pipeline.device.type == "cuda":
        total = float(torch.cuda.get_device_properties(pipeline.device).total_memory)
        capacity = usable_memory(total, config.device_memory)
        check_fits(found, capacity)
        log.info(f"memory: {advise(found, capacity)}")
        return
    capacity = float(psutil.virtual_memory().total + psutil.swap_memory().total)
    check_fits(found, capacity, "this machine")
    if config.model.path is not None:
        log.info(f"memory: {found}")
