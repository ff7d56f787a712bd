"""Every shipped configuration composes, and what can't be run is refused in words before any work."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf

from rlhf.compose import to_config
from rlhf.config import Config, TextConfig, WorldConfig
from rlhf.errors import ConfigError
from tests.configure import CONF, composed, configure

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name not in ("experiment", "hydra")]
EXPERIMENTS = sorted(CONF.glob("experiment/*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))

TEXT = ("data=alpaca_farm", "data.root=/data")
COMPANIONS = {
    "data=alpaca_farm": ("data.root=/data",),
    "judge=reward_model": TEXT,  # the world is judged by its oracle
    "pretrain=text": ("model=scratch",),
    "rollout=text": ("model=scratch",),  # 256 + 96 tokens, and the world's model has room for 192
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
    search = f"hydra.searchpath=[file://{CONF}]"
    sweep = composed(search, name=path.stem, folder=path.parent, with_hydra=True)
    assert sweep.hydra.mode.name == "MULTIRUN"
    parameters = [f"{key}={values}" for key, values in sweep.hydra.sweeper.params.items()]
    assert parameters
    for parameter in OverridesParser.create().parse_overrides(parameters):
        assert parameter.is_sweep_override()
        for value in parameter.sweep_string_iterator():
            run = composed(search, f"{parameter.key_or_group}={value}", name=path.stem, folder=path.parent)
            assert isinstance(to_config(run), Config)


def test_the_main_job() -> None:
    config = configure("regularizer=js", "lora.r=8")
    assert isinstance(config.data, WorldConfig)
    assert (config.regularizer.name, config.regularizer.coef, config.lora.r) == ("js", 1.5, 8)
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


SOURCES = [path for path in sorted((ROOT / "rlhf").rglob("*.py")) if path.name != "config.py"]


def test_every_key_is_read() -> None:
    """By attribute, or by name where keys are gathered in a tuple of strings; the checks in config.py don't count."""
    read = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    keys = leaves(configure()) | leaves(configure(*TEXT))
    assert {key for key in keys if key.split(".")[-1] not in read} == set()


def test_composing_needs_no_torch() -> None:
    heavy = "('torch', 'transformers', 'peft', 'numpy')"
    code = f"import sys, rlhf.config, rlhf.run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


REFUSED = [
    # out of range: the key, the value, what is allowed
    (["data.people=75"], "data.people=75 is not allowed: must exceed tune_people + eval_people = 75"),
    (["data.annotator_flips=1.5"], "data.annotator_flips=1.5 is not allowed: must lie between 0 and 1"),
    (["data.annotator_temperature=nan"], "data.annotator_temperature=nan is not allowed: must be greater than 0"),
    ([*TEXT, "data.judge_fraction=1.0"], "data.judge_fraction=1.0 is not allowed: must lie between 0 and 1, both"),
    ([*TEXT, "data.sft_fraction=nan"], "data.sft_fraction=nan is not allowed: must lie between 0 and 1, both excluded"),
    (
        [*TEXT, "data.sft_fraction=0.9"],
        "data.sft_fraction=0.9 is not allowed: with tune_fraction it must leave prompts",
    ),
    (["model.dtype=float16"], "model.dtype=float16 is not allowed: choose one of float32, bfloat16"),
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
    (["reward.lora.enabled=false"], "reward.lora.enabled=False is not allowed: choose reward.backbone=full"),
    (["rollout.temperature=0"], "rollout.temperature=0.0 is not allowed: must be greater than 0"),
    (["regularizer.name=renyi"], "regularizer.name=renyi is not allowed: choose one of none, kl, clamped_kl, js,"),
    (["regularizer.coef=-0.1"], "regularizer.coef=-0.1 is not allowed: must be 0 or greater"),
    (["regularizer.coef=inf"], "regularizer.coef=inf is not allowed: must be 0 or greater"),
    (["value.clip=0"], "value.clip=0.0 is not allowed: must be greater than 0"),
    (["value=head", "value.init=reward"], "value.init=reward is not allowed: value=head starts at zero"),
    (["ppo.lr=nan"], "ppo.lr=nan is not allowed: must be greater than 0"),
    (["ppo.gamma=1.01"], "ppo.gamma=1.01 is not allowed: must lie between 0 and 1"),
    (["ppo.early_stop_kl=0"], "ppo.early_stop_kl=0.0 is not allowed: must be greater than 0"),
    (["ppo.lr_schedule=cosine"], "ppo.lr_schedule=cosine is not allowed: choose one of constant, linear"),
    (["evaluation.prompts=1"], "evaluation.prompts=1 is not allowed: must be 2 or more"),
    (["evaluation.split=train"], "evaluation.split=train is not allowed: choose one of eval, tune"),
    (["checks.min_factuality=101"], "checks.min_factuality=101.0 is not allowed: must be a percentage, or null"),
    (["checks.min_accuracy=nan"], "checks.min_accuracy=nan is not allowed: must lie between 0 and 1"),
    (["device=tpu"], "device=tpu is not allowed: choose one of auto, cpu, cuda"),
    # what two groups must agree on
    (
        ["value=adapter", "reward=full"],
        "value.init=reward is not allowed: the value adapter copies the reward adapter: use reward=",
    ),
    (["ppo.step_batch_size=24"], "ppo.step_batch_size=24 is not allowed: must divide rollout.batch_size=64"),
    (["ppo.micro_batch_size=5"], "ppo.micro_batch_size=5 is not allowed: must divide ppo.step_batch_size=32"),
    ([*TEXT, "judge=oracle"], "judge=oracle is not allowed: only data=world has an oracle; use judge=reward_model"),
    ([*TEXT, "factuality=world"], "factuality=world is not allowed: only data=world has facts"),
    (["judge=reward_model"], "judge=reward_model is not allowed: data=world is judged by its oracle; use judge=oracle"),
    (["model.context=127"], "model.context=127 is not allowed: prompt and response, or pretraining, need 128"),
    # not given
    (["data=alpaca_farm"], "data.root=??? is not allowed: has no default; set it"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_can_not_be_run_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configure(*overrides)
    assert str(refused.value).startswith(message)


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
        ["ppo.early_stop_kl=0.1", "model.threads=null", "checks.min_factuality=null"],
    ],
    ids=" ".join,
)
def test_what_lies_at_the_edge_is_allowed(overrides: list[str]) -> None:
    configure(*overrides)


@pytest.mark.parametrize("group", sorted({path.parent.name for path in OPTIONS}))
def test_every_key_is_explained(group: str) -> None:
    """By a comment on its line in at least one file of its group; a group of one key, by its files' first lines."""
    lines = [line for path in OPTIONS if path.parent.name == group for line in path.read_text().splitlines()]
    settings = [match for line in lines if (match := re.match(r" *(\w+):(?: [^#]*)?(#.+)?$", line))]
    keys = {match[1] for match in settings} - {"defaults", group}
    explained = {match[1] for match in settings if match[2]}
    assert keys
    assert keys - explained <= ({"name"} if len(keys) > 1 else keys)


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        (
            "+regularizer.coeff=5",
            "regularizer.coeff=5 is not allowed: there is no such key; did you mean regularizer.coef?",
        ),
        ("+ppo.zzz=1", "choose one of ppo.steps, ppo.epochs"),
        ("+data.peopel=3", "did you mean data.people?"),
        ("+typo=1", "choose one of seed, cache_dir"),
        ("+nothing.like.this=1", "choose one of seed, cache_dir"),
    ],
)
def test_keys_that_hydra_would_add_are_refused(override: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(override)
    assert allowed in str(caught.value)
