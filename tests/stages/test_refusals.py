"""What can't be run is refused in a line, before any work, and leaves nothing."""

import json
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlhf.compose import load_config
from rlhf.config.data import TextConfig
from rlhf.config.models import PolicyLoraConfig
from rlhf.config.run import Config
from rlhf.data.source import Message
from rlhf.data.text import TextData
from rlhf.errors import ConfigError, DataError, UserError
from rlhf.experiment import run
from rlhf.models.adapters import SharedBase
from rlhf.models.backbone import save_backbone
from rlhf.models.external_reward import conversation
from rlhf.models.initial_adapter import check_base
from rlhf.run import is_plain
from rlhf.stages.preflight import check_rows, check_sweep
from rlhf.storage.places import check_file, check_folder
from tests.configure import configure
from tests.data.test_encoding import CHATML, chat_tokenizer
from tests.tiny import tiny_lm, tiny_tokenizer

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + CHATML


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def text_data(folder: Path, template: str = "chat", **tables: Any) -> TextData:
    """Data of conversations, ten rows a table, unless a table is given."""

    def turns(key: str, number: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{key} {number}"}]

    given: dict[str, list[dict[str, Any]]] = {
        "evaluation": [{"prompt": turns("e", number)} for number in range(10)],
        "prompts": [{"prompt": turns("p", number)} for number in range(10)],
        "instructions": [{"prompt": turns("i", number), "completion": "a"} for number in range(10)],
        "preferences": [{"prompt": turns("r", number), "chosen": "a", "rejected": "b"} for number in range(10)],
    }
    paths: dict[str, Any] = {key: write(folder / f"{key}.jsonl", rows) for key, rows in (given | tables).items()}
    return TextData(TextConfig(root=None, template=template, sft_fraction=None, seed=0, **paths))


@pytest.mark.parametrize("key", ["evaluation", "prompts", "instructions", "preferences"])
def test_each_row_is_rendered_before_any_work_and_the_one_refused_is_named(key: str, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(NO_SYSTEM)
    check_rows(text_data(tmp_path), tokenizer)
    rows = [json.loads(line) for line in (tmp_path / f"{key}.jsonl").read_text().splitlines()]
    rows[7]["prompt"].insert(0, {"role": "system", "content": "Be kind."})
    with pytest.raises(
        DataError, match=rf"{key}\.jsonl, line 8, field 'prompt': data\.template=chat: .*No system role"
    ):
        check_rows(text_data(tmp_path, **{key: rows}), tokenizer)


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (["data.demonstrations=20"], r"^sft\.batch_size=32 is not allowed: the data has 20 rows$"),
        (
            ["data.comparison_prompts=10"],
            r"^reward\.holdout=0\.1 .* of 10 compared prompts it keeps 1 aside, and 2",
        ),
        (
            ["data.comparison_prompts=15", "reward.batch_size=16"],
            r"^reward\.batch_size=\d+ is not allowed: 13 compared prompts are left to",
        ),
        (["model.layers=100000"], r"^model\.layers=100000 is not allowed: must be at most 1000$"),
        (["model.hidden_size=1000000"], r"^model\.hidden_size=1000000 is not allowed: must be at most 131072$"),
    ],
)
def test_data_too_small_and_models_beyond_any_size_are_refused_before_any_work(
    overrides: list[str], refusal: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=refusal):
        run(load_config(*overrides, f"cache_dir={tmp_path / 'cache'}"), tmp_path / "run")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_given_reward_reads_the_turns_of_a_conversation(template: str, tmp_path: Path) -> None:
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "How are you?")]
    rows = [{"prompt": [{"role": role, "content": text} for role, text in turns]}]
    [prompt] = text_data(tmp_path, template, evaluation=rows)._evaluation
    answer = " Fine." if template == "plain" else "Fine."
    assert conversation(prompt, answer) == [*(Message(*turn) for turn in turns), Message("assistant", "Fine.")]


TURN = st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=6))
LINES = st.sampled_from(["\n\n", "\r\n\r\n", "\n", "\r\n", " "])


@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(TURN, min_size=1, max_size=4), ends=LINES, template=st.sampled_from(["chat", "plain"]))
def test_rows_of_any_text_are_read_or_refused_by_their_place(
    turns: list[tuple[str, str]], ends: str, template: str, tmp_path: Path
) -> None:
    said = [{"role": role, "content": text} for role, text in turns]
    spoken = "".join(f"{ends}{'Human' if role == 'user' else 'Assistant'}: {text}" for role, text in turns)
    good = [{"prompt": [{"role": "user", "content": f"q {number}"}]} for number in range(3)]
    try:
        data = text_data(tmp_path, template, evaluation=[*good, {"prompt": said}, {"prompt": spoken}])
        check_rows(data, chat_tokenizer())
    except DataError as refusal:
        told = str(refusal)
    else:
        return
    assert "evaluation.jsonl, line " in told
    assert "\n" not in told


def test_an_adapter_of_another_base_is_refused_though_its_shapes_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("base", "other"):
        save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / name)
    base, other = str(tmp_path / "base"), str(tmp_path / "other")
    lora = PolicyLoraConfig(r=2)
    SharedBase(tiny_lm(), path=base).add("policy", lora, trainable=True).save(tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    check_base(adapter, base)
    check_base(adapter, other)  # a copy, whose weights are the same
    weights = Path(other) / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    for wrong in (other, "someone/other", None):
        with pytest.raises(ConfigError, match=rf"lora\.path={adapter} .* trained on {base}, and this run's base is"):
            check_base(adapter, wrong)
    for named, right in (("someone/base", "/a/copy/base"), ("", other)):
        file = tmp_path / "adapter" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": named}))
        check_base(adapter, right)
    assert "doesn't say which base it was trained on" in caplog.text


# ---- Paths, and the configuration. --------------------------------------------------------------------------------


def test_a_file_to_be_written_may_be_there_or_not_but_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was")
    for path in (tmp_path / "file", tmp_path / "a" / "b.json"):
        check_file("--out", path)
    for path, told in ((tmp_path, "is no file"), (tmp_path / "file" / "b", "is no folder")):
        with pytest.raises(ConfigError, match=rf"^--out={path} is not allowed: .* {told}$"):
            check_file("--out", path)
    with pytest.raises(ConfigError, match="too long"):
        check_file("--out", tmp_path / ("a" * 300))


def test_a_place_that_can_not_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    check_folder("cache_dir", tmp_path / "a" / "b")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=rf"^cache_dir={place} is not allowed: {tmp_path / 'file'} is no folder$"):
            check_folder("cache_dir", place)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="can't be written to"):
        check_folder("cache_dir", tmp_path / "a")


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(max_size=300))
def test_any_path_is_a_folder_to_be_or_is_refused_in_a_line(path: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    try:
        check_folder("cache_dir", f"{tmp_path}/{path}")
        told = "cache_dir="
    except ConfigError as refusal:
        told = str(refusal)
    assert told.startswith("cache_dir=")
    assert sorted(tmp_path.iterdir()) == before


def keys(kind: type = Config, prefix: str = "") -> list[str]:
    found = []
    for field in fields(kind):
        nested = field.default_factory if isinstance(field.default_factory, type) else None
        inner = keys(nested, f"{prefix}{field.name}.") if nested is not None and is_dataclass(nested) else []
        found += [f"{prefix}{field.name}", *inner]
    return found


ODD = [
    "-1",
    "0",
    "1e400",
    "nan",
    "null",
    "true",
    "[1,2]",
    "{a:1}",
    "''",
    "x",
    "99999999999999999999",
    "${no.such}",
    "???",
]


@settings(max_examples=10, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
@example(key="regularizer.function", value="{a:1}")
@example(key="lora", value="-1")
@example(key="algorithm", value="true")
@given(key=st.sampled_from(keys()), value=st.sampled_from(ODD))
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: str) -> None:
    with suppress(UserError):  # and nothing else
        load_config("experiment=smoke", f"{key}={value}")


def test_a_run_that_can_not_be_done_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for overrides in (
        (f"cache_dir={tmp_path / 'file'}",),
        ("lora.target_modules=[q_proj,v_porj]",),
        (f"model.path={tmp_path / 'nowhere'}",),
        ("model.hidden_size=8000000",),
    ):
        with pytest.raises(UserError):
            run(configure("experiment=smoke", *overrides), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_members_of_a_sweep_are_checked_before_the_first_runs() -> None:
    good, bad = configure("experiment=smoke"), configure("experiment=smoke", "lora.target_modules=[q_proj,v_porj]")
    assert (is_plain(good), is_plain(bad)) == (True, False)
    check_sweep([good, good], here=True)
    with pytest.raises(ConfigError, match=r"^run 1 of the sweep: lora\.target_modules="):
        check_sweep([good, bad], here=True)
