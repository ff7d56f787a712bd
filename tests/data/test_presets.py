"""What conf/data/ ships for data sets of the hub, on rows with the columns that those have."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pytest

from rlhf.config.data import TextConfig
from rlhf.data.source import Message
from rlhf.data.text import TextData
from tests.configure import configure
from tests.data.test_text import instructions_of, write_rows


def load(preset: str, *overrides: str) -> TextData:
    config = configure(f"data={preset}", *overrides).data
    assert isinstance(config, TextConfig)
    return TextData(config)


def test_alpaca_farms_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def instructions(split: str) -> list[dict[str, str]]:
        return [{"instruction": f"{split} {n}", "input": "", "output": f"Answer {n}."} for n in range(4)]

    pairs = [
        row | {"output_1": "a", "output_2": "b", "preference": 2, "raw_preference": 3} for row in instructions("pair")
    ]
    evaluation = [row | {"generator": "x", "dataset": "koala", "datasplit": "eval"} for row in instructions("eval")]
    files = {f"alpaca_instructions/{split}.json": instructions(split) for split in ("sft", "unlabeled", "val")}
    files |= {"alpaca_human_preference.json": pairs, "alpaca_farm_evaluation.json": evaluation}

    def hf_hub_download(repo_id: str, filename: str, **more: Any) -> str:
        assert repo_id == "tatsu-lab/alpaca_farm"
        path = tmp_path / filename.replace("/", "-")
        write_rows(path, files[filename])
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    data = load("alpaca_farm_splits")
    parts = {"sft": data.demonstrations(), "unlabeled": data.prompts("train", 4, Random(0))}
    parts |= {"val": data.prompts("tune", 4, Random(0)), "eval": data.prompts("eval", 4, Random(0))}
    for split, items in parts.items():
        assert instructions_of(items) == {f"{split} {n}" for n in range(4)}
    assert {prompt.dataset for prompt in data.prompts("eval", 4, Random(0))} == {"koala"}
    assert [group[0].better for group in data._judge + data._reward] == [1] * 4
    assert (len(data._judge), len(data._reward)) == (2, 2)  # judge_fraction 0.4 of 4


def serve(monkeypatch: pytest.MonkeyPatch, tables: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """In place of the hub: the rows of (id, split)."""

    def load_dataset(path: str, name: str | None, split: str, **more: Any) -> Iterator[dict[str, Any]]:
        return iter(tables[path, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_hh(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(split: str) -> list[dict[str, str]]:
        start = "\n\nHuman: {split} {n}\n\nAssistant:"
        openings = [start.format(split=split, n=n) for n in range(10)]
        return [{"chosen": f"{opening} good", "rejected": f"{opening} bad"} for opening in openings]

    serve(monkeypatch, {("Anthropic/hh-rlhf", split): rows(split) for split in ("train", "test")})
    data = load("hh")
    sft = data.demonstrations()
    assert (len(sft), len(data._tune), len(data._train)) == (6, 1, 3)
    assert {item.text for item in sft} == {" good"}
    assert all(item.prompt.text == f"\n\nHuman: {item.prompt.instruction}\n\nAssistant:" for item in sft)
    assert instructions_of(data.prompts("eval", 10, Random(0))) == {f"test {n}" for n in range(10)}
    assert {group[0].outputs for group in data._reward} == {(" good", " bad")}


def test_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    def turns(question: str, answer: str) -> list[dict[str, str]]:
        return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]

    def rows(split: str) -> list[dict[str, Any]]:
        questions = [f"{split} {n}" for n in range(10)]
        return [
            {
                "prompt": question,
                "prompt_id": "0",
                "chosen": turns(question, "good"),
                "rejected": turns(question, "bad"),
                "messages": turns(question, "good"),
                "score_chosen": 9.0,
                "score_rejected": 1.0,
            }
            for question in questions
        ]

    name = "HuggingFaceH4/ultrafeedback_binarized"
    serve(monkeypatch, {(name, split): rows(split) for split in ("train_sft", "train_prefs", "test_prefs")})
    data = load("chat", "model.path=/models/chat")
    sft = data.demonstrations()
    assert len(sft) == 6
    assert all(item.prompt.messages == (Message("user", item.prompt.instruction),) for item in sft)
    assert {item.text for item in sft} == {"good"}
    assert {group[0].outputs for group in data._reward + data._judge} == {("good", "bad")}
    assert instructions_of(data.prompts("eval", 10, Random(0))) == {f"test_prefs {n}" for n in range(10)}
