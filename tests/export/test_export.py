"""`python -m rlhf.export` on runs in miniature: what the folders hold, and that they load as their cards say."""

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM, PeftModel
from pytest_httpserver import HTTPServer
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlhf.config.run import Config
from rlhf.console import console
from rlhf.errors import ConfigError
from rlhf.experiment import run
from rlhf.export import hub
from rlhf.export.__main__ import main
from rlhf.export.card import hub_datasets
from rlhf.figures import FIGURES
from rlhf.storage.files import read_json
from rlhf.storage.reader import MadeBy
from rlhf.summary import shown
from tests.configure import configure

USAGE = Path(__file__).resolve().parents[2] / "docs" / "usage.md"
NAME = "lora.r=8,regularizer=js"
GIVEN = {"input_ids": torch.tensor([[1, 3, 7, 9]])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs where docs/usage.md has them, trained with LoRA and with all weights."""
    folder = tmp_path_factory.mktemp("export")
    run(settings(folder), folder / "outputs/runs" / NAME, MadeBy(config="config", overrides=["ppo.lr=0.05"]))
    run(settings(folder, "lora=full"), folder / "outputs/runs/lora=full")
    return folder


def settings(folder: Path, *overrides: str) -> Config:
    cache = f"cache_dir={folder / 'outputs/cache'}"
    return configure("experiment=smoke", cache, "device=cpu", "ppo.lr=0.05", "ppo.lr_full=1e-2", *overrides)


@pytest.fixture
def lora(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The LoRA run's directory; names in cards are relative to where its folder is, so tests stand there."""
    monkeypatch.chdir(folder)
    yield folder / "outputs/runs" / NAME
    for path in folder.glob("out*"):
        if path.name != "outputs":
            shutil.rmtree(path)


def exported(*arguments: object) -> str:
    with console.capture() as shown:
        main([str(each) for each in arguments])
    return shown.get()


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    return str(stopped.value)


def logits(lm: Any) -> Tensor:
    with torch.no_grad():
        return lm(**GIVEN).logits


def block(text: str) -> str:
    """The Python that a card shows."""
    [found] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return found


def run_lines(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def policy_logits(lora: Path) -> Tensor:
    return logits(AutoPeftModelForCausalLM.from_pretrained(lora / "policy"))


def test_the_documented_lines_load_the_policy(lora: Path) -> None:
    lines = USAGE.read_text().split("    from peft import AutoPeftModelForCausalLM\n")[1].split("\n\n")[0]
    names = run_lines(
        "from peft import AutoPeftModelForCausalLM\n" + "\n".join(line[4:] for line in lines.splitlines())
    )
    trained = read_json(lora / "policy" / "adapter_config.json")["base_model_name_or_path"]
    base = AutoModelForCausalLM.from_pretrained(trained)
    before = logits(base)
    by_hand = logits(PeftModel.from_pretrained(base, str(lora / "policy")))
    assert torch.equal(logits(names["policy"]), by_hand)
    assert not torch.allclose(by_hand, before, atol=1e-2)
    text = names["tokenizer"].decode([1])
    assert names["tokenizer"](text)["input_ids"] == [1]


def test_an_adapter_goes_with_the_base_that_its_run_made(lora: Path, folder: Path) -> None:
    exported(lora, "out")
    settings = read_json(folder / "out" / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "base"
    assert str(folder) not in json.dumps(settings)
    expected = policy_logits(lora)
    shutil.move(folder / "outputs" / "cache", folder / "hidden")  # nothing else is needed
    try:
        names = run_lines(block((folder / "out" / "README.md").read_text()))
    finally:
        shutil.move(folder / "hidden", folder / "outputs" / "cache")
    assert torch.equal(logits(names["policy"]), expected)
    assert len(names["tokenizer"]) == names["policy"].config.vocab_size
    assert {"base", "run", "README.md", "adapter_model.safetensors"} < {path.name for path in Path("out").iterdir()}
    assert read_json(folder / "out" / "run" / "metrics.json") == read_json(lora / "metrics.json")


def test_what_lies_beside_a_model_stays_at_home(lora: Path, folder: Path) -> None:
    policy, strangers = lora / "policy", ("notes.txt", ".env", "modeling_mine.py", "optimizer.pt", ".git", "checkpoint")
    base = Path(read_json(policy / "adapter_config.json")["base_model_name_or_path"])
    try:
        for place in (policy, base):
            for name in strangers[:4]:
                (place / name).write_text("private")
            for name in strangers[4:]:
                (place / name).mkdir()
                (place / name / "config.json").write_text("private")
        exported(lora, "out")
        assert not {path.name for path in Path("out").rglob("*")}.intersection(strangers)
        (policy / "special_tokens_map.json").symlink_to("/etc/hostname")
        assert "special_tokens_map.json is a link" in refused(lora, "out1")
        assert not Path("out1").exists()
    finally:
        (policy / "special_tokens_map.json").unlink(missing_ok=True)
        for path in (place / name for place in (policy, base) for name in strangers):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_a_base_that_is_published_is_named_and_not_shipped(lora: Path) -> None:
    exported(lora, "out", "--base", "someone/base")
    assert read_json(Path("out/adapter_config.json"))["base_model_name_or_path"] == "someone/base"
    assert not Path("out/base").exists()
    card = Path("out/README.md").read_text()
    assert "It needs the weights of `someone/base`, which are not in here." in card
    head = front(card)
    assert (head["base_model"], head["base_model_relation"], head["library_name"]) == (
        "someone/base",
        "adapter",
        "peft",
    )
    assert "AutoPeftModelForCausalLM" in block(card)


def test_a_merged_model_has_the_adapters_logits(lora: Path) -> None:
    exported(lora, "out", "--merge")
    names = run_lines(block(Path("out/README.md").read_text()))
    assert torch.allclose(logits(names["policy"]), policy_logits(lora), atol=1e-5)
    assert not Path("out/adapter_config.json").exists()
    assert not any("lora" in name for name, _ in names["policy"].named_parameters())
    assert front(Path("out/README.md").read_text())["library_name"] == "transformers"


def test_all_weights_are_a_model_with_or_without_merge(lora: Path, folder: Path) -> None:
    own = folder / "outputs/runs/lora=full"
    expected = logits(AutoModelForCausalLM.from_pretrained(own / "policy"))
    for number, more in enumerate(((), ("--merge",))):
        exported(own, f"out{number}", *more)
        names = run_lines(block(Path(f"out{number}/README.md").read_text()))
        assert torch.equal(logits(names["policy"]), expected)
    assert "full-fine-tuning" in front(Path("out0/README.md").read_text())["tags"]


def test_the_card_has_figures_with_errors_and_the_command(lora: Path) -> None:
    exported(lora, "out")
    card, metrics = Path("out/README.md").read_text(), read_json(lora / "metrics.json")
    assert front(card)["tags"] == ["rlhf", "ppo", "lora", "regularizer:js"]
    assert "base_model" not in front(card)
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in card.splitlines() if line.startswith("|")}
    for name in ("win_rate_greedy", "win_rate", "objective", "response_length"):
        sft, own = (f" {shown(each, name)} " for each in (metrics["baseline"], metrics))
        assert rows[FIGURES[name].title] == [sft, own]
        assert ("±" in own, "±" in sft) == (True, "win_rate" not in name)  # SFT's own win rate is known
    assert rows[FIGURES["true_kl_per_token"].title][0] == " 0 "
    assert (f"Note: {metrics['objective_problem']}" in card) == (metrics["objective_problem"] is not None)
    [command] = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    assert command.startswith("python -m rlhf.run ")
    assert "ppo.lr=0.05" in command
    assert "have changed since" not in card
    assert "| `regularizer.name` | `js` |" in card
    assert "<bos> <user> {instruction} <assistant>" in card


def test_a_run_may_start_from_an_exported_adapter(lora: Path, folder: Path) -> None:
    exported(lora, "out")
    again = folder / "outputs/runs/again"
    run(settings(folder, "lora.path=out", "ppo.steps=1"), again)
    rows = [json.loads(line) for line in (again / "history.jsonl").read_text().splitlines()]
    start, last = rows[0], rows[-1]
    before = read_json(lora / "metrics.json")
    for name in ("win_rate_greedy", "win_rate", "true_kl_per_response", "response_length", "reward"):
        assert start[name] == pytest.approx(before[name], rel=1e-5)
    assert start["true_kl_per_token"] > 0.01
    assert last["true_kl_per_token"] != start["true_kl_per_token"]


def test_an_adapter_to_start_from_is_looked_at_before_any_work(folder: Path, tmp_path: Path) -> None:
    nowhere = f"lora.path={tmp_path / 'nowhere'}"
    with pytest.raises(ConfigError, match=r"lora\.path=.*nowhere is not allowed"):
        run(settings(folder, nowhere, f"cache_dir={tmp_path / 'cache'}"), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_data_sets_of_the_hub_are_named_once() -> None:
    leaves = {
        "data.a": "hub:one/set/folder/file.json",
        "data.b": "hub:one/set:train",
        "data.c": "hub:two/set@main:test",
    }
    assert hub_datasets({**leaves, "data.d": "a.json", "model.path": "hub:no/data"}) == ["one/set", "two/set"]


# ---- What is refused. ---------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(lora: Path) -> None:
    Path("out").mkdir()
    Path("out/mine").write_text("kept")
    assert "out is there already, and not empty" in refused(lora, "out")
    assert [path.name for path in Path("out").iterdir()] == ["mine"]


def test_runs_that_are_not_done_or_have_no_policy_are_refused(lora: Path, tmp_path: Path) -> None:
    assert "there is no run directory" in refused(tmp_path / "none", "out")
    assert "pending; a policy is exported when its run is done" in refused(tmp_path, "out")
    copied = tmp_path / "run"
    shutil.copytree(lora, copied)
    (copied / "status.json").write_text('{"state": "running", "step": 2}')
    assert "running at step 2" in refused(copied, "out")
    shutil.copy(lora / "status.json", copied / "status.json")
    settings = read_json(copied / "policy" / "adapter_config.json") | {
        "base_model_name_or_path": str(tmp_path / "gone")
    }
    (copied / "policy" / "adapter_config.json").write_text(json.dumps(settings))
    assert "the policy's base is gone: there is no" in refused(copied, "out")
    (copied / "policy" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": ""}))
    assert "the policy's base was never written" in refused(copied, "out")
    shutil.rmtree(copied / "policy")
    assert "holds neither an adapter nor a model" in refused(copied, "out")
    assert not Path("out").exists()


def test_an_export_that_fails_leaves_nothing(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(Path().iterdir())
    monkeypatch.setattr("rlhf.export.card.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([str(lora), "out"])
    assert sorted(Path().iterdir()) == before


# ---- The hub. -----------------------------------------------------------------------------------------------------


class FakeHub:
    """In place of HfApi: what it was asked for."""

    def __init__(self) -> None:
        self.uploaded: list[tuple[str, bool, set[str]]] = []
        self.private = False

    def __call__(self) -> "FakeHub":
        return self

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def repo_exists(self, repo_id: str) -> bool:
        return repo_id == "me/taken"

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
        assert not exist_ok
        self.private = private
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        names = {path.name for path in folder_path.iterdir()}
        self.uploaded.append((repo_id, self.private, names))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(hub, "HfApi", fake)
    return fake


def test_nothing_is_pushed_unless_asked(lora: Path, fake_hub: FakeHub) -> None:
    exported(lora, "out")
    assert fake_hub.uploaded == []
    assert "--private is not allowed" in refused(lora, "out2", "--private")


@pytest.mark.parametrize("private", [False, True])
def test_a_push_is_of_the_whole_folder_to_a_new_repository(lora: Path, fake_hub: FakeHub, private: bool) -> None:
    shown = exported(lora, "out", "--push", "me/mine", *["--private"] * private)
    [(name, was_private, files)] = fake_hub.uploaded
    assert (name, was_private) == ("me/mine", private)
    assert files == {path.name for path in Path("out").iterdir()}
    assert "https://hub/me/mine" in shown
    assert 'folder = snapshot_download("me/mine")' in block(Path("out/README.md").read_text())


def test_a_push_that_can_not_be_is_refused_before_any_work(lora: Path, fake_hub: FakeHub) -> None:
    assert "there is such a repository already" in refused(lora, "out", "--push", "me/taken")
    assert "--push=mine is not allowed: it must be OWNER/NAME" in refused(lora, "out", "--push", "mine")
    told = refused(lora, "out", "--push", "me/mine", "--base", str(lora))
    assert "is on this machine alone: name what it is published as by --base, or give --merge" in told
    assert not Path("out").exists()
    assert fake_hub.uploaded == []


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "the hub does not accept the token: log in by"), (503, "HTTP 503")],
)
def test_what_the_hub_answers_is_explained(
    lora: Path, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer, status: int, told: str
) -> None:
    httpserver.expect_request("/api/whoami-v2").respond_with_json({"error": "no"}, status=status)
    monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint=httpserver.url_for("").rstrip("/"), token="hf_none"))
    assert f"--push=me/mine: {told}" in refused(lora, "out", "--push", "me/mine")
    assert not Path("out").exists()


def test_a_push_that_fails_after_all_keeps_the_folder_and_says_how_to_go_on(
    lora: Path, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/api/whoami-v2").respond_with_json({"name": "me", "type": "user"})
    absent = {"X-Error-Code": "RepoNotFound"}
    httpserver.expect_request("/api/models/them/mine").respond_with_json({}, status=404, headers=absent)
    httpserver.expect_request("/api/repos/create").respond_with_json({"error": "not yours"}, status=403)
    monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint=httpserver.url_for("").rstrip("/"), token="hf_none"))
    told = refused(lora, "out", "--push", "them/mine")
    assert "this account or token may not write there" in told
    assert "out is whole: `hf upload them/mine out` uploads it" in told
    assert Path("out/README.md").is_file()


def test_without_a_login_or_a_network_that_is_told(lora: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert "not logged in to the hub: log in by `hf auth login`" in refused(lora, "out", "--push", "me/mine")
    monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint="http://localhost:9", token="hf_none"))
    assert "the hub can't be reached" in refused(lora, "out", "--push", "me/mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the hub is not asked while HF_HUB_OFFLINE is set" in refused(lora, "out", "--push", "me/mine")
