"""Rewards that were made elsewhere read text, each in its own tokens; expected scores by running the model alone."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForSequenceClassification,
)

from rlhf.config.models import RewardConfig
from rlhf.data.source import Prompt, Response
from rlhf.errors import CheckError, ConfigError
from rlhf.models.external_reward import (
    CHAT,
    PAIR,
    PLAIN,
    ExternalReward,
    check_external,
    external_fingerprint,
    load_external,
)
from rlhf.storage.files import read_json, write_json
from tests.checkpoints import byte_tokenizer, family_config, family_lm
from tests.configure import configure

CPU = torch.device("cpu")
TEXTS = [("Name a colour.", "Blue."), ("Why?", "Because it is so, and was never otherwise."), ("A", "")]
PROMPTS = [Prompt(instruction, f"### Instruction:\n{instruction}\n\n### Response:", "test") for instruction, _ in TEXTS]
RESPONSES = [Response([0], text, finished=True) for _, text in TEXTS]
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def reward_config(*overrides: str) -> RewardConfig:
    return configure("value=head", *overrides).reward


def save_classifier(path: Path, template: str | None = None, labels: int = 1, pad: str | None = "<pad>") -> Path:
    """A Llama with a linear layer on its last token's state."""
    tokenizer = byte_tokenizer(pad)
    tokenizer.chat_template = template
    config = family_config("llama", len(tokenizer), num_labels=labels, pad_token_id=None)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("pad", ["<pad>", None])
@pytest.mark.parametrize(("template", "how"), [(TEMPLATE, CHAT), (None, PLAIN)])
def test_a_classifier_reads_the_text_in_its_own_tokens(
    tmp_path: Path, template: str | None, how: str, pad: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_classifier(tmp_path / "rm", template, pad=pad)
    reward = load_external(reward_config("reward=classifier", f"reward.path={path}"), "float32", CPU)
    assert how in caplog.text
    lm, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    for index, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        chat = f"<user>{prompt.instruction}<assistant>{response.text}"
        token_ids = tokenizer(chat if template else prompt.text + response.text)["input_ids"]
        with torch.no_grad():
            [[alone]] = lm(input_ids=torch.tensor([token_ids])).logits.tolist()
        assert reward.scores(PROMPTS, RESPONSES)[index].item() == pytest.approx(alone, abs=1e-5)


def test_an_encoder_reads_prompt_and_response_as_a_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"sep_token": "<sep>", "cls_token": "<cls>"})
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    lm = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **shape)).eval()
    lm.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    reward = load_external(reward_config("reward=classifier", f"reward.path={tmp_path / 'rm'}"), "float32", CPU)
    assert PAIR in caplog.text
    given = AutoTokenizer.from_pretrained(tmp_path / "rm")("Name a colour.", "Blue.", return_tensors="pt")
    with torch.no_grad():
        assert reward.scores(PROMPTS, RESPONSES)[0].item() == pytest.approx(lm(**given).logits.item(), abs=1e-5)


def test_of_a_text_beyond_its_context_a_classifier_reads_the_end(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "rm")
    reward = load_external(reward_config("reward=classifier", f"reward.path={path}"), "float32", CPU)
    # a byte is a token at most, and the context is 128 of them
    long = [Prompt("x", "?" * count, "test") for count in (400, 600)]
    same = [Response([0], "!" * 100, finished=True)] * 2
    first, second = reward.scores(long, same).tolist()
    assert first == pytest.approx(second, abs=1e-5)
    different = reward.scores(long[:1], [Response([0], "!" * 99 + "?", finished=True)]).item()
    assert different != pytest.approx(first, abs=1e-3)


def test_a_classifier_of_several_outputs_is_refused(tmp_path: Path) -> None:
    config = reward_config("reward=classifier", f"reward.path={save_classifier(tmp_path / 'rm', labels=3)}")
    with pytest.raises(ConfigError, match=r"reward\.path=.* its classifier has 3 outputs, and a reward has 1"):
        check_external(config)


def test_a_path_without_a_reward_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    for kind in ("classifier", "alpaca_farm"):
        with pytest.raises(ConfigError, match=r"reward\.path=.* there is no such directory"):
            check_external(reward_config(f"reward={kind}", f"reward.path={tmp_path / 'nowhere'}"))


# ---- AlpacaFarm's format. -----------------------------------------------------------------------------------------


class Published(nn.Module):
    """What the published checkpoints are made from: the names of their weights are those of these modules."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.backbone_model = family_lm("llama", vocab_size)
        torch.manual_seed(1)
        self.reward_head = nn.Linear(32, 1)


def save_alpaca_farm(folder: Path, named: str) -> Published:
    """A reward model in folder/rm whose config names the model it was made on, which lies in folder/sft10k."""
    tokenizer = byte_tokenizer()
    model = Published(len(tokenizer))
    (folder / "rm").mkdir(parents=True)
    torch.save(model.state_dict(), folder / "rm" / "pytorch_model.bin")
    config = {"architectures": ["RewardModel"], "model_type": "reward_model", "backbone_model_name_or_path": named}
    write_json(folder / "rm" / "config.json", config)
    tokenizer.save_pretrained(folder / "rm")
    model.backbone_model.config.save_pretrained(folder / "sft10k")
    return model


@pytest.mark.parametrize("place", ["there", "beside"])
def test_alpaca_farms_reward_is_read_at_the_last_token_of_prompt_and_response(tmp_path: Path, place: str) -> None:
    named = str(tmp_path / "sft10k") if place == "there" else "/another/machine/sft10k"
    published = save_alpaca_farm(tmp_path, named)
    config = reward_config("reward=alpaca_farm", f"reward.path={tmp_path / 'rm'}")
    check_external(config)
    scores = load_external(config, "float32", CPU).scores(PROMPTS, RESPONSES).tolist()
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        token_ids = torch.tensor([byte_tokenizer()(prompt.text + response.text)["input_ids"]])
        with torch.no_grad():
            states = published.backbone_model.model(input_ids=token_ids).last_hidden_state
            assert score == pytest.approx(published.reward_head(states[0, -1]).item(), abs=1e-5)


def test_a_reward_whose_own_base_is_nowhere_is_refused(tmp_path: Path) -> None:
    save_alpaca_farm(tmp_path, "/another/machine/other")
    with pytest.raises(ConfigError, match=r"backbone_model_name_or_path=/another/machine/other of its config\.json"):
        check_external(reward_config("reward=alpaca_farm", f"reward.path={tmp_path / 'rm'}"))


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "rm")
    with pytest.raises(ConfigError, match="no backbone_model_name_or_path, as AlpacaFarm's do"):
        check_external(reward_config("reward=alpaca_farm", f"reward.path={path}"))


# ---- A function. --------------------------------------------------------------------------------------------------


def function(name: str, *more: str) -> RewardConfig:
    return reward_config("reward=function", f"reward.function._target_={name}", *more)


@pytest.fixture
def verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "verifier", raising=False)
    path = tmp_path / "verifier.py"
    path.write_text(
        "def length(instruction, response, weight=1.0):\n"
        "    return weight * len(response)\n\n"
        "def right(instruction, response):\n"
        "    return response == 'Blue.'\n\n"
        "def broken(instruction, response):\n"
        "    return float('nan') if response == '' else 1.0\n"
    )
    return path


def test_a_function_scores_instruction_and_response(verifier: Path) -> None:
    scores = load_external(function("verifier.length", "+reward.function.weight=0.5"), "float32", CPU)
    assert scores.scores(PROMPTS, RESPONSES).tolist() == [0.5 * len(text) for _, text in TEXTS]
    assert load_external(function("verifier.right"), "float32", CPU).scores(PROMPTS, RESPONSES).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no.such.function", "Error locating target"),
        ("math.sqrt", "called with .* it fails"),
        ("operator.add", "it must return a finite number, and for .* it returns 'Name a colour.Blue.'"),
    ],
)
def test_a_function_that_can_not_be_used_is_refused_at_once(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"reward\.function\._target_={name} is not allowed: {reason}"):
        check_external(function(name))


def test_a_function_that_returns_no_number_later_stops_the_run_with_the_text(verifier: Path) -> None:
    reward = load_external(function("verifier.broken"), "float32", CPU)
    with pytest.raises(CheckError, match=r"verifier\.broken must return a finite number, and for \('A', ''\)"):
        reward.scores(PROMPTS, RESPONSES)


def test_the_fingerprint_follows_name_keywords_and_source(verifier: Path) -> None:
    plain = external_fingerprint(function("verifier.length"))
    assert external_fingerprint(function("verifier.length")) == plain
    assert external_fingerprint(function("verifier.right")) != plain
    assert external_fingerprint(function("verifier.length", "+reward.function.weight=2")) != plain
    external_fingerprint(function("verifier.length", "+reward.function.pattern='~nobody here'"))  # no path, but a text
    answers = verifier.with_name("answers.jsonl")
    answers.write_text("1")
    named = function("verifier.length", f"+reward.function.answers={answers}")
    first = external_fingerprint(named)
    answers.write_text("2")
    assert external_fingerprint(named) != first
    verifier.write_text(verifier.read_text() + "# changed\n")
    assert external_fingerprint(function("verifier.length")) != plain


def test_scores_are_standardised_and_the_scale_is_saved(tmp_path: Path) -> None:
    config = function("operator.is_")
    reward = ExternalReward(config, lambda prompts, responses: torch.tensor([2.0, 4.0, 6.0]))
    reward.standardize(reward.scores(PROMPTS, RESPONSES))
    # mean 4, sd(ddof=1) 2
    assert reward.scores(PROMPTS, RESPONSES).tolist() == [-1.0, 0.0, 1.0]
    reward.save(tmp_path)
    assert read_json(tmp_path / "scale.json") == {"mean": 4.0, "deviation": 2.0}
    again = ExternalReward(config, reward.raw).load(tmp_path)
    assert again.scores(PROMPTS, RESPONSES).tolist() == [-1.0, 0.0, 1.0]


def test_a_classifier_without_a_limit_reads_texts_of_any_length(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = byte_tokenizer()
    shape = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2, num_labels=1)
    BloomForSequenceClassification(shape).save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    reward = load_external(reward_config("reward=classifier", f"reward.path={tmp_path / 'rm'}"), "float32", CPU)
    assert "of longer texts" not in caplog.text
    assert reward.scores(PROMPTS, [Response([0], "a" * 3000, finished=True)] * 3).isfinite().all()
