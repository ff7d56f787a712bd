"""Every shipped configuration composes, and what can't be run is refused before any work, naming its key."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from rlhf.compose import KINDS, compose_checked, compose_evaluation, from_saved, leaves, to_config
from rlhf.config.data import TextConfig, WorldConfig
from rlhf.config.run import Config
from rlhf.errors import ConfigError
from rlhf.launch.grids import grids_of
from rlhf.storage.reader import read_settings
from tests.configure import CONF, composed, configure

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name != "hydra"]
AFTERWARDS = CONF / "judge" / "annotations.yaml"
"""Judges outputs that are there already; no option of a run."""
SWEEPS = sorted({*(ROOT / "sweeps").glob("*.yaml")} - {ROOT / "sweeps" / "wandb.yaml"})  # which is wandb's own
GROUPS = [next(iter(line)) for line in OmegaConf.load(CONF / "config.yaml").defaults if not isinstance(line, str)]
"""In the order in which they are composed."""

TEXT = "data=alpaca_farm data.root=/data"
OWN_TEXTS = "data.root=null data.instructions=a.json data.preferences=b.jsonl data.evaluation=hub:owner/name:test"
LLM = f"{TEXT} judge=llm judge.model=gpt"
PRICED = f"{LLM} judge.input_price=1 judge.output_price=2"
FACTS = "factuality.model=gpt factuality.knowledge=/data/knowledge.jsonl"
SCORED = f"{TEXT} factuality=factscore {FACTS}"
CUSTOM = "regularizer=custom regularizer.function._target_=torch.sub"
COMPANIONS = {
    "data=alpaca_farm": "data.root=/data",
    "data=chat": "model.path=/models/llama",  # it has the template
    "data=prompts": "data.root=/data data.instructions=a.json data.evaluation=b.json model.path=/m reward=length",
    "data=self_instruct": "model.path=/models/llama reward=length",
    "data=text": OWN_TEXTS,
    "distributed=fsdp": "model.path=/models/llama sft.epochs=0",
    "experiment=smoke_text": "data.root=/data",
    "factuality=factscore": f"{TEXT} {FACTS}",  # the world counts its facts itself
    "judge=llm": f"{TEXT} judge.model=gpt",
    "judge=llm_ranking": f"{TEXT} judge.model=gpt",
    "judge=reward_model": TEXT,  # the world is judged by its oracle
    "model=alpaca_farm_sft10k": "model.path=/models/sft10k",
    "pretrain=text": "model=scratch",
    "regularizer=custom": "regularizer.function._target_=torch.sub",
    "reward=alpaca_farm": "reward.path=/models/reward-model-sim value=head",
    "reward=classifier": "reward.path=/models/classifier value=head",
    "reward=exact_answer": "reward.function.answers=/data/answers.json value=head",
    "reward=function": "reward.function._target_=operator.eq value=head",
    "reward=keyword": "reward.function.words=[because] value=head",
    "reward=length": "value=head",
    "reward=plain_words": "value=head",
    "reward=regex": "reward.function.pattern=Yes|No value=head",
    "rollout=text": "model=scratch",  # 256 + 96 tokens, and the world's model has room for 192
    "rollout=paper": "model.path=/models/llama",  # 192 + 300
    "value=none": "algorithm=rloo",
}
"""What an option needs beside it."""


def configured(overrides: str) -> Config:
    return configure(*overrides.split())


def settings(config: Any) -> dict[str, Any]:
    """A configuration's values by dotted key."""
    return dict(leaves(asdict(config)))


def option(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


@cache
def own_values(path: Path) -> dict[str, Any]:
    """What a file of conf/ sets itself, by its full key, interpolations and `???` left out."""
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    values.pop("defaults", None)
    is_global = path.read_text().startswith("# @package _global_")
    flat = dict(leaves(values if is_global else {path.parent.name: values}))
    return {key: value for key, value in flat.items() if value != "???" and "${" not in str(value)}


def composed_before(path: Path) -> Iterator[Path]:
    """The option files that come before one when a run is composed: of the groups above it, and those it builds on."""
    above = GROUPS[: GROUPS.index(path.parent.name)]
    yield from (other for other in OPTIONS if other.parent.name in above)
    for line in OmegaConf.load(path).get("defaults", []):
        name = str(line).partition("@")[0]
        if (base := path.parent / f"{name}.yaml").exists():
            yield base
            yield from composed_before(base)


DEFAULTS = settings(Config()) | {
    key: value
    for section, kinds in KINDS.items()
    for kind in kinds.values()
    for key, value in leaves({section: OmegaConf.to_container(OmegaConf.structured(kind))})
}


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_an_option_composes_to_what_its_file_says(path: Path) -> None:
    if path == AFTERWARDS:
        config: Any = compose_evaluation([option(path), "judge.file=/data/annotations.json"])
    else:
        config = configured(f"{option(path)} {COMPANIONS.get(option(path), '')}")
    wanted = own_values(path)
    arrived = settings(config)
    assert {key: arrived[key] for key in wanted} == wanted


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_an_option_sets_only_what_differs_from_the_defaults(path: Path) -> None:
    """A key may repeat its default where a file composed before this one may have changed it; `name` and `backbone`
    may too, since they say which option it is."""
    changed = {item for other in composed_before(path) for item in own_values(other)}
    repeated = {key for key, value in own_values(path).items() if key in DEFAULTS and DEFAULTS[key] == value}
    assert {key for key in repeated - changed if key.split(".")[-1] not in ("name", "backbone")} == set()


def test_the_defaults_are_those_of_the_dataclasses() -> None:
    assert compose_checked("config", []) == Config()


def values_of(parameter: Override) -> Iterator[str]:
    """What is swept over, of an interval that is searched its ends."""
    interval = parameter.value()
    ends = (interval.start, interval.end) if isinstance(interval, IntervalSweep) else ()
    return map(str, ends) if ends else parameter.sweep_string_iterator()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_a_sweep_composes(path: Path) -> None:
    """Each value that is swept over, beside what the sweep sets for all its runs."""
    if path.stem == "search":
        pytest.importorskip("optuna", reason="needs hydra-optuna-sweeper")
    search = f"hydra.searchpath=[file://{CONF}]"
    sweep = composed(search, name=path.stem, folder=path.parent, with_hydra=True)
    assert sweep.hydra.mode.name == "MULTIRUN"
    parameters = [f"{key}={values}" for key, values in sweep.hydra.sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides(parameters)
    fixed = [text for text, each in zip(parameters, parsed, strict=True) if not each.is_sweep_override()]
    parsed += OverridesParser.create().parse_overrides(
        [each for grid in grids_of(sweep.hydra.sweeper) for each in grid]
    )
    swept = [each for each in parsed if each.is_sweep_override()]
    assert swept
    for parameter in swept:
        for value in values_of(parameter):
            overrides = (search, *fixed, f"{parameter.key_or_group}={value}")
            assert isinstance(to_config(composed(*overrides, name=path.stem, folder=path.parent)), Config)


def test_the_main_job() -> None:
    config = configure("regularizer=js", "lora.r=8")
    assert isinstance(config.data, WorldConfig)
    assert (config.regularizer.name, config.regularizer.coef, config.lora.r) == ("js", 0.5, 8)
    assert (config.judge.name, config.reward.backbone, config.value.name) == ("oracle", "adapter", "reward_features")
    assert compose_checked("config", []).tracker.name == "wandb_offline"


def test_seed_is_also_the_data_seed_unless_that_is_set() -> None:
    assert configure("seed=3").data.seed == 3
    config = configure("seed=3", "data.seed=5")
    assert (config.seed, config.data.seed) == (3, 5)


def test_text_chooses_what_suits_it() -> None:
    config = configured(TEXT)
    assert isinstance(config.data, TextConfig)
    assert config.data.root == "/data"
    assert (config.model.context, config.pretrain.steps, config.sft.batch_size) == (384, 600, 16)
    assert (config.reward.lr, config.rollout.max_prompt_tokens, config.ppo.missing_eos_score) == (3e-4, 256, -1.0)
    assert (config.judge.name, config.factuality.name, config.evaluation.prompts) == ("reward_model", "none", 805)
    assert config.checks.min_factuality is None


def test_the_command_line_wins_over_what_text_chooses() -> None:
    config = configured(f"{TEXT} model=world pretrain=world ppo=world rollout=world ppo.lr=0.5")
    assert (config.model.hidden_size, config.ppo.steps, config.rollout.batch_size) == (96, 40, 64)
    assert config.ppo.lr == 0.5
    assert (config.judge.name, config.sft.batch_size) == ("reward_model", 16)


PAPER = {
    # its settings, by arXiv 2309.09055 and its code
    **{"rollout.batch_size": 256, "ppo.step_batch_size": 128, "ppo.epochs": 2, "ppo.micro_batch_size": 16},
    **{"ppo.lr": 1e-5, "ppo.warmup_steps": 5, "ppo.adam_eps": 1e-5, "ppo.lr_schedule": "linear", "ppo.steps": 180},
    **{"lora.r": 8, "lora.alpha": 64.0, "lora.dropout": 0.1, "ppo.gamma": 1.0, "ppo.lam": 0.95, "ppo.clip": 0.2},
    **{"ppo.max_grad_norm": 1.0, "ppo.whiten_rewards": True, "ppo.whiten_advantages": True, "value.lr": 1e-5},
    **{"ppo.missing_eos_score": None, "rollout.temperature": 1.0, "value.coef": 0.1, "value.clip": 0.2},
}
PUBLISHED = {
    **{"ppo.repeat_micro_batch": (False, True), "ppo.average": ("tokens", "positions")},
    **{"ppo.whiten_padding": (False, True), "ppo.bootstrap_padding": (False, True), "ppo.dropout": (False, True)},
    **{"lora.dtype": ("float32", "bfloat16"), "ppo.retokenize": (False, True), "value.init": ("reward", "backbone")},
    **{"ppo.raw_scores": (False, True), "ppo.clip_jointly": (False, True), "ppo.whole_epochs": (False, True)},
    **{"ppo.lr_steps": (None, 781), "ppo.warmup_from_zero": (False, True), "value.lora.dtype": ("float32", "bfloat16")},
    **{"evaluation.temperature": (1.0, 0.0)},
}
"""What the published code does otherwise: by default, and in ppo=paper."""


def test_the_papers_settings_and_what_its_published_code_does_otherwise() -> None:
    default, paper = settings(configure()), settings(configure("ppo=paper"))
    assert {key: (default[key], paper[key]) for key in PUBLISHED} == PUBLISHED
    assert {key: paper[key] for key in PAPER} == PAPER


@pytest.mark.parametrize(
    "override",
    ["ppo.repeat_micro_batch=false", "ppo.average=tokens", "lora.dtype=float32", "value.init=reward", "lora.dropout=0"],
)
def test_each_of_the_papers_ways_can_be_turned_off_by_itself(override: str) -> None:
    key, _, value = override.partition("=")
    changed, paper = settings(configure("ppo=paper", override)), settings(configure("ppo=paper"))
    assert {name for name in paper if paper[name] != changed[name]} == {key}
    assert str(changed[key]).lower() in (value, f"{value}.0")


ALGORITHMS = ("reinforce", "rloo", "grpo", "dr_grpo", "gspo", "best_of_n")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", ["", TEXT], ids=["world", "text"])
def test_an_algorithm_without_a_value_composes_with_either_data(algorithm: str, data: str) -> None:
    config = configured(f"algorithm={algorithm} {data}")
    assert (config.algorithm.name, config.value.name, config.value.init) == (algorithm, "none", "zero")
    assert config.evaluation.best_of == (16 if algorithm == "best_of_n" else 1)
    assert config.algorithm.samples_per_prompt == (1 if algorithm in ("reinforce", "best_of_n") else 4)
    averages = {"grpo": "responses", "gspo": "responses", "dr_grpo": "constant"}
    assert config.ppo.average == averages.get(algorithm, "tokens")
    assert config.ppo.clip == (3e-4 if algorithm == "gspo" else 0.2)
    assert config.algorithm.scale_by_deviation == (algorithm in ("grpo", "gspo"))


@pytest.mark.parametrize("algorithm", ["ppo", *ALGORITHMS[:-1]])
def test_an_algorithm_composes_with_the_papers_settings(algorithm: str) -> None:
    config = configure(f"algorithm={algorithm}", "ppo=paper")
    assert config.algorithm.name == algorithm
    assert (config.ppo.repeat_micro_batch, config.lora.dtype) == (True, "bfloat16")


def test_the_papers_settings_compose_with_text() -> None:
    config = configured(f"{TEXT} ppo=paper reward=adapter")
    assert (config.ppo.repeat_micro_batch, config.value.init, config.rollout.batch_size) == (True, "backbone", 256)
    assert (config.rollout.max_response_tokens, config.evaluation.prompts) == (96, 805)


@pytest.mark.parametrize(
    ("overrides", "dropout"),
    [("", 0.1), ("lora.dropout=0.3", 0.3), ("lora=attention", 0.1), (TEXT, 0.1), ("ppo=paper", 0.1)],
)
def test_dropout_only_turns_dropout_on_and_the_command_line_wins(overrides: str, dropout: float) -> None:
    config = configured(f"regularizer=dropout_only {overrides}")
    assert (config.regularizer.name, config.regularizer.coef) == ("dropout_only", 0.0)
    assert (config.ppo.dropout, config.lora.dropout) == (True, dropout)


def test_a_penalty_of_ones_own_takes_keywords_from_the_command_line() -> None:
    function = configured(f"{CUSTOM} +regularizer.function.alpha=2.5").regularizer.function
    assert function == {"_target_": "torch.sub", "alpha": 2.5}


@pytest.mark.parametrize("overrides", ["", "tracker=tensorboard", "tracker=wandb", TEXT, LLM, SCORED])
def test_a_saved_configuration_is_read_back(tmp_path: Path, overrides: str) -> None:
    config = configured(overrides)
    OmegaConf.save(OmegaConf.structured(config), tmp_path / "config.yaml")
    assert from_saved(read_settings(tmp_path)) == config


# ---- Keys: all of them are read, and explained. -------------------------------------------------------------------


def test_every_key_is_read() -> None:
    """By attribute, or by name where keys are gathered in a tuple of strings; the checks in config/ don't count."""
    read = set()
    for path in (ROOT / "rlhf").rglob("*.py"):
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    assert {key for key in DEFAULTS if key.split(".")[-1] not in read} == set()


CONFIGS = [path for path in sorted((ROOT / "rlhf/config").rglob("*.py")) if "@dataclass" in path.read_text()]


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "launcher"], ids=lambda path: path.stem)
def test_every_key_is_explained(path: Path) -> None:
    """By a comment on its line or on the one before; names of options and whole sections need none. The launchers'
    keys are explained in conf/hydra/launcher/."""
    lines = path.read_text().splitlines()
    classes = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.ClassDef)]
    keys = [node for each in classes if each.decorator_list for node in each.body if isinstance(node, ast.AnnAssign)]
    silent = []
    for node in keys:
        named = ast.unparse(node.target) == "name" or "Config" in ast.unparse(node.annotation)
        explained = "#" in lines[(node.end_lineno or 0) - 1][node.end_col_offset :]
        if not (named or explained or lines[node.lineno - 2].strip().startswith("#")):
            silent.append(ast.unparse(node.target))
    assert silent == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import rlhf", ("torch", "transformers", "peft", "numpy", "hydra", "omegaconf")),
        ("import rlhf, rlhf.run; rlhf.load_config()", ("torch", "transformers", "peft", "numpy")),
    ],
)
def test_importing_and_composing_need_no_torch(code: str, absent: tuple[str, ...]) -> None:
    code += f"; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- What is refused. ---------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, ...]] = {
    "device": ("device=tpu",),
    "device_memory": ("device_memory=0",),
    "checkpoint_seconds": ("checkpoint_seconds=-1",),
    "distributed.name": ("distributed.name=horovod",),
    "distributed.processes": ("distributed.processes=0",),
    "data.people": ("data.people=75",),  # 75 are held out
    "data.annotator": ("data.annotator=strict",),
    "data.annotator_flips": ("data.annotator_flips=1.5",),
    "data.annotator_temperature": ("data.annotator_temperature=nan",),
    "data.undocumented": ("data.undocumented=1.1",),
    "data.root": ("data=alpaca_farm",),
    "data.evaluation, data.instructions, data.preferences, data.root": ("data=text",),
    "data.name": (f"{TEXT} data.name=world",),
    "data.template": (f"{TEXT} data.template=vicuna", "data=chat"),  # a model from scratch has no template
    "data.limit": (f"{TEXT} data.limit=0",),
    "data.judge_fraction": (f"{TEXT} data.judge_fraction=1.0",),
    "data.sft_fraction": (
        f"{TEXT} data.sft_fraction=nan",
        f"{TEXT} data.sft_fraction=0.9",  # and 0.1 for tuning leave none for PPO
        f"{TEXT} data.sft_fraction=null",
        f"{TEXT} data.prompts=a.json",
    ),
    "data.tune_fraction": (f"{TEXT} data.validation=a.json",),
    "model.dtype": (
        "model.dtype=float16",
        "model.dtype=mixed model.quantization=8bit",
        "model.dtype=mixed lora=full",
        "model.dtype=mixed distributed=fsdp",
        "model.dtype=bfloat16 lora=full",
        "model.dtype=bfloat16 lora.dora=true",
    ),
    "model.attention": ("model.attention=flash", "model.attention=flash_attention_2"),  # which is for 16 bits
    "model.quantization": (
        "model.quantization=2bit",
        "model.quantization=4bit lora=full",
        "model.quantization=4bit reward=full",
        "model.quantization=4bit distributed=fsdp model.path=/models/llama sft.epochs=0",
        "model.quantization=8bit pretrain.steps=0 sft.epochs=0",  # random weights
    ),
    "model.hidden_size": ("model.hidden_size=100",),
    "model.threads": ("model.threads=0",),
    "model.context": ("model.context=127", "evaluation.max_response_tokens=169"),  # with 24 of the prompt, 193 of 192
    "model.path": ("distributed=fsdp sft.epochs=0",),
    "lora.r": ("lora.r=0", f"{CUSTOM} +regularizer.function.alpha=2 lora.r=0", "distributed=fsdp lora=full"),
    "lora.alpha": ("lora.alpha=inf",),
    "lora.dropout": (
        "lora.dropout=1.0",
        "regularizer=dropout_only lora=full",
        "regularizer=dropout_only lora.dropout=0",
        "regularizer=dropout_only ppo.dropout=false",
    ),
    "lora.target_modules": ("lora.target_modules=[]",),
    "lora.dtype": ("lora.dtype=float16", "lora.dtype=bfloat16 lora.dora=true"),  # it rounds DoRA's magnitudes
    "pretrain.block_size": ("pretrain.block_size=0",),
    "sft.epochs": ("sft.epochs=-1", "distributed=fsdp"),
    "reward.backbone": ("reward.backbone=lora", "distributed=fsdp reward=full"),
    "reward.path": ("reward.path=/models/x",),
    "reward.logprobs": ("reward.logprobs=policy",),
    "reward.members": ("reward.members=0", "reward=full reward.members=2"),
    "reward.combine": ("reward.combine=max",),
    "reward.score_penalty": ("reward.score_penalty=nan",),
    "reward.holdout": ("reward.holdout=0.0",),
    "reward.lora.r": ("reward.lora.r=null",),
    "rollout.temperature": ("rollout.temperature=0",),
    "rollout.engine": ("rollout.engine=slow",),
    "regularizer.name": ("regularizer.name=renyi",),
    "regularizer.placement": (
        "regularizer.placement=value",
        "regularizer=negative_kl regularizer.placement=loss",
        "regularizer=js regularizer.placement=loss",
        "regularizer=full_js regularizer.placement=reward",
    ),
    "regularizer.coef": (
        "regularizer.coef=-0.1",
        "regularizer.coef=inf",
        "regularizer=none regularizer.schedule=adaptive",
    ),
    "regularizer.strength": (
        "regularizer.strength=-1",
        "regularizer.strength=0 regularizer.schedule=adaptive",
    ),
    "regularizer.end_coef": ("regularizer.end_coef=-1",),
    "regularizer.schedule": (
        "regularizer.schedule=cosine",
        "regularizer=negative_kl regularizer.schedule=adaptive",
        "regularizer=js regularizer.schedule=adaptive",
        "regularizer=kl regularizer.placement=loss regularizer.schedule=adaptive",
    ),
    "regularizer.alpha": tuple(f"regularizer.alpha={alpha}" for alpha in ("0.005", "-0.005", "0.991", "2.1", "nan")),
    "regularizer.function._target_": ("regularizer=custom",),
    "regularizer.function": ("regularizer.name=custom", f"{CUSTOM} regularizer.name=kl"),
    "regularizer.horizon": ("regularizer.horizon=12",),  # five times that are less than the 64 of a rollout
    "value": (
        "value=none",  # PPO needs one
        "algorithm=rloo value=head",
        "algorithm=best_of_n value=adapter",
        "reward=function reward.function._target_=operator.eq",  # which shows no states
    ),
    "value.clip": ("value.clip=0",),
    "value.init": (
        "value.init=nothing",
        "value.init=backbone",
        "value=head value.init=reward",
        "value=head value.init=backbone",
        "value=adapter reward=full",
        "value=adapter value.init=backbone reward=classifier reward.path=x",
    ),
    "ppo.lr": ("ppo.lr=nan",),
    "ppo.lr_full": ("ppo.lr_full=0",),
    "ppo.gamma": ("ppo.gamma=1.01",),
    "ppo.early_stop_kl": ("ppo.early_stop_kl=0",),
    "ppo.lr_schedule": ("ppo.lr_schedule=cosine",),
    "ppo.entropy_coef": ("ppo.entropy_coef=-0.1",),
    "ppo.average": ("ppo.average=batch",),
    "ppo.step_batch_size": ("ppo.step_batch_size=24",),  # of 64
    "ppo.micro_batch_size": ("ppo.micro_batch_size=5", "ppo.micro_batch_size=null ppo.repeat_micro_batch=true"),
    "algorithm.name": ("algorithm.name=dpo",),
    "algorithm.samples_per_prompt": (
        "algorithm.samples_per_prompt=0",
        "algorithm.samples_per_prompt=5",
        "algorithm=rloo algorithm.samples_per_prompt=5",
        "algorithm=rloo algorithm.samples_per_prompt=1",
        "algorithm=grpo algorithm.samples_per_prompt=1",
        "algorithm=dr_grpo algorithm.samples_per_prompt=1",
        "algorithm=gspo algorithm.samples_per_prompt=1",
    ),
    "evaluation.split": ("evaluation.split=train",),
    "evaluation.prompts": ("evaluation.prompts=1",),
    "evaluation.interim_prompts": ("evaluation.interim_prompts=1",),
    "evaluation.best_of": (
        "evaluation.best_of=0",
        "evaluation.best_of=2 evaluation.temperature=0",
        "algorithm=best_of_n evaluation.best_of=1",
    ),
    "evaluation.temperature": ("evaluation.temperature=-1",),
    "evaluation.max_response_tokens": ("evaluation.max_response_tokens=0",),
    "evaluation.control_temperatures": tuple(
        f"evaluation.control_temperatures=[{bad}]" for bad in ("0.7,0", "-0.5", "nan", "inf", "0.5,0.7,0.5")
    ),
    "checks.min_factuality": ("checks.min_factuality=101",),
    "checks.min_accuracy": ("checks.min_accuracy=nan",),
    "judge": (
        "judge=llm judge.model=gpt",  # the world has an oracle
        "judge=reward_model",
        f"{TEXT} judge=oracle",
        f"{TEXT} judge=annotations judge.file=/x",
    ),
    "judge.model": (f"{TEXT} judge=llm", f"{LLM} judge.model=''"),
    "judge.base_url": (
        *(f"{LLM} judge.base_url=localhost:8000", f"{LLM} judge.base_url='http://me:secret@host/v1'"),
        f"{LLM} judge.base_url='http://[foo'",
    ),
    "judge.parameters.api_key": (f"{LLM} +judge.parameters.api_key=secret",),  # it would be saved
    "judge.style": (f"{LLM} judge.style=words",),
    "judge.order": (f"{LLM} judge.order=random",),
    "judge.labels": (f"{LLM} judge.labels=[m]", f"{LLM} judge.labels=[m,m]"),
    "judge.concurrency": (f"{LLM} judge.concurrency=0",),
    "judge.timeout": (f"{LLM} judge.timeout=0",),
    "judge.retries": (f"{LLM} judge.retries=-1",),
    "judge.temperature": (f"{LLM} judge.temperature=-1",),
    "judge.max_tokens": (f"{LLM} judge.max_tokens=0",),
    "judge.input_price": (f"{LLM} judge.input_price=-1",),
    "judge.max_cost": (
        f"{LLM} judge.max_cost=5",  # without prices
        f"{PRICED} judge.max_cost=5 judge.max_tokens=null",
        f"{PRICED} judge.max_cost=0",
    ),
    "factuality": (f"factuality=factscore {FACTS}", f"{TEXT} factuality=world"),
    "factuality.passages": (f"{SCORED} factuality.passages=0",),
    "factuality.passage_words": (f"{SCORED} factuality.passage_words=0",),
    "factuality.prompts": (f"{SCORED} factuality.prompts=1",),
    "factuality.penalty_facts": (f"{SCORED} factuality.penalty_facts=-1",),
    "factuality.concurrency": (f"{SCORED} factuality.concurrency=0",),
    "objective": (
        "objective=winrate",
        "objective=[reward,winrate]",
        "objective=[]",
        "prune=asha objective=[reward,cost]",
    ),
    "evaluation.every": ("prune=asha evaluation.every=0", "prune=median evaluation.every=0"),
    "prune.name": ("prune.name=asha", "prune=asha prune.name=halving"),
    "prune.direction": ("prune=asha prune.direction=up",),
    "prune.first": (
        *("prune=asha prune.first=0", "prune=asha prune.first=40", "prune=asha evaluation.every=50"),
        "prune=asha prune.first=35 evaluation.every=15",
    ),
    "prune.reduction": ("prune=asha prune.reduction=1",),
    "prune.others": ("prune=median prune.others=0",),
    "tracker.patience": ("tracker=wandb tracker.patience=0",),
    "tracker.responses": ("tracker=wandb tracker.responses=-1",),
    "tracker.project": ("tracker=wandb tracker.project=a/b",),
}
"""By the key that the refusal names."""


@pytest.mark.parametrize(("key", "overrides"), [(key, each) for key in REFUSED for each in REFUSED[key]])
def test_what_can_not_be_run_is_refused(key: str, overrides: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}=.* is not allowed: \S") as refused:
        configured(overrides)
    assert "secret" not in str(refused.value)


def test_a_judges_name_of_spaces_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"judge\.model="):
        configure(*TEXT.split(), "judge=llm", "judge.model=' '")


def test_a_judges_settings_need_a_judge() -> None:
    with pytest.raises(ConfigError, match=r"judge\.model=gpt is not allowed: choose one first, judge=NAME"):
        compose_evaluation(["judge.model=gpt", "factuality=factscore"])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("modle=3", "modle is not allowed: there is no such key; did you mean model?"),
        ("lora.rank=8", "lora.rank is not allowed: there is no such key"),
        ("lora.lora.r=8", "lora.lora.r is not allowed"),
        ("regularizer.coeff=0.2", "did you mean regularizer.coef?"),
        ("regularisation=kl", "regularisation"),
        ("data.root=/data", "data.root is not allowed"),  # a key of the other kind of data
        ("ppo.steps=many", "ppo.steps=many"),
        ("ppo.steps=1.5", "ppo.steps=1.5"),
        ("ppo.lr=fast", "ppo.lr=fast"),
        ("ppo.dropout=maybe", "ppo.dropout=maybe"),
        ("ppo.steps=null", "ppo.steps=null"),
        ("reward.members=1.5", "reward.members=1.5"),
        ("reward.resample=maybe", "reward.resample=maybe"),
        ("evaluation.control_temperatures=0.7", "evaluation.control_temperatures=0.7"),
        ("lora.target_modules=q_proj", "lora.target_modules=q_proj"),
        ("lora.r", "lora.r is no override: write KEY=VALUE"),
        # what Hydra's grammar takes in quotes alone
        ("lora.path=runs/lora.r=8,seed=1/policy", """ 'lora.path="runs/lora.r=8,seed=1/policy"'"""),
        (
            "cache_dir=~/cache",
            """cache_dir=~/cache is not allowed; a value with = , ~ # or such is quoted: 'cache_dir=""",
        ),
        ("cache_dir=/data/päirs", """ 'cache_dir="/data/päirs"'"""),
        ("ppo.lr=${nowhere}", "ppo.lr is not allowed: Interpolation key 'nowhere' not found"),
        ("cache_dir=", "cache_dir= is not allowed: it is empty"),
        ("cache_dir=' '", "cache_dir=  is not allowed: it is empty"),
        ("regularizer=jensen", "regularizer/jensen"),
        ("regularizer=jensen", "\tbregman\n\tclamped_kl\n\tcustom\n"),  # those that there are
        ("experiment=smok", "\tsmoke\n"),
        # keys that Hydra would add
        ("+regularizer.coeff=5", "regularizer.coeff=5 is not allowed: there is no such key; did you mean"),
        ("+ppo.zzz=1", "choose one of ppo.steps, ppo.epochs"),
        ("+data.peopel=3", "did you mean data.people?"),
        ("+judge.modle=3", "did you mean judge.model?"),
        ("+typo=1", "choose one of name, seed, cache_dir"),
        ("+nothing.like.this=1", "choose one of name, seed, cache_dir"),
    ],
)
def test_unknown_keys_types_and_options_are_refused(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose_checked("config", [override])
    assert named in str(refused.value)


def test_a_key_of_another_option_names_those_that_have_it() -> None:
    told = r"tracker.project is not allowed: the tracker that is chosen has no project, as tracker=wandb, "
    with pytest.raises(ConfigError, match=told):
        compose_checked("config", ["tracker=none", "tracker.project=x"])


@pytest.mark.parametrize(
    "overrides",
    [
        "model.context=128",  # a pretraining block, exactly
        "model.context=1 model.path=/models/llama",  # a trained model has its own
        "value=adapter reward=full value.init=zero",
        "ppo.steps=0 sft.epochs=0 evaluation.every=0 ppo.warmup_steps=0",
        "data.people=76",
        "data.undocumented=1",
        "data.annotator=gentle",
        "data.annotator=harsh",
        "reward.logprobs=own",
        "reward.logprobs=none value=adapter",
        "reward.members=5 reward.combine=min reward.resample=true reward.logprobs=own",
        "reward.members=2 reward.combine=mean_minus_std",
        "reward=full reward.members=1 reward.combine=min",
        "evaluation.control_temperatures=[]",
        "evaluation.control_temperatures=[1.5,1,0.01]",
        "evaluation.interim_prompts=2",
        "evaluation.interim_prompts=10000",  # more than there are: all
        "evaluation.interim_prompts=null",
        "evaluation.max_response_tokens=168",  # and 24 of the prompt make 192
        "evaluation.best_of=1 evaluation.temperature=0",
        "regularizer=full_alpha regularizer.alpha=0",
        "regularizer=full_alpha regularizer.alpha=0.01",
        "regularizer=full_alpha regularizer.alpha=2",
        "regularizer.horizon=13",  # five times as much is more than 64
        "regularizer.placement=both regularizer.schedule=adaptive",
        "regularizer=kl regularizer.placement=loss",  # a negative control
        f"{CUSTOM} regularizer.schedule=adaptive",
        "value=adapter value.init=backbone",
        "algorithm.samples_per_prompt=64",
        "regularizer=squared_error regularizer.placement=loss",
        "regularizer=full_kl regularizer.placement=loss",
        f"{PRICED} judge.max_cost=5 judge.max_tokens=null +judge.parameters.max_completion_tokens=9",
        f"{LLM} judge.temperature=null judge.api_key_env=null judge.retries=0 judge.labels=[A,B]",
        f"{SCORED} factuality.prompts=null factuality.penalty_facts=0",
        "ppo.early_stop_kl=0.1 model.threads=null checks.min_factuality=null",
    ],
)
def test_what_lies_at_the_edge_is_allowed(overrides: str) -> None:
    configured(overrides)
