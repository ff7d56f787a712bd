"""The gate of configurations: what may name code, what may hold a key, what is written of the environment."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.compose import compose_checked, from_saved, load_config
from rlhf.config.evaluation import LlmJudgeConfig
from rlhf.config.gate import as_written, check_tree, refuse_secrets
from rlhf.errors import ConfigError
from rlhf.storage.reader import read_settings
from rlhf.storage.rundir import RunDirectory
from tests.launch.processes import python

VALUE = "q9Zt-hush-hush"
NAMES = ("api_key", "apikey", "X-Api-Key", "Authorization", "authToken", "access_token", "password", "client_secret")
FORMS = (
    "judge.{name}={value}",
    "+judge.parameters.{name}={value}",
    "++judge.parameters.extra_headers.{name}={value}",
    "+judge.parameters.extra_headers={{{name}: {value}}}",
    "+judge.parameters={{a: [{{'{name}': \"{value}\"}}]}}",
    "judge={{name: llm, {name}: {value}}}",
    "judge.base_url=http://{value}@host/v1",
    "judge.base_url=http://me:{value}@host/v1",
    "judge.base_url=https://host/v1?{name}={value}",
    "judge.base_url=http://a/v1,http://host/v1#{value}",
    "judge.api_key_env={value}",
    "judge.api_key_env=OPENAI_API_KEY,sk-{value}",
    "name=sk-{value}",
    "sk-{value}",
    'hydra.launcher.setup=["export {name}={value}"]',
    "+judge.parameters.extra_headers.x='Bearer {value}'",
)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.sampled_from(FORMS), st.sampled_from(NAMES))
def test_an_override_with_a_secret_is_refused_without_it(form: str, name: str) -> None:
    with pytest.raises(ConfigError, match=r"not shown.* is not allowed") as refused:
        refuse_secrets(["seed=1", form.format(name=name, value=VALUE)])
    assert VALUE not in str(refused.value)
    with pytest.raises(ConfigError, match="not allowed"):  # by the library too
        load_config(form.format(name=name, value=VALUE))


def test_ordinary_overrides_pass() -> None:
    overrides = (
        *("judge.api_key_env=OPENAI_API_KEY,null", "judge.max_tokens=5", "model.path=a-b/tiny-random-LlamaForCausalLM"),
        *("cache_dir=/tmp/token=5", "cache_dir=${oc.env:X}", "data.train='hub:a/b:x.jsonl'", "regularizer=js,kl", "-m"),
        *("judge.base_url=http://localhost:8000/v1", 'hydra.launcher.setup=["module load cuda"]', "~judge"),
    )
    refuse_secrets(overrides)


SWEEP = """\
# @package _global_
defaults: [config, _self_]
hydra: {sweeper: {params: {seed: "0,1", +judge.parameters.api_key: VALUE}}}
"""


def test_a_refused_secret_is_printed_and_saved_nowhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nor where a sweep's own file has it."""
    sweeps = tmp_path_factory.mktemp("sweeps")
    (sweeps / "own.yaml").write_text(SWEEP.replace("VALUE", VALUE))
    for more in ([f"+judge.parameters.api_key={VALUE}", "seed=0,1"], ["-cd", str(sweeps), "-cn", "own"]):
        process = python("rlhf.run", "-m", "experiment=smoke", *more, cwd=tmp_path, stdout=-1, stderr=-1)
        said = "".join(process.communicate(timeout=60))
        assert process.returncode == 1
        assert said.startswith("error: judge.parameters.api_key=(not shown) is not allowed")
        assert VALUE not in said
    assert list(tmp_path.iterdir()) == []


CODE: tuple[dict[str, Any], ...] = (
    {"regularizer": {"function": {"_target_": "torch.sub", "other": {"_target_": "torch.load", "f": "x.pt"}}}},
    {"reward": {"function": {"_target_": "operator.eq", "a": [{"b": {"_target_": "pickle.load"}}]}}},
    {"reward": {"function": {"_target_": "operator.eq", "_args_": [1]}}},
    {"reward": {"function": {"_target_": "operator.eq", "_recursive_": True}}},
    {"reward": {"function": {"_target_": {"_target_": "os.system"}}}},
    {"reward": {"function": {"_target_": "no name"}}},
    {"judge": {"parameters": {"x": {"_target_": "os.system"}}}},
    {"model": {"_target_": "os.system"}},
    {"_target_": "os.system"},
)


@pytest.mark.parametrize("tree", CODE, ids=str)
def test_code_is_named_in_two_places_alone(tree: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"_=.* is not allowed|_\.\d=.* is not allowed|_target_=no name"):
        check_tree(tree)


def test_a_run_directory_from_elsewhere_runs_nothing_that_is_nested(tmp_path: Path) -> None:
    made = load_config("experiment=smoke", "regularizer=custom", "regularizer.function._target_=torch.sub")
    RunDirectory(tmp_path / "run").prepare(made)
    path = tmp_path / "run" / "config.yaml"
    nested = f"    other:\n      _target_: os.mkdir\n      path: {tmp_path / 'ran'}\n"
    path.write_text(path.read_text().replace("_target_: torch.sub\n", f"_target_: torch.sub\n{nested}"))
    with pytest.raises(ConfigError, match=r"regularizer\.function\.other\._target_=os\.mkdir is not allowed"):
        RunDirectory(tmp_path / "run").config()
    assert not (tmp_path / "ran").exists()


def test_what_the_environment_gave_is_written_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", f"{tmp_path}/{VALUE}")
    monkeypatch.setenv("SEED", "7")
    asked = (
        "experiment=smoke",
        "cache_dir=${oc.env:PLACE}/cache",
        "model.path=${cache_dir}/base",
        "seed=${oc.env:SEED}",
    )
    config = load_config(*asked)
    RunDirectory(tmp_path / "run").prepare(config)
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert VALUE not in text
    assert "cache_dir: ${oc.env:PLACE}/cache" in text
    assert "seed: 7" in text  # a number is no secret, and is read by others
    again = from_saved(read_settings(tmp_path / "run"))
    assert again == config
    assert as_written(again) == as_written(config)


def test_what_is_made_of_the_environment_is_written_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", f"/data/{VALUE}")
    text = ("data=alpaca_farm", "data.root=/data", "judge=llm", "judge.model=gpt", "factuality=none")
    judge = load_config(*text, "cache_dir=${oc.env:PLACE}", "+judge.parameters.user=${oc.env:PLACE}").judge
    assert isinstance(judge, LlmJudgeConfig)
    assert (judge.cache, judge.parameters) == (f"/data/{VALUE}/answers.sqlite", {"user": f"/data/{VALUE}"})
    written = as_written(judge)
    assert written["parameters"] == {"user": "${oc.env:PLACE}"}


def test_a_directorys_name_does_not_hold_what_the_environment_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf.compose import run_name

    monkeypatch.setenv("PLACE", VALUE)
    overrides = ["cache_dir=${oc.env:PLACE}"]
    assert VALUE not in run_name(overrides)
    assert os.environ["PLACE"] == VALUE
    assert compose_checked("config", overrides).cache_dir == VALUE
