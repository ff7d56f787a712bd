import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.config.data import TextConfig
from rlhf.data import text as text_module
from rlhf.data.source import Demonstration, Prompt, Response
from rlhf.data.templates import alpaca_prompt
from rlhf.data.text import TextData, draw, partition, train_tokenizer
from rlhf.errors import ConfigError, DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"

INSTRUCTIONS = [{"instruction": f"Name thing {i}.", "input": "", "output": f"Thing {i}!"} for i in range(20)]
PREFERENCES = [
    {"instruction": f"Ask {i}?", "output_1": f"good {i}", "output_2": f"bad {i}", "preference": 1} for i in range(8)
]
EVALUATION = [{"index": i, "dataset": "koala", "instruction": f"Ask {i}?"} for i in (3, 1, 2, 99)]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "\n".join(json.dumps(row) for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(text, encoding="utf-8")


def make_config(
    folder: Path,
    instructions: list[dict] = INSTRUCTIONS,
    preferences: list[dict] = PREFERENCES,
    evaluation: list[dict] = EVALUATION,
    **changes: Any,
) -> TextConfig:
    """Writes the three files and returns the configuration that reads them: 8 sft, 2 tune and 10 train of 20."""
    write_rows(folder / "instructions.json", instructions)
    write_rows(folder / "preferences.jsonl", preferences)
    write_rows(folder / "evaluation.json", evaluation)
    tables = {"instructions": "instructions.json", "preferences": "preferences.jsonl", "evaluation": "evaluation.json"}
    shares = {"sft_fraction": 0.4, "tune_fraction": 0.1, "judge_fraction": 0.25}
    return TextConfig(**({"name": "alpaca_farm", "seed": 0, "root": str(folder)} | tables | shares | changes))


def never_sample(prompts: Sequence[Prompt], temperature: float) -> list[Response]:
    raise AssertionError("text files need no samples")


def every_prompt(data: TextData) -> list[Prompt]:
    """Of all parts of the instructions, each once."""
    train = data.prompts("train", len(data._train), Random(0))
    return [item.prompt for item in data.demonstrations()] + data._tune + train


def parts_learnt(data: TextData) -> list[Prompt]:
    return [prompt for prompt in every_prompt(data) if prompt not in data._tune]


def parts(data: TextData) -> tuple[list[Demonstration], list[Prompt], list[Prompt]]:
    return data.demonstrations(), data.prompts("tune", 2, Random(0)), data.prompts("train", 10, Random(0))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["the good thing", "the bad thing"] * 5, 280)


def test_instructions_split_into_disjoint_parts_of_the_given_sizes(tmp_path: Path) -> None:
    sft, tune, train = parts(TextData(make_config(tmp_path)))
    assert (len(sft), len(tune), len(train)) == (8, 2, 10)
    names = [item.prompt.instruction for item in sft] + [prompt.instruction for prompt in tune + train]
    assert sorted(names) == sorted(row["instruction"] for row in INSTRUCTIONS)


def test_a_split_is_fixed_by_the_seed(tmp_path: Path) -> None:
    first = parts(TextData(make_config(tmp_path)))
    assert parts(TextData(make_config(tmp_path))) == first
    assert parts(TextData(make_config(tmp_path, seed=1))) != first
    assert parts(TextData(make_config(tmp_path, sft_fraction=0.2)))[1] == first[1]


def test_evaluation_prompts_come_in_file_order(tmp_path: Path) -> None:
    data = TextData(make_config(tmp_path))
    prompts = data.prompts("eval", 4, Random(0))
    assert [prompt.instruction for prompt in prompts] == ["Ask 3?", "Ask 1?", "Ask 2?", "Ask 99?"]
    assert prompts[0] == Prompt("Ask 3?", alpaca_prompt("Ask 3?", ""), "koala")
    # of fewer, a sample: each prompt is in some draws of two and missing in others, always in file order
    draws = [data.prompts("eval", 2, Random(seed)) for seed in range(40)]
    for prompt in prompts:
        assert 0 < sum(prompt in drawn for drawn in draws) < 40
    assert all(prompts.index(drawn[0]) < prompts.index(drawn[1]) for drawn in draws)


def test_tuning_prompts_come_in_file_order(tmp_path: Path) -> None:
    for seed in range(5):
        tune = TextData(make_config(tmp_path, seed=seed, tune_fraction=0.3)).prompts("tune", 6, Random(0))
        numbers = [int(prompt.instruction.removeprefix("Name thing ").removesuffix(".")) for prompt in tune]
        assert len(numbers) == 6
        assert numbers == sorted(numbers)


def test_asking_for_more_than_exists_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = TextData(make_config(tmp_path))
    assert len(data.prompts("eval", 4, Random(0))) == 4
    assert caplog.messages == []
    assert len(data.prompts("eval", 5, Random(0))) == 4
    assert caplog.messages == ["5 prompts of split eval are asked for, 4 exist: using these"]


def test_training_prompts_repeat_only_when_all_were_drawn(tmp_path: Path) -> None:
    data = TextData(make_config(tmp_path))
    prompts = data.prompts("train", 25, Random(0))
    assert len(set(prompts[:10])) == len(set(prompts[10:20])) == 10
    assert sorted(Counter(prompts).values()) == [2] * 5 + [3] * 5
    assert prompts[:10] != prompts[10:20]
    assert data.prompts("train", 25, Random(0)) == prompts
    assert data.prompts("train", 25, Random(1)) != prompts


def test_repeated_prompts_keep_the_first_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Only the second has another input, and so is another prompt.
    repeats = [INSTRUCTIONS[0] | {"output": "later"}, INSTRUCTIONS[0] | {"input": "new"}]
    config = make_config(tmp_path, instructions=INSTRUCTIONS + repeats, evaluation=EVALUATION + EVALUATION[:2])
    data = TextData(config)
    assert len(every_prompt(data)) == 21
    assert "later" not in [item.text for item in data.demonstrations()]
    assert len(data.prompts("eval", 4, Random(0))) == 4
    assert caplog.messages == [
        f"{tmp_path / 'evaluation.json'}: left out 2 rows that repeat an earlier prompt",
        f"{tmp_path / 'instructions.json'}: left out 1 rows that repeat an earlier prompt",
    ]


def test_evaluation_prompts_are_left_out_of_the_instructions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # The same words, with the input as a field of its own here and within the instruction there.
    rows = [*INSTRUCTIONS, {"instruction": "Add up.", "input": "1 2", "output": "3"}]
    evaluation = [{"instruction": "Add up.\n\n1 2 "}, {"instruction": "Name thing 4."}, {"instruction": "Other?"}]
    data = TextData(make_config(tmp_path, instructions=rows, evaluation=evaluation))
    assert {prompt.instruction for prompt in every_prompt(data)} == {row["instruction"] for row in INSTRUCTIONS} - {
        "Name thing 4."
    }
    assert data.prompts("eval", 1, Random(0))[0].dataset == ""
    assert caplog.messages == [
        f"{tmp_path / 'instructions.json'}: left out 2 rows that are prompts of evaluation or validation"
    ]


def test_documents_are_training_rows_and_never_spell_a_special_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = TextData(make_config(tmp_path))
    numbers = [prompt.instruction.removeprefix("Name thing ").removesuffix(".") for prompt in parts_learnt(data)]
    expected = {f"<bos>{alpaca_prompt(f'Name thing {n}.', '')}Thing {n}!<eos>" for n in numbers}
    assert len(expected) == 18
    rng = Random(0)
    assert {data.document(rng, 0.5) for _ in range(500)} == expected
    assert caplog.messages == []

    spelt = [row | {"output": "An <eos> tag."} if row is not INSTRUCTIONS[5] else row for row in INSTRUCTIONS]
    # Row 5 isn't in the tune part of this seed, so that it is the one row left to pretrain on.
    data = TextData(make_config(tmp_path, instructions=spelt))
    assert data.document(rng, 0.5) == f"<bos>{alpaca_prompt('Name thing 5.', '')}Thing 5!<eos>"
    assert caplog.messages == ["left out of pretraining 17 rows that hold a special token as text"]


def test_rows_of_one_prompt_become_one_comparison(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [
        {"instruction": "Q", "output_1": "b", "output_2": "a", "preference": 2},
        {"instruction": "Other", "output_1": "x", "output_2": "", "preference": 1.0, "dataset": "vicuna"},
        {"instruction": "Q", "input": "", "output_1": "b", "output_2": "c", "preference": 1},
    ]
    data = TextData(make_config(tmp_path, preferences=rows, judge_fraction=0.5))
    comparisons = data.comparisons(tokenizer, never_sample, True) + data.comparisons(tokenizer, never_sample, False)
    other, merged = sorted(comparisons, key=lambda comparison: comparison.prompt.instruction)
    assert [response.text for response in merged.responses] == ["b", "a", "c"]
    assert merged.verdicts == [(1, 0), (0, 2)]
    assert merged.prompt == Prompt("Q", alpaca_prompt("Q", ""), "")
    assert other.prompt.dataset == "vicuna"
    assert other.verdicts == [(0, 1)]
    assert other.responses[1] == Response([2], "", finished=True)


def test_responses_end_in_one_end_of_sequence(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [row | {"output_1": f"good <eos> {i}"} for i, row in enumerate(PREFERENCES)]
    data = TextData(make_config(tmp_path, preferences=rows))
    for comparison in data.comparisons(tokenizer, never_sample, False):
        for response in comparison.responses:
            assert response.finished
            assert response.token_ids.index(2) == len(response.token_ids) - 1
            assert tokenizer.decode(response.token_ids[:-1]) == response.text


def test_judge_and_reward_model_share_no_prompt(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    data = TextData(make_config(tmp_path, preferences=PREFERENCES * 2))
    judge = {item.prompt.instruction for item in data.comparisons(tokenizer, never_sample, True)}
    reward = {item.prompt.instruction for item in data.comparisons(tokenizer, never_sample, False)}
    # A quarter of the 8 prompts.
    assert (len(judge), len(reward)) == (2, 6)
    assert judge | reward == {f"Ask {i}?" for i in range(8)}
    assert data.comparisons(tokenizer, never_sample, False) == data.comparisons(tokenizer, never_sample, False)
    for prompt in data.prompts("eval", 4, Random(0)):
        assert data.seen_by_reward(prompt) == (prompt.instruction in reward)


def test_missing_places_are_named_with_their_key(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    for key in ("root", "instructions", "preferences", "evaluation"):
        with pytest.raises(DataError, match=rf"data\.{key}: there is no \w+ {tmp_path}/no"):
            TextData(replace(config, **{key: str(tmp_path / "no.json")}))


def test_too_few_prompts_for_a_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.tune_fraction=0\.1 .* would get \[0, 2, 2\]"):
        TextData(make_config(tmp_path, instructions=INSTRUCTIONS[:4]))
    with pytest.raises(DataError, match=r"data\.judge_fraction=0\.25: .* would get \[0, 1\]"):
        TextData(make_config(tmp_path, preferences=PREFERENCES[:1]))


def test_the_fingerprint_follows_files_and_settings_but_not_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TextData(make_config(tmp_path / "a")).fingerprint(True)
    assert len(original) == 64
    assert TextData(make_config(tmp_path / "b")).fingerprint(True) == original
    others = [
        TextData(make_config(tmp_path / "a", instructions=INSTRUCTIONS[1:])).fingerprint(True),
        TextData(make_config(tmp_path / "a", preferences=PREFERENCES[1:])).fingerprint(True),
        TextData(make_config(tmp_path / "a", evaluation=EVALUATION[1:])).fingerprint(True),
        TextData(make_config(tmp_path / "a", seed=1)).fingerprint(True),
        TextData(make_config(tmp_path / "a", judge_fraction=0.5)).fingerprint(True),
    ]
    monkeypatch.setattr(text_module, "VERSION", text_module.VERSION + 1)
    others.append(TextData(make_config(tmp_path / "a")).fingerprint(True))
    assert len({original, *others}) == 7


UNTIDY = [
    "",
    " leading and trailing \n",
    "don 't , do it .",
    "tab\t\r\n\x00\x7f",
    "e\u0301 é ß 漢字 😀 \u2028",
    "\U0010ffff",
    "a <eos> b<bos>",
]


def test_the_tokenizer_loses_nothing_and_adds_only_bos(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for one in (tokenizer, loaded):
        assert (one.pad_token_id, one.bos_token_id, one.eos_token_id) == (0, 1, 2)
        ids = one("<bos>the<eos>", add_special_tokens=False)["input_ids"]
        assert (ids[0], ids[-1]) == (1, 2)
        assert ids.count(1) == 1
        for text in UNTIDY:
            plain = one(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert not {0, 1, 2} & set(plain)
            assert one.decode(plain) == text
            assert one(text)["input_ids"] == [1, *one(text, add_special_tokens=False)["input_ids"]]
            assert one.decode(one(text, add_special_tokens=False)["input_ids"]) == text
            assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_tokenizer_learns_from_training_rows_alone(tmp_path: Path) -> None:
    # Each output is a word of its own, "aaaaaa", "bbbbbb" and so on, and so one token where it was learnt from.
    rows = [row | {"output": chr(ord("a") + i) * 6} for i, row in enumerate(INSTRUCTIONS)]
    data = TextData(make_config(tmp_path, instructions=rows))
    learnt = data.build_tokenizer(600)
    outputs = {row["instruction"]: row["output"] for row in rows}
    assert all(len(learnt.tokenize(outputs[prompt.instruction])) == 1 for prompt in parts_learnt(data))
    assert all(len(learnt.tokenize(outputs[prompt.instruction])) > 1 for prompt in data._tune)

    evaluation = [{"instruction": "quagga " * 1000}]
    other = TextData(make_config(tmp_path, instructions=rows, evaluation=evaluation)).build_tokenizer(600)
    assert other.backend_tokenizer.to_str() == learnt.backend_tokenizer.to_str()


def test_a_vocabulary_too_small_for_all_bytes_is_refused(tmp_path: Path) -> None:
    data = TextData(make_config(tmp_path))
    assert len(data.build_tokenizer(259)) == 259
    assert len(data.build_tokenizer(300)) == 300
    with pytest.raises(ConfigError, match=r"model\.vocab_size=258 .* 259"):
        data.build_tokenizer(258)


def test_describe_counts_words_and_characters(tmp_path: Path) -> None:
    data = TextData(make_config(tmp_path))
    prompt = data.prompts("eval", 1, Random(0))[0]
    assert data.describe(prompt, Response([5, 2], "two words", finished=True)) == {"words": 2.0, "characters": 9.0}


# ---- Parts with tables of their own. --------------------------------------------------------------------------------

PROMPTS = [{"instruction": f"Do {i}!", "input": "", "output": ""} for i in range(6)]
VALIDATION = [{"messages": [{"role": "user", "content": f"Try {i}."}]} for i in range(3)]


def with_tables(folder: Path, prompts: list[dict] | None, validation: list[dict] | None, **changes: Any) -> TextData:
    """20 instructions as before, with a table of PPO's prompts, of validation prompts, or both."""
    keys: dict[str, Any] = {}
    for name, rows, fraction in (("prompts", prompts, "sft_fraction"), ("validation", validation, "tune_fraction")):
        if rows is not None:
            write_rows(folder / f"{name}.json", rows)
            keys |= {name: f"{name}.json", fraction: None}
    return TextData(make_config(folder, **keys | changes))


def instructions_of(items: Sequence[Prompt | Demonstration]) -> set[str]:
    return {(item.prompt if isinstance(item, Demonstration) else item).instruction for item in items}


NAMED = {f"Name thing {i}." for i in range(20)}
DONE, TRIED = {f"Do {i}!" for i in range(6)}, {f"Try {i}." for i in range(3)}


def test_all_parts_from_tables_of_their_own(tmp_path: Path) -> None:
    data = with_tables(tmp_path, PROMPTS, VALIDATION)
    assert instructions_of(data.demonstrations()) == NAMED
    assert instructions_of(data.prompts("train", 6, Random(0))) == DONE
    assert [prompt.instruction for prompt in data.prompts("tune", 3, Random(0))] == ["Try 0.", "Try 1.", "Try 2."]
    assert data.document(Random(0), 0.5).startswith("<bos>Below is an instruction")


def test_prompts_of_their_own_leave_the_other_instructions_to_be_imitated(tmp_path: Path) -> None:
    data = with_tables(tmp_path, PROMPTS, None)
    sft, tune = instructions_of(data.demonstrations()), instructions_of(data.prompts("tune", 2, Random(0)))
    assert (len(sft), len(tune)) == (18, 2)  # tune_fraction 0.1 of 20
    assert sft | tune == NAMED
    assert instructions_of(data.prompts("train", 6, Random(0))) == DONE


def test_validation_of_its_own_leaves_instructions_to_sft_and_ppo(tmp_path: Path) -> None:
    data = with_tables(tmp_path, None, VALIDATION)
    sft, train = instructions_of(data.demonstrations()), instructions_of(data.prompts("train", 12, Random(0)))
    assert (len(sft), len(train)) == (8, 12)  # sft_fraction 0.4 of 20
    assert sft | train == NAMED
    assert instructions_of(data.prompts("tune", 3, Random(0))) == TRIED


def test_no_table_gives_evaluation_or_validation_prompts_to_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held_out = [{"instruction": "Do 1!"}, {"instruction": "Name thing 7."}, {"instruction": "Try 2."}]
    validation = [
        *VALIDATION,
        *({"messages": [{"role": "user", "content": text}]} for text in ("Do 5!", "Name thing 3.")),
    ]
    data = with_tables(tmp_path, PROMPTS, validation, evaluation=held_out)
    assert instructions_of(data.demonstrations()) == NAMED - {"Name thing 7.", "Name thing 3."}
    assert instructions_of(data.prompts("train", 4, Random(0))) == DONE - {"Do 1!", "Do 5!"}
    assert instructions_of(data.prompts("tune", 4, Random(0))) == {"Try 0.", "Try 1.", "Do 5!", "Name thing 3."}
    assert caplog.messages == [
        f"{tmp_path / 'validation.json'}: left out 1 rows that are prompts of evaluation or validation",
        f"{tmp_path / 'prompts.json'}: left out 2 rows that are prompts of evaluation or validation",
        f"{tmp_path / 'instructions.json'}: left out 2 rows that are prompts of evaluation or validation",
    ]


def test_a_table_without_a_usable_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.prompts: {tmp_path / 'prompts.json'}"):
        with_tables(tmp_path, [{"instruction": "Ask 3?"}, {"instruction": " "}], None)  # one is for evaluation


def test_the_limit_shortens_what_is_trained_on_and_not_what_must_not_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    evaluation = [*EVALUATION, {"instruction": "Do 0!"}]
    data = with_tables(tmp_path, PROMPTS, VALIDATION, limit=2, judge_fraction=0.5, evaluation=evaluation)
    assert instructions_of(data.demonstrations()) == {"Name thing 0.", "Name thing 1."}
    assert instructions_of(data.prompts("train", 1, Random(0))) == {"Do 1!"}
    assert len(data._judge + data._reward) == 2
    assert (len(data._evaluation), len(data._tune)) == (5, 3)
    assert caplog.messages == [
        f"data.instructions: taken the first 2 rows of {tmp_path / 'instructions.json'}",
        f"data.prompts: taken the first 2 rows of {tmp_path / 'prompts.json'}",
        f"data.preferences: taken the first 2 rows of {tmp_path / 'preferences.jsonl'}",
        f"{tmp_path / 'prompts.json'}: left out 1 rows that are prompts of evaluation or validation",
    ]


def test_stages_without_comparisons_do_not_depend_on_preferences(tmp_path: Path) -> None:
    def fingerprints(**changes: Any) -> tuple[str, str]:
        data = with_tables(tmp_path, PROMPTS, VALIDATION, **changes)
        return data.fingerprint(False), data.fingerprint(True)

    first = fingerprints()
    for same in ({"preferences": PREFERENCES[1:]}, {"judge_fraction": 0.5}):
        changed = fingerprints(**same)
        assert changed[0] == first[0]
        assert changed[1] != first[1]
    assert fingerprints(template="plain")[0] != first[0]
    assert with_tables(tmp_path, PROMPTS[1:], VALIDATION).fingerprint(False) != first[0]
    assert with_tables(tmp_path, PROMPTS, VALIDATION[1:]).fingerprint(False) != first[0]


def test_files_are_named_from_here_without_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, root=None)
    monkeypatch.chdir(tmp_path)
    assert TextData(config).fingerprint(True) == TextData(make_config(tmp_path)).fingerprint(True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_real_conversations(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """HH's harmless test set: 2,312 pairs, whose chosen answers are imitated too."""
    caplog.set_level(logging.INFO)
    hh = str(SHARED / "preferences" / "hh_harmless_base_test.jsonl.gz")
    opening = "\n\nHuman: what are some pranks with a pen i can do?\n\nAssistant: Are you looking"
    changes = {"template": "plain", "instructions": hh, "preferences": hh}
    data = TextData(replace(make_config(tmp_path), **changes))
    prompts = [item.prompt for item in data.demonstrations()] + data._tune + data._train
    assert sum(prompt.text.startswith(opening) for prompt in prompts) == 1
    assert all(prompt.text.endswith("\n\nAssistant:") for prompt in prompts)
    pairs = sum(len(item.verdicts) for item in data.comparisons(tokenizer, never_sample, False))
    pairs += sum(len(item.verdicts) for item in data.comparisons(tokenizer, never_sample, True))
    assert pairs == 2312
    # 2,312 rows: 4 of the chosen answers are empty, and 2 prompts come again
    assert len(prompts) == 2306
    assert caplog.messages == [
        f"{hh}: left out 4 rows that have an empty answer, the first at line 87",
        f"{hh}: left out 2 rows that repeat an earlier prompt",
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_real_files(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    changes = {
        "root": str(SHARED),
        "instructions": "instructions/alpaca_2000.json",
        "preferences": "preferences/gpt4_pairs_from_alpaca_eval.jsonl.gz",
        "evaluation": "alpaca_eval/instructions.json",
    }
    data = TextData(replace(make_config(tmp_path), **changes))
    evaluation = data.prompts("eval", 805, Random(0))
    assert len(data.demonstrations()) == 800
    assert len(set(data.prompts("train", 1000, Random(0)))) == 1000
    assert len(evaluation) == 805
    assert evaluation[0].instruction.startswith("What are the names of some famous actors")
    judge = data.comparisons(tokenizer, never_sample, True)
    reward = data.comparisons(tokenizer, never_sample, False)
    # 779 distinct prompts: 0.25 of them is 194.75. All 2,000 rows have a verdict.
    assert (len(judge), len(reward)) == (195, 584)
    assert sum(len(comparison.verdicts) for comparison in judge + reward) == 2000
    assert sum(data.seen_by_reward(prompt) for prompt in evaluation) == 584


def test_draw_and_partition() -> None:
    assert sorted(draw("abc", 2, Random(0))) in (["a", "b"], ["a", "c"], ["b", "c"])
    assert draw("abc", 0, Random(0)) == []
    first, second, rest = partition("abcdefgh", [3, 1], Random(0))
    assert (len(first), len(second), len(rest)) == (3, 1, 4)
    assert sorted(first + second + rest) == list("abcdefgh")
    assert all(part == sorted(part) for part in (first, second, rest))
