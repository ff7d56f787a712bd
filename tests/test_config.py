"""Every shipped configuration composes, and what can't be run is refused in words before any work."""

import ast
import re
import subprocess
import sys
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf

from rlhf.compose import compose_checked, compose_evaluation, to_config
from rlhf.config.data import TextConfig, WorldConfig
from rlhf.config.endpoint import EndpointConfig
from rlhf.config.run import Config
from rlhf.errors import ConfigError
from tests.configure import CONF, composed, configure

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name not in ("experiment", "hydra")]
AFTERWARDS = CONF / "judge" / "annotations.yaml"
"""Judges outputs that are there already; no option of a run."""
EXPERIMENTS = sorted(CONF.glob("experiment/*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))

TEXT = ("data=alpaca_farm", "data.root=/data")
FACTS = ("factuality.model=gpt", "factuality.knowledge=/data/knowledge.jsonl")
OWN_TEXTS = (
    "data.root=null",
    "data.instructions=a.json",
    "data.preferences=b.jsonl",
    "data.evaluation=hub:owner/name:test",
)
CUSTOM = ("regularizer=custom", "regularizer.function._target_=torch.sub")
COMPANIONS = {
    "data=alpaca_farm": ("data.root=/data",),
    "data=chat": ("model.path=/models/llama",),  # it has the template
    "distributed=fsdp": ("model.path=/models/llama", "sft.epochs=0"),
    "data=text": OWN_TEXTS,
    "factuality=factscore": (*TEXT, *FACTS),  # the world counts its facts itself
    "judge=llm": (*TEXT, "judge.model=gpt"),
    "judge=llm_ranking": (*TEXT, "judge.model=gpt"),
    "judge=reward_model": TEXT,  # the world is judged by its oracle
    "model=alpaca_farm_sft10k": ("model.path=/models/sft10k",),
    "pretrain=text": ("model=scratch",),
    "regularizer=custom": CUSTOM[1:],
    "reward=alpaca_farm": ("reward.path=/models/reward-model-sim", "value=head"),
    "reward=classifier": ("reward.path=/models/classifier", "value=head"),
    "reward=function": ("reward.function._target_=operator.eq", "value=head"),
    "rollout=text": ("model=scratch",),  # 256 + 96 tokens, and the world's model has room for 192
    "rollout=paper": ("model.path=/models/llama",),  # 192 + 300
    "value=none": ("algorithm=rloo",),
}
"""What an option needs beside it."""


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, of a configuration or of nested dicts."""
    plain = values if isinstance(values, dict) else OmegaConf.to_container(OmegaConf.structured(values))
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def own_values(path: Path) -> dict[str, Any]:
    """What a file of conf/ sets itself, by its full key, interpolations and `???` left out."""
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    values.pop("defaults", None)
    is_global = path.read_text().startswith("# @package _global_")
    flat = leaves(values if is_global else {path.parent.name: values})
    return {key: value for key, value in flat.items() if value != "???" and "${" not in str(value)}


def option(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_every_option_composes_to_what_its_file_says(path: Path) -> None:
    if path == AFTERWARDS:
        config = compose_evaluation([option(path), "judge.file=/data/annotations.json"])
    else:
        config = configure(option(path), *COMPANIONS.get(option(path), ()))
    arrived = leaves(config)
    wanted = own_values(path)
    assert wanted
    assert {key: arrived[key] for key in wanted} == wanted


@pytest.mark.parametrize("path", EXPERIMENTS, ids=option)
def test_every_experiment_composes_to_what_its_file_says(path: Path) -> None:
    arrived = leaves(configure(option(path), *(["data.root=/data"] if "text" in path.stem else [])))
    wanted = own_values(path)
    assert {key: arrived[key] for key in wanted} == wanted


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_run_of_a_sweep_composes(path: Path) -> None:
    """Each value that is swept over, beside what the sweep sets for all its runs."""
    search = f"hydra.searchpath=[file://{CONF}]"
    sweep = composed(search, name=path.stem, folder=path.parent, with_hydra=True)
    assert sweep.hydra.mode.name == "MULTIRUN"
    parameters = [f"{key}={values}" for key, values in sweep.hydra.sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides(parameters)
    fixed = [text for text, each in zip(parameters, parsed, strict=True) if not each.is_sweep_override()]
    swept = [each for each in parsed if each.is_sweep_override()]
    assert swept
    for parameter in swept:
        for value in parameter.sweep_string_iterator():
            overrides = (search, *fixed, f"{parameter.key_or_group}={value}")
            assert isinstance(to_config(composed(*overrides, name=path.stem, folder=path.parent)), Config)


def test_the_main_job() -> None:
    config = configure("regularizer=js", "lora.r=8")
    assert isinstance(config.data, WorldConfig)
    coef = OmegaConf.load(CONF / "regularizer" / "js.yaml").coef
    assert (config.regularizer.name, config.regularizer.coef, config.lora.r) == ("js", coef, 8)
    assert (config.judge.name, config.reward.backbone, config.value.name) == ("oracle", "adapter", "reward_features")


def test_seed_is_also_the_data_seed_unless_that_is_set() -> None:
    assert configure("seed=3").data.seed == 3
    assert configure("seed=3", "data.seed=5").data.seed == 5
    assert configure("seed=3", "data.seed=5").seed == 3


def test_text_chooses_what_suits_it() -> None:
    config = configure(*TEXT)
    assert isinstance(config.data, TextConfig)
    assert config.data.root == "/data"
    assert (config.model.context, config.pretrain.steps, config.sft.batch_size) == (384, 600, 16)
    assert (config.reward.lr, config.rollout.max_prompt_tokens, config.ppo.missing_eos_score) == (3e-4, 256, -1.0)
    assert (config.judge.name, config.factuality.name, config.evaluation.prompts) == ("reward_model", "none", 805)
    assert config.checks.min_factuality is None


def test_the_command_line_wins_over_what_text_chooses() -> None:
    config = configure(*TEXT, "model=world", "pretrain=world", "ppo=world", "rollout=world", "ppo.lr=0.5")
    assert (config.model.hidden_size, config.ppo.steps, config.rollout.batch_size) == (96, 40, 64)
    assert config.ppo.lr == 0.5
    assert (config.judge.name, config.sft.batch_size) == ("reward_model", 16)


def test_the_paper_preset_turns_on_what_the_published_code_does_and_nothing_does_by_default() -> None:
    switches = {
        "ppo.repeat_micro_batch": (False, True),
        "ppo.average": ("tokens", "positions"),
        "ppo.whiten_padding": (False, True),
        "ppo.bootstrap_padding": (False, True),
        "ppo.dropout": (False, True),
        "lora.dtype": ("float32", "bfloat16"),
        "ppo.retokenize": (False, True),
        "value.init": ("reward", "backbone"),
        "evaluation.temperature": (1.0, 0.0),
    }
    default, paper = leaves(configure()), leaves(configure("ppo=paper"))
    assert {key: (default[key], paper[key]) for key in switches} == switches
    # its settings, by arXiv 2309.09055 and its code
    assert (paper["rollout.batch_size"], paper["ppo.step_batch_size"], paper["ppo.epochs"]) == (256, 128, 2)
    assert (paper["ppo.lr"], paper["ppo.warmup_steps"], paper["ppo.adam_eps"]) == (1e-5, 5, 1e-5)
    assert (paper["lora.r"], paper["lora.alpha"], paper["lora.dropout"]) == (8, 64.0, 0.1)
    assert (paper["ppo.lam"], paper["ppo.whiten_rewards"], paper["ppo.missing_eos_score"]) == (0.95, True, None)


@pytest.mark.parametrize(
    "override",
    ["ppo.repeat_micro_batch=false", "ppo.average=tokens", "lora.dtype=float32", "value.init=reward", "lora.dropout=0"],
)
def test_each_of_the_papers_ways_can_be_turned_off_by_itself(override: str) -> None:
    key, _, value = override.partition("=")
    changed, paper = leaves(configure("ppo=paper", override)), leaves(configure("ppo=paper"))
    assert {name for name in paper if paper[name] != changed[name]} == {key}
    assert str(changed[key]).lower() in (value, f"{value}.0")


ALGORITHMS = ("reinforce", "rloo", "grpo", "best_of_n")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", [(), TEXT], ids=["world", "text"])
def test_an_algorithm_without_a_value_composes_with_either_data(algorithm: str, data: tuple[str, ...]) -> None:
    config = configure(f"algorithm={algorithm}", *data)
    assert (config.algorithm.name, config.value.name, config.value.init) == (algorithm, "none", "zero")
    assert config.evaluation.best_of == (16 if algorithm == "best_of_n" else 1)
    assert config.algorithm.samples_per_prompt == (4 if algorithm in ("rloo", "grpo") else 1)
    assert (config.ppo.average == "responses") == (algorithm == "grpo")
    assert config.algorithm.scale_by_deviation == (algorithm == "grpo")


@pytest.mark.parametrize("algorithm", ["ppo", *ALGORITHMS[:3]])
def test_an_algorithm_composes_with_the_papers_settings(algorithm: str) -> None:
    config = configure(f"algorithm={algorithm}", "ppo=paper")
    assert config.algorithm.name == algorithm
    assert (config.ppo.repeat_micro_batch, config.lora.dtype) == (True, "bfloat16")


def test_the_papers_settings_compose_with_text() -> None:
    config = configure(*TEXT, "ppo=paper", "reward=adapter")
    assert (config.ppo.repeat_micro_batch, config.value.init, config.rollout.batch_size) == (True, "backbone", 256)
    assert (config.rollout.max_response_tokens, config.evaluation.prompts) == (96, 805)


@pytest.mark.parametrize(
    ("overrides", "dropout"),
    [
        ((), 0.1),
        (("lora.dropout=0.3",), 0.3),
        (("lora=attention",), 0.1),
        (TEXT, 0.1),
        (("ppo=paper",), 0.1),
    ],
)
def test_dropout_only_turns_dropout_on_and_the_command_line_wins(overrides: tuple[str, ...], dropout: float) -> None:
    config = configure("regularizer=dropout_only", *overrides)
    assert (config.regularizer.name, config.regularizer.coef) == ("dropout_only", 0.0)
    assert (config.ppo.dropout, config.lora.dropout) == (True, dropout)


def test_a_penalty_of_ones_own_takes_keywords_from_the_command_line() -> None:
    function = configure(*CUSTOM, "+regularizer.function.alpha=2.5").regularizer.function
    assert function == {"_target_": "torch.sub", "alpha": 2.5}


SOURCES = [path for path in sorted((ROOT / "rlhf").rglob("*.py")) if path.parent.name != "config"]


def test_every_key_is_read() -> None:
    """By attribute, or by name where keys are gathered in a tuple of strings; the checks in config/ don't count."""
    read = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    asked = configure(*TEXT, "judge=llm", "judge.model=gpt", "factuality=factscore", *FACTS)
    looked_up = compose_evaluation(["judge=annotations", "judge.file=/data/annotations.json"])
    keys = leaves(configure()) | leaves(configure(*TEXT)) | leaves(asked) | leaves(looked_up)
    assert {key for key in keys if key.split(".")[-1] not in read} == set()


@pytest.mark.parametrize(
    ("override", "told"),
    [("modle=3", "modle is not allowed: there is no such key; did you mean model"), ("model.layers=x", "Value 'x'")],
)
def test_what_hydra_refuses_is_an_error_of_the_configuration(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compose_checked("config", [override])


def test_a_judges_settings_need_a_judge() -> None:
    with pytest.raises(ConfigError, match=r"judge\.model=gpt is not allowed: choose one first, judge=NAME"):
        compose_evaluation(["judge.model=gpt", "factuality=factscore"])


def test_composing_needs_no_torch() -> None:
    heavy = "('torch', 'transformers', 'peft', 'numpy')"
    code = f"import sys, rlhf.config.run, rlhf.run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LLM = (*TEXT, "judge=llm", "judge.model=gpt")
PRICES = ("judge.input_price=1", "judge.output_price=2")
SCORED = (*TEXT, "factuality=factscore", *FACTS)

REFUSED = [
    (["distributed.name=horovod"], "distributed.name=horovod is not allowed: choose one of ddp, fsdp"),
    (["distributed.processes=0"], "distributed.processes=0 is not allowed: must be greater than 0"),
    (["checkpoint_seconds=-1"], "checkpoint_seconds=-1.0 is not allowed: must be 0 or greater"),
    (["distributed=fsdp", "lora=full"], "lora.r=None is not allowed: distributed=fsdp divides a frozen base: use LoRA"),
    (
        ["distributed=fsdp", "reward=full"],
        "reward.backbone=full is not allowed: distributed=fsdp divides a frozen base",
    ),
    (["distributed=fsdp"], "sft.epochs=2 is not allowed: distributed=fsdp divides a frozen base: use model.path"),
    (["distributed=fsdp", "sft.epochs=0"], "model.path=None is not allowed: distributed=fsdp divides a frozen base"),
    # out of range: the key, the value, what is allowed
    (["data.people=75"], "data.people=75 is not allowed: must exceed tune_people + eval_people = 75"),
    (["data.annotator=strict"], "data.annotator=strict is not allowed: choose one of gentle, standard, harsh"),
    (["data.annotator_flips=1.5"], "data.annotator_flips=1.5 is not allowed: must lie between 0 and 1"),
    (["reward.logprobs=policy"], "reward.logprobs=policy is not allowed: choose one of reference, own, none"),
    (["reward.members=0"], "reward.members=0 is not allowed: must be greater than 0"),
    (["reward.combine=max"], "reward.combine=max is not allowed: choose one of mean, min, mean_minus_std"),
    (["reward=full", "reward.members=2"], "reward.members=2 is not allowed: several members are adapters"),
    (["evaluation.control_temperatures=[0.7,0]"], "evaluation.control_temperatures=[0.7, 0.0] is not allowed"),
    (["evaluation.control_temperatures=[-0.5]"], "evaluation.control_temperatures=[-0.5] is not allowed"),
    (["evaluation.control_temperatures=[nan]"], "evaluation.control_temperatures=[nan] is not allowed"),
    (["evaluation.control_temperatures=[inf]"], "evaluation.control_temperatures=[inf] is not allowed"),
    (
        ["evaluation.control_temperatures=[0.5,0.7,0.5]"],
        "evaluation.control_temperatures=[0.5, 0.7, 0.5] is not allowed",
    ),
    (["evaluation.interim_prompts=1"], "evaluation.interim_prompts=1 is not allowed: must be 2 or more, or null"),
    (["data.annotator_temperature=nan"], "data.annotator_temperature=nan is not allowed: must be greater than 0"),
    ([*TEXT, "data.judge_fraction=1.0"], "data.judge_fraction=1.0 is not allowed: must lie between 0 and 1, both"),
    ([*TEXT, "data.sft_fraction=nan"], "data.sft_fraction=nan is not allowed: must lie between 0 and 1, both excluded"),
    (
        [*TEXT, "data.sft_fraction=0.9"],
        "data.sft_fraction=0.9 is not allowed: with tune_fraction it must leave prompts",
    ),
    (["model.dtype=float16"], "model.dtype=float16 is not allowed: choose one of float32, bfloat16, mixed"),
    (["model.attention=flash"], "model.attention=flash is not allowed: choose one of eager, sdpa, flash_attention_2"),
    (
        ["model.attention=flash_attention_2"],
        "model.attention=flash_attention_2 is not allowed: flash_attention_2 computes",
    ),
    (["model.dtype=mixed", "model.quantization=8bit"], "model.dtype=mixed is not allowed: model.quantization says how"),
    (["model.dtype=mixed", "lora=full"], "model.dtype=mixed is not allowed: lora=full and lora.dora need"),
    (["model.dtype=mixed", "distributed=fsdp"], "model.dtype=mixed is not allowed: distributed=fsdp divides a frozen"),
    (["model.quantization=2bit"], "model.quantization=2bit is not allowed: choose one of 8bit, 4bit"),
    (["model.quantization=4bit", "lora=full"], "model.quantization=4bit is not allowed: a base of few bits is frozen"),
    (
        ["model.quantization=4bit", "reward=full"],
        "model.quantization=4bit is not allowed: a base of few bits is frozen",
    ),
    (
        ["model.quantization=8bit", "pretrain.steps=0", "sft.epochs=0"],
        "model.quantization=8bit is not allowed: random weights are made as model.dtype says",
    ),
    (
        ["reward=function", "reward.function._target_=operator.eq"],
        "value=reward_features is not allowed: reward=function shows no states; use value=head",
    ),
    (["reward.path=/models/x"], "reward.path=/models/x is not allowed: reward=classifier and reward=alpaca_farm need"),
    (["model.hidden_size=100"], "model.hidden_size=100 is not allowed: must be a multiple of 2 x model.heads = 8"),
    (["model.threads=0"], "model.threads=0 is not allowed: must be greater than 0"),
    (["lora.r=0"], "lora.r=0 is not allowed: must be greater than 0"),
    (["lora.alpha=inf"], "lora.alpha=inf is not allowed: must be greater than 0"),
    (["lora.dropout=1.0"], "lora.dropout=1.0 is not allowed: must lie in [0, 1)"),
    (["lora.target_modules=[]"], "lora.target_modules=[] is not allowed: name at least one module"),
    (["pretrain.block_size=0"], "pretrain.block_size=0 is not allowed: must be greater than 0"),
    (["sft.epochs=-1"], "sft.epochs=-1 is not allowed: must be 0 or greater"),
    (["reward.backbone=lora"], "reward.backbone=lora is not allowed: choose one of adapter, full"),
    (["reward.score_penalty=nan"], "reward.score_penalty=nan is not allowed: must be 0 or greater"),
    (["reward.holdout=0.0"], "reward.holdout=0.0 is not allowed: must lie between 0 and 1, both excluded"),
    (["reward.lora.r=null"], "reward.lora.r=None is not allowed: choose reward.backbone=full"),
    (["lora.dtype=float16"], "lora.dtype=float16 is not allowed: choose one of float32, bfloat16"),
    (["rollout.temperature=0"], "rollout.temperature=0.0 is not allowed: must be greater than 0"),
    (["regularizer.name=renyi"], "regularizer.name=renyi is not allowed: choose one of none, dropout_only, kl, "),
    (["regularizer.placement=value"], "regularizer.placement=value is not allowed: choose one of reward, loss, both"),
    (
        ["regularizer=negative_kl", "regularizer.placement=loss"],
        "regularizer.placement=loss is not allowed: of negative_kl, its expected gradient there is 0",
    ),
    (
        ["regularizer=js", "regularizer.placement=loss"],
        "regularizer.placement=loss is not allowed: of js, its gradient there follows no divergence; use both",
    ),
    (
        ["regularizer=full_js", "regularizer.placement=reward"],
        "regularizer.placement=reward is not allowed: full_js is the same for all actions in a state",
    ),
    (["regularizer.strength=-1"], "regularizer.strength=-1.0 is not allowed: must be 0 or greater"),
    (["regularizer.end_coef=-1"], "regularizer.end_coef=-1.0 is not allowed: must be 0 or greater"),
    (["regularizer.schedule=cosine"], "regularizer.schedule=cosine is not allowed: choose one of constant, linear,"),
    (
        ["regularizer=none", "regularizer.schedule=adaptive"],
        "regularizer.coef=0.0 is not allowed: schedule=adaptive scales it: start above 0",
    ),
    (
        ["regularizer.strength=0", "regularizer.schedule=adaptive"],
        "regularizer.strength=0.0 is not allowed: schedule=adaptive scales it: not 0",
    ),
    (
        ["regularizer=negative_kl", "regularizer.schedule=adaptive"],
        "regularizer.schedule=adaptive is not allowed: of negative_kl, more weight means more divergence",
    ),
    (
        ["regularizer=js", "regularizer.schedule=adaptive"],
        "regularizer.schedule=adaptive is not allowed: of js with regularizer.placement=reward, it leaves out the",
    ),
    (
        ["regularizer=kl", "regularizer.placement=loss", "regularizer.schedule=adaptive"],
        "regularizer.schedule=adaptive is not allowed: of kl with regularizer.placement=loss, it leaves out how the",
    ),
    (["regularizer.alpha=0.005"], "regularizer.alpha=0.005 is not allowed: must lie between 0 and 2, and be 0 or 1"),
    (["regularizer.alpha=-0.005"], "regularizer.alpha=-0.005 is not allowed: must lie between 0 and 2, and be 0 or 1"),
    (["regularizer.alpha=0.991"], "regularizer.alpha=0.991 is not allowed: must lie between 0 and 2, and be 0 or 1"),
    (["regularizer.alpha=2.1"], "regularizer.alpha=2.1 is not allowed: must lie between 0 and 2, and be 0 or 1"),
    (["regularizer.alpha=nan"], "regularizer.alpha=nan is not allowed: must lie between 0 and 2, and be 0 or 1"),
    (["regularizer=custom"], "regularizer.function._target_=??? is not allowed: has no default; set it"),
    (["regularizer.name=custom"], "regularizer.function=None is not allowed: regularizer=custom needs a _target_"),
    (
        [*CUSTOM, "regularizer.name=kl"],
        "regularizer.function={'_target_': 'torch.sub'} is not allowed: regularizer=custom needs a _target_",
    ),
    (["regularizer.horizon=12"], "regularizer.horizon=12 is not allowed: must exceed rollout.batch_size / 5 = 12.8"),
    (["regularizer.coef=-0.1"], "regularizer.coef=-0.1 is not allowed: must be 0 or greater"),
    (["regularizer.coef=inf"], "regularizer.coef=inf is not allowed: must be 0 or greater"),
    (["value.clip=0"], "value.clip=0.0 is not allowed: must be greater than 0"),
    (["value=head", "value.init=reward"], "value.init=reward is not allowed: value=head starts at zero"),
    (["ppo.lr=nan"], "ppo.lr=nan is not allowed: must be greater than 0"),
    (["ppo.gamma=1.01"], "ppo.gamma=1.01 is not allowed: must lie between 0 and 1"),
    (["ppo.early_stop_kl=0"], "ppo.early_stop_kl=0.0 is not allowed: must be greater than 0"),
    (["ppo.lr_schedule=cosine"], "ppo.lr_schedule=cosine is not allowed: choose one of constant, linear"),
    (["ppo.entropy_coef=-0.1"], "ppo.entropy_coef=-0.1 is not allowed: must be 0 or greater"),
    (["ppo.average=batch"], "ppo.average=batch is not allowed: choose one of tokens, responses, positions"),
    (["ppo.lr_full=0"], "ppo.lr_full=0.0 is not allowed: must be greater than 0"),
    (["algorithm.name=dpo"], "algorithm.name=dpo is not allowed: choose one of ppo, reinforce, rloo, grpo, best_of_n"),
    (["algorithm.samples_per_prompt=0"], "algorithm.samples_per_prompt=0 is not allowed: must be greater than 0"),
    (
        ["algorithm=rloo", "algorithm.samples_per_prompt=1"],
        "algorithm.samples_per_prompt=1 is not allowed: algorithm=rloo compares the responses to one prompt with each",
    ),
    (
        ["algorithm=grpo", "algorithm.samples_per_prompt=1"],
        "algorithm.samples_per_prompt=1 is not allowed: algorithm=grpo compares the responses to one prompt with each",
    ),
    (["data.undocumented=1.1"], "data.undocumented=1.1 is not allowed: must lie between 0 and 1"),
    (["evaluation.best_of=0"], "evaluation.best_of=0 is not allowed: must be greater than 0"),
    (["evaluation.temperature=-1"], "evaluation.temperature=-1.0 is not allowed: must be 0 or greater"),
    (["evaluation.max_response_tokens=0"], "evaluation.max_response_tokens=0 is not allowed: must be greater than 0"),
    (
        ["evaluation.best_of=2", "evaluation.temperature=0"],
        "evaluation.best_of=2 is not allowed: draws at evaluation.temperature=0 are all the same; use 1",
    ),
    (["evaluation.prompts=1"], "evaluation.prompts=1 is not allowed: must be 2 or more"),
    (["evaluation.split=train"], "evaluation.split=train is not allowed: choose one of eval, tune"),
    (["checks.min_factuality=101"], "checks.min_factuality=101.0 is not allowed: must be a percentage, or null"),
    (["checks.min_accuracy=nan"], "checks.min_accuracy=nan is not allowed: must lie between 0 and 1"),
    (["device=tpu"], "device=tpu is not allowed: choose one of auto, cpu, cuda"),
    ([*LLM, "judge.model=' '"], "judge.model=  is not allowed: name a model that the endpoint serves"),
    ([*LLM, "judge.base_url=localhost:8000"], "judge.base_url=localhost:8000 is not allowed: must begin with http://"),
    ([*LLM, "judge.base_url='http://me:pass@host/v1'"], "judge.base_url=(not shown) is not allowed: must begin with"),
    ([*LLM, "+judge.parameters.api_key=sk"], "judge.parameters=(not shown) is not allowed: api_key would be saved"),
    ([*LLM, "judge.style=words"], "judge.style=words is not allowed: choose one of preference, ranking"),
    ([*LLM, "judge.order=random"], "judge.order=random is not allowed: choose one of seeded, both"),
    ([*LLM, "judge.labels=[m]"], "judge.labels=['m'] is not allowed: must be two different names"),
    ([*LLM, "judge.labels=[m,m]"], "judge.labels=['m', 'm'] is not allowed: must be two different names"),
    ([*LLM, "judge.concurrency=0"], "judge.concurrency=0 is not allowed: must be greater than 0"),
    ([*LLM, "judge.timeout=0"], "judge.timeout=0.0 is not allowed: must be greater than 0"),
    ([*LLM, "judge.retries=-1"], "judge.retries=-1 is not allowed: must be 0 or greater"),
    ([*LLM, "judge.temperature=-1"], "judge.temperature=-1.0 is not allowed: must be 0 or greater"),
    ([*LLM, "judge.max_tokens=0"], "judge.max_tokens=0 is not allowed: must be greater than 0"),
    ([*LLM, "judge.input_price=-1"], "judge.input_price=-1.0 is not allowed: must be 0 or greater"),
    ([*LLM, "judge.max_cost=5"], "judge.max_cost=5.0 is not allowed: a limit needs input_price and output_price"),
    (
        [*LLM, *PRICES, "judge.max_cost=5", "judge.max_tokens=null"],
        "judge.max_cost=5.0 is not allowed: a limit needs input_price and output_price, and max_tokens",
    ),
    ([*LLM, *PRICES, "judge.max_cost=0"], "judge.max_cost=0.0 is not allowed: must be greater than 0"),
    ([*TEXT, "judge=llm"], "judge.model=??? is not allowed: has no default; set it"),
    ([*SCORED, "factuality.passages=0"], "factuality.passages=0 is not allowed: must be greater than 0"),
    ([*SCORED, "factuality.passage_words=0"], "factuality.passage_words=0 is not allowed: must be greater than 0"),
    ([*SCORED, "factuality.prompts=1"], "factuality.prompts=1 is not allowed: must be 2 or more, or null for all"),
    ([*SCORED, "factuality.penalty_facts=-1"], "factuality.penalty_facts=-1 is not allowed: must be 0 or greater"),
    ([*SCORED, "factuality.concurrency=0"], "factuality.concurrency=0 is not allowed: must be greater than 0"),
    # what two groups must agree on
    (
        ["judge=llm", "judge.model=gpt"],
        "judge=llm is not allowed: data=world is judged by its oracle; use judge=oracle",
    ),
    (
        ["factuality=factscore", *FACTS],
        "factuality=factscore is not allowed: data=world counts its facts itself; use factuality=world",
    ),
    (
        [*TEXT, "judge=annotations", "judge.file=/x"],
        "judge=annotations is not allowed: judgements made before are not of this run's outputs; use python -m rlhf.e",
    ),
    (
        ["value=adapter", "reward=full"],
        "value.init=reward is not allowed: the value adapter copies the reward adapter: use reward=",
    ),
    (
        ["value.init=backbone"],
        "value.init=backbone is not allowed: backbone copies the reward adapter without its head",
    ),
    (["value=head", "value.init=backbone"], "value.init=backbone is not allowed: value=head starts at zero"),
    (
        ["value=adapter", "value.init=backbone", "reward=full"],
        "value.init=backbone is not allowed: the value adapter copies the reward adapter: use reward=adapter",
    ),
    (["value=none"], "value=none is not allowed: algorithm=ppo needs a value: choose one"),
    (["algorithm=rloo", "value=head"], "value=head is not allowed: algorithm=rloo has none: use value=none"),
    (
        ["algorithm=best_of_n", "value=adapter"],
        "value=adapter is not allowed: algorithm=best_of_n has none: use value=none",
    ),
    (
        ["algorithm=rloo", "algorithm.samples_per_prompt=5"],
        "algorithm.samples_per_prompt=5 is not allowed: must divide rollout.batch_size=64",
    ),
    (["algorithm.samples_per_prompt=5"], "algorithm.samples_per_prompt=5 is not allowed: must divide rollout.batch"),
    (
        ["algorithm=best_of_n", "evaluation.best_of=1"],
        "evaluation.best_of=1 is not allowed: best of how many? 2 or more",
    ),
    (
        ["regularizer=dropout_only", "lora=full"],
        "lora.dropout=0.1 is not allowed: regularizer=dropout_only needs LoRA with lora.dropout above 0, and ppo.",
    ),
    (["regularizer=dropout_only", "lora.dropout=0"], "lora.dropout=0.0 is not allowed: regularizer=dropout_only needs"),
    (
        ["regularizer=dropout_only", "ppo.dropout=false"],
        "lora.dropout=0.1 is not allowed: regularizer=dropout_only needs LoRA with lora.dropout above 0, and ppo.",
    ),
    (
        ["evaluation.max_response_tokens=169"],
        "model.context=192 is not allowed: prompt and response, or pretraining, need 193",
    ),
    (["ppo.step_batch_size=24"], "ppo.step_batch_size=24 is not allowed: must divide rollout.batch_size=64"),
    (["ppo.micro_batch_size=5"], "ppo.micro_batch_size=5 is not allowed: must divide ppo.step_batch_size=32"),
    (["ppo.micro_batch_size=null", "ppo.repeat_micro_batch=true"], "ppo.micro_batch_size=None is not allowed"),
    (["device_memory=0"], "device_memory=0.0 is not allowed: must be greater than 0, or null"),
    (["rollout.engine=slow"], "rollout.engine=slow is not allowed"),
    ([*TEXT, "judge=oracle"], "judge=oracle is not allowed: only data=world has an oracle; use judge=reward_model"),
    ([*TEXT, "factuality=world"], "factuality=world is not allowed: only data=world has facts"),
    (["judge=reward_model"], "judge=reward_model is not allowed: data=world is judged by its oracle; use judge=oracle"),
    (["model.context=127"], "model.context=127 is not allowed: prompt and response, or pretraining, need 128"),
    # not given
    (["data=alpaca_farm"], "data.root=??? is not allowed: has no default; set it"),
    (
        ["data=text"],
        "data.evaluation, data.instructions, data.preferences, data.root=??? is not allowed: has no default; set it",
    ),
    ([*TEXT, "data.template=vicuna"], "data.template=vicuna is not allowed: choose one of alpaca, chat, plain"),
    (["data=chat"], "data.template=chat is not allowed: a model from scratch has no chat template"),
    ([*TEXT, "data.limit=0"], "data.limit=0 is not allowed: must be greater than 0"),
    ([*TEXT, "data.name=world"], "data.name=world is not allowed: must be the name of a file of text in conf/data"),
    ([*TEXT, "data.prompts=a.json"], "data.sft_fraction=0.6 is not allowed: data.prompts is given, so that it must be"),
    (
        [*TEXT, "data.validation=a.json"],
        "data.tune_fraction=0.1 is not allowed: data.validation is given, so that it must be null",
    ),
    (
        [*TEXT, "data.sft_fraction=null"],
        "data.sft_fraction=None is not allowed: must say how instructions are split, or data.prompts",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_can_not_be_run_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(*overrides)
    assert str(refused.value).startswith(message)


def test_weight_decomposed_adapters_in_bfloat16_are_refused() -> None:
    """Their magnitudes are rounded, so that the policy would differ from its reference at once."""
    with pytest.raises(ConfigError, match=r"lora\.dtype=bfloat16 is not allowed"):
        configure("lora.dora=true", "lora.dtype=bfloat16")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("lora.rank=8", ["lora.rank"]),
        ("lora.lora.r=8", ["lora.lora.r"]),
        ("regularizer.coeff=0.2", ["regularizer.coeff"]),
        ("regularisation=kl", ["regularisation"]),
        ("data.root=/data", ["data.root"]),  # a key of the other kind of data
        ("ppo.steps=many", ["ppo.steps=many"]),
        ("ppo.steps=1.5", ["ppo.steps=1.5"]),
        ("ppo.lr=fast", ["ppo.lr=fast"]),
        ("ppo.dropout=maybe", ["ppo.dropout=maybe"]),
        ("ppo.steps=null", ["ppo.steps=null"]),
        ("reward.members=1.5", ["reward.members=1.5"]),
        ("reward.resample=maybe", ["reward.resample=maybe"]),
        ("evaluation.control_temperatures=0.7", ["evaluation.control_temperatures=0.7"]),
        ("lora.target_modules=q_proj", ["lora.target_modules=q_proj"]),
        ("regularizer=jensen", ["regularizer/jensen", "negative_kl", "squared_error"]),
        ("experiment=smok", ["experiment/smok", "smoke"]),
    ],
)
def test_unknown_keys_types_and_options_are_refused(override: str, named: list[str]) -> None:
    with pytest.raises((ConfigCompositionException, MissingConfigException)) as refused:
        configure(override)
    assert [name for name in named if name not in str(refused.value)] == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.context=128"],  # a pretraining block, exactly
        ["model.context=1", "model.path=/models/llama"],  # a trained model has its own
        ["value=adapter", "reward=full", "value.init=zero"],
        ["ppo.steps=0", "sft.epochs=0", "evaluation.every=0", "ppo.warmup_steps=0"],
        ["data.people=76"],
        ["data.undocumented=1"],
        ["data.annotator=gentle"],
        ["data.annotator=harsh"],
        ["reward.logprobs=own"],
        ["reward.logprobs=none", "value=adapter"],
        ["reward.members=5", "reward.combine=min", "reward.resample=true", "reward.logprobs=own"],
        ["reward.members=2", "reward.combine=mean_minus_std"],
        ["reward=full", "reward.members=1", "reward.combine=min"],
        ["evaluation.control_temperatures=[]"],
        ["evaluation.control_temperatures=[1.5,1,0.01]"],
        ["evaluation.interim_prompts=2"],
        ["evaluation.interim_prompts=10000"],  # more than there are: all
        ["evaluation.interim_prompts=null"],
        ["evaluation.max_response_tokens=168"],  # and 24 of the prompt make 192
        ["evaluation.best_of=1", "evaluation.temperature=0"],
        ["regularizer=full_alpha", "regularizer.alpha=0"],
        ["regularizer=full_alpha", "regularizer.alpha=0.01"],
        ["regularizer=full_alpha", "regularizer.alpha=2"],
        ["regularizer.horizon=13"],  # five times as much is more than 64
        ["regularizer.placement=both", "regularizer.schedule=adaptive"],
        ["regularizer=kl", "regularizer.placement=loss"],  # a negative control
        [*CUSTOM, "regularizer.schedule=adaptive"],
        ["value=adapter", "value.init=backbone"],
        ["algorithm.samples_per_prompt=64"],
        ["regularizer=squared_error", "regularizer.placement=loss"],
        ["regularizer=full_kl", "regularizer.placement=loss"],
        [*LLM, *PRICES, "judge.max_cost=5", "judge.max_tokens=null", "+judge.parameters.max_completion_tokens=9"],
        [*LLM, "judge.temperature=null", "judge.api_key_env=null", "judge.retries=0", "judge.labels=[A,B]"],
        [*SCORED, "factuality.prompts=null", "factuality.penalty_facts=0"],
        ["ppo.early_stop_kl=0.1", "model.threads=null", "checks.min_factuality=null"],
    ],
    ids=" ".join,
)
def test_what_lies_at_the_edge_is_allowed(overrides: list[str]) -> None:
    configure(*overrides)


def own_lines(path: Path) -> list[str]:
    """The lines that set keys of the file's own group; of a file that sets others too, those of its section."""
    lines = path.read_text().splitlines()
    if f"{path.parent.name}:" not in lines:
        return lines if "# @package _global_" not in lines else []
    section = lines[lines.index(f"{path.parent.name}:") + 1 :]
    return list(takewhile(lambda line: line.startswith(" "), section))


@pytest.mark.parametrize("group", sorted({path.parent.name for path in OPTIONS}))
def test_every_key_is_explained(group: str) -> None:
    """By a comment on its line in at least one file of its group; a group of one key, by its files' first lines."""
    lines = [line for path in OPTIONS if path.parent.name == group for line in own_lines(path)]
    settings = [match for line in lines if (match := re.match(r" *(\w+):(?: [^#]*)?(#.+)?$", line))]
    keys = {match[1] for match in settings} - {"defaults"}
    explained = {match[1] for match in settings if match[2]}
    assert keys
    assert keys - explained <= ({"name"} if len(keys) > 1 else keys)


def test_every_key_of_an_endpoint_is_explained() -> None:
    """In the one file that judge/llm.yaml and factuality/factscore.yaml take them from."""
    lines = [line for line in (CONF / "endpoint.yaml").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if "#" not in line] == []
    assert [line.partition(":")[0] for line in lines] == [field.name for field in fields(EndpointConfig)]


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        (
            "+regularizer.coeff=5",
            "regularizer.coeff=5 is not allowed: there is no such key; did you mean regularizer.coef?",
        ),
        ("+ppo.zzz=1", "choose one of ppo.steps, ppo.epochs"),
        ("+data.peopel=3", "did you mean data.people?"),
        ("+judge.modle=3", "did you mean judge.model?"),
        ("+typo=1", "choose one of seed, cache_dir"),
        ("+nothing.like.this=1", "choose one of seed, cache_dir"),
    ],
)
def test_keys_that_hydra_would_add_are_refused(override: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(override)
    assert allowed in str(caught.value)
