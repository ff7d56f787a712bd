"""`python -m rlhf.chat` on tiny finished runs, and its reading of the world's requests."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from rlhf import chat, choose
from rlhf.chat import load, main, request
from rlhf.config.data import WorldConfig
from rlhf.console import PlainConsole
from rlhf.data.templates import alpaca_prompt
from rlhf.data.world import World
from rlhf.errors import DataError
from rlhf.evaluation.outputs import load_joined
from rlhf.experiment import run
from rlhf.models.sampler import Sampler
from rlhf.report.answer import answer
from rlhf.report.groups import ablation
from rlhf.report.load import load_run
from rlhf.storage.files import read_json, write_json
from rlhf.storage.rundir import RunDirectory
from tests.configure import configure

SMALL = (
    "ppo.keep_every=1",
    "experiment=smoke",
    "device=cpu",
    "ppo.steps=1",
    "ppo.lr=0.1",
    "evaluation.prompts=2",
    "ppo.warmup_steps=0",
)


@pytest.fixture(scope="module", params=["all", "full"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    run(configure(*SMALL, f"lora={request.param}", "ppo.lr_full=0.1", f"cache_dir={folder}/cache"), folder / "run")
    return folder / "run"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(chat, "PlainConsole", lambda **options: PlainConsole(file=file, width=100, **options))
    return file


@pytest.fixture(scope="module")
def world() -> World:
    config = configure("experiment=smoke").data
    assert isinstance(config, WorldConfig)
    return World(config)


def name(world: World) -> str:
    return world.people[0].name


def test_a_kept_policy_is_chosen_evaluated_and_named_in_the_report(finished: Path) -> None:
    found = choose.choose(finished, "tune")
    assert (found["step"], found["split"], found["reported_split"], list(found["tried"])) == (1, "tune", "eval", [1])
    metrics = read_json(finished / "metrics.json")  # the policy after the last step, which is the one that was kept
    assert found["figures"] == {name: metrics[name] for name in found["figures"]}
    kept = finished / "kept" / "step-1"
    assert read_json(kept / "tune" / "metrics.json") != read_json(kept / "eval" / "metrics.json") == found["figures"]
    own = [row["output"] for row in read_json(finished / "outputs.json")]
    assert [row["output"] for row in read_json(kept / "eval" / "outputs.json")] == own
    assert len(load_joined(kept / "tune", None).outputs) == 2  # what rlhf evaluate reads
    said = " ".join(answer(ablation([load_run(finished)])).sentences)
    assert "chosen by its win rate on the split tune: step 1" in said
    with pytest.raises(DataError, match=r"keeps its policies with ppo\.keep_every"):
        choose.kept_steps(kept)


def test_both_models_answer_and_differ_by_what_was_trained(finished: Path) -> None:
    talk = load(finished)
    prompt = talk.prompt("who is he ?")
    assert prompt.text == "<bos> <user> who is he ? <assistant>"
    sft, policy = talk.answers(prompt, 1.0, seed=3, max_tokens=12)
    assert sft != policy
    assert len(policy.token_ids) <= 12
    assert talk.answers(prompt, 1.0, seed=3, max_tokens=12) == [sft, policy]
    assert talk.answers(prompt, 1.0, seed=4, max_tokens=12) != [sft, policy]


@pytest.mark.parametrize(
    ("template", "text", "turns"),
    [
        ("plain", "Name a river.", 0),
        ("chat", "Name a river.", 1),
        ("alpaca", alpaca_prompt("Name a river.", ""), 0),
    ],
)
def test_a_model_of_real_text_is_asked_in_its_runs_template(
    finished: Path, template: str, text: str, turns: int
) -> None:
    config = configure("data=alpaca_farm", "data.root=/data", f"data.template={template}", "model.path=/model")
    sampler = Mock(Sampler, tokenizer=None)
    prompt = replace(load(finished), config=config, sampler=sampler, world=None).prompt("Name a river.")
    assert (prompt.instruction, prompt.text, len(prompt.messages)) == ("Name a river.", text, turns)


def test_the_models_are_those_of_the_run(finished: Path) -> None:
    """What the run's evaluation sampled is sampled again: the first prompt's first random numbers are the same."""
    talk = load(finished)
    config = RunDirectory(finished).config()
    from rlhf.stages.baseline import evaluation_prompts

    prompts = evaluation_prompts(config, talk.world)  # type: ignore[arg-type]
    chance = torch.Generator().manual_seed(config.seed)
    found = [answer.text for answer in talk.sampler.sample(talk.policy, prompts, 1.0, chance)]
    assert found == [row["output"] for row in read_json(finished / "outputs.json")]


def test_one_prompt_from_the_command_line(finished: Path, shown: io.StringIO) -> None:
    main([str(finished), "--prompt", "Who is she?", "--temperature", "0", "--max-tokens", "5"])
    text = shown.getvalue()
    assert "who is she ?" in text
    assert ("SFT" in text, "policy" in text) == (True, True)
    assert "no request of this world's grammar" in text


def test_a_pipe_of_prompts_goes_on_after_one_that_can_not_be_read(
    finished: Path, shown: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("tell me of Zzz .\n\nwho is he ?\n"))
    main([str(finished), "--max-tokens", "4"])
    text = shown.getvalue()
    assert "this world has no word Zzz" in text
    assert "who is he ?" in text
    assert "an empty line ends" not in text


def test_requests_are_known_however_they_are_spelled(world: World) -> None:
    tokenizer = world.build_tokenizer(512)
    prompt = request(f"Tell me about {name(world).lower()}", world, tokenizer)
    assert prompt.instruction == f"tell me about {name(world)} ."
    assert prompt.detail.person == world.people[0]
    assert request(f"Who is {name(world)}?", world, tokenizer).detail.kind == "biography"
    assert request(f"what is the job of {name(world)} ?", world, tokenizer).detail.attribute == "profession"


def test_what_is_no_request_is_asked_all_the_same(world: World) -> None:
    prompt = request(f"{name(world)}'s hobby", world, world.build_tokenizer(512))
    assert (prompt.instruction, prompt.detail) == (f"{name(world)} 's hobby", None)


@pytest.mark.parametrize("text", ["", "  ", "hello <eos> there"])
def test_words_that_the_world_lacks_are_named(world: World, text: str) -> None:
    message = "no word hello, <, eos, >, there" if text.strip() else "the prompt is empty"
    with pytest.raises(DataError, match=message):
        request(text, world, world.build_tokenizer(512))


def test_a_prompt_that_is_too_long_is_refused(finished: Path) -> None:
    with pytest.raises(DataError, match=r"longer than rollout\.max_prompt_tokens=24"):
        load(finished).prompt("who " * 30)


def test_a_run_without_a_policy_is_told_so(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").prepare(configure())
    with pytest.raises(SystemExit, match=r"error: .*policy does not exist: a run saves its policy at each evaluation"):
        main([str(tmp_path / "run")])
    with pytest.raises(SystemExit, match="holds no run that can be started"):
        main([str(tmp_path)])


def test_a_policy_whose_base_is_gone_is_told_so(tmp_path: Path) -> None:
    RunDirectory(tmp_path).prepare(configure())
    (tmp_path / "policy").mkdir()
    write_json(tmp_path / "policy" / "adapter_config.json", {"base_model_name_or_path": "/no/such/model"})
    with pytest.raises(SystemExit, match="/no/such/model does not exist: the policy's SFT model lay there"):
        main([str(tmp_path)])


@pytest.mark.parametrize("given", ["-1", "nan", "x"])
def test_temperatures_that_are_none_are_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), f"--temperature={given}"])
