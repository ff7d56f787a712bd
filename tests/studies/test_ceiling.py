"""`python -m studies.ceiling`: the best of n by the reward model, by its annotator and by the oracle, in miniature."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.console import console
from rlhf.data.source import Response
from rlhf.evaluation.judges import ScoreJudge
from rlhf.stages.setting import Setting
from rlhf.storage.files import read_json
from studies import ceiling
from tests.configure import configure
from tests.stages.conftest import make_setting
from tests.stages.test_evaluator import evaluator
from tests.test_text_run import TINY, root

__all__ = ["make_setting", "root"]

CHOOSERS = ["reward model", "annotator", "oracle"]
SIZES = (1, 2, 5)


def measured(folder: Path, sizes: Sequence[int], *overrides: str) -> tuple[dict[str, Any], str]:
    """The figures, and what the console said."""
    options = ("--sizes", *map(str, sizes), "--json", str(folder / "figures.json"))
    with console.capture() as shown:
        ceiling.main([*overrides, "device=cpu", *options])
    return read_json(folder / "figures.json"), shown.get()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    return measured(tmp_path_factory.mktemp("ceiling"), SIZES, "experiment=smoke", f"cache_dir={cache}")


def rates(found: tuple[dict[str, Any], str], chooser: str) -> list[float]:
    return [figures["win_rate"] for figures in found[0]["choosers"][chooser]["best_of"].values()]


def test_each_chooser_has_a_figure_for_each_size(found: tuple[dict[str, Any], str]) -> None:
    figures, _ = found
    assert figures["prompts"] == 16
    assert figures["reward"].keys() >= {"loss", "accuracy", "accuracy_se"}
    assert list(figures["choosers"]) == CHOOSERS
    for chooser in figures["choosers"].values():
        assert list(chooser["best_of"]) == [str(size) for size in SIZES]
        for each in chooser["best_of"].values():
            assert each.keys() == {"win_rate", "win_rate_se", "response_length"}
            assert 0 <= each["win_rate"] <= 100
            assert 0 < each["response_length"] <= 16
        assert 0 <= chooser["oracle_agreement"] <= 1


def test_the_best_of_one_is_the_same_whoever_chooses(found: tuple[dict[str, Any], str]) -> None:
    alone = [chooser["best_of"]["1"] for chooser in found[0]["choosers"].values()]
    assert alone == [alone[0]] * 3


def test_the_oracle_is_the_judge_so_that_none_chooses_better_and_more_draws_never_hurt(
    found: tuple[dict[str, Any], str],
) -> None:
    best = rates(found, "oracle")
    assert best == sorted(best)
    assert best[-1] > best[0]
    for chooser in CHOOSERS[:2]:
        assert all(other <= own for other, own in zip(rates(found, chooser), best, strict=True))
    assert found[0]["choosers"]["oracle"]["oracle_agreement"] == 1.0


def test_the_table_has_a_row_for_each_size_and_a_column_for_each_chooser(found: tuple[dict[str, Any], str]) -> None:
    figures, shown = found
    lines = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in shown.splitlines() if line.startswith(("│", "┃"))]
    rows = {name: cells for name, *cells in lines if re.fullmatch(r"\d+", name)}
    assert list(rows) == [str(size) for size in SIZES]
    for size, cells in rows.items():
        wanted = [chooser["best_of"][size]["win_rate"] for chooser in figures["choosers"].values()]
        assert [float(cell.split()[0]) for cell in cells] == [round(rate, 1) for rate in wanted]


def test_it_draws_for_the_tuning_prompts_anew_and_from_the_seed_alone(
    found: tuple[dict[str, Any], str], cache: Path, tmp_path: Path
) -> None:
    setting = Setting.open(configure("experiment=smoke", "evaluation.split=tune", f"cache_dir={cache}", "device=cpu"))
    people = {person.name for person in setting.source.splits["tune"]}  # pyright: ignore[reportAttributeAccessIssue]
    assert {prompt.detail.person.name for prompt in setting.prompts} <= people
    again = ceiling.measure(setting, SIZES)
    assert again == found[0]
    fewer, _ = measured(tmp_path, [2], "experiment=smoke", f"cache_dir={cache}")
    for name in CHOOSERS:  # of fewer draws the first are the same
        assert fewer["choosers"][name]["best_of"] == {"2": found[0]["choosers"][name]["best_of"]["2"]}


def test_an_annotator_who_likes_length_gets_the_longest_of_n(cache: Path) -> None:
    asked: list[float] = []

    def utility(prompt, response) -> float:
        asked.append(float(len(response.token_ids)))
        return asked[-1]

    setting = Setting.open(configure("experiment=smoke", "evaluation.split=tune", f"cache_dir={cache}", "device=cpu"))
    setting.source.annotator_utility = utility  # type: ignore[method-assign]
    figures = ceiling.measure(setting, [3])
    assert len(asked) >= 3 * 16
    assert len(set(asked)) > 1
    lengths = {name: figures["choosers"][name]["best_of"]["3"]["response_length"] for name in CHOOSERS}
    assert lengths["annotator"] == max(lengths.values())


def test_the_best_of_n_by_hand(make_setting: Any) -> None:
    """By a judge that likes the longer response, against two references of 4 and 6 tokens, of two prompts alike."""
    measure = evaluator(make_setting("evaluation.prompts=2"))

    def tokens(*lengths: int) -> list[Response]:
        return [Response([7] * length, "", False) for length in lengths]

    judge = ScoreJudge(lambda prompts, responses: [float(len(response.token_ids)) for response in responses])
    object.__setattr__(measure, "references", [tokens(4, 4), tokens(6, 6)])
    object.__setattr__(measure, "judge", judge)
    draws, scores = [tokens(3, 9), tokens(5, 1), tokens(8, 2)], [[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]]
    # of one: 3 loses to both, 9 wins both
    assert ceiling.best_of(measure, draws, scores, 1)["win_rate"] == 50.0
    # of two: 5 beats one of them, 9 both; of three: 5 again, and 2, which loses to both
    assert ceiling.best_of(measure, draws, scores, 2) == pytest.approx(
        {"win_rate": 75.0, "win_rate_se": 25.0, "response_length": 7.0}
    )
    assert ceiling.best_of(measure, draws, scores, 3) == pytest.approx(
        {"win_rate": 25.0, "win_rate_se": 25.0, "response_length": 3.5}
    )


def test_of_text_nobody_knows_the_worth_and_the_reward_model_chooses_alone(root: Path, tmp_path: Path) -> None:
    overrides = (*TINY, "data.tune_fraction=0.3", f"data.root={root}", f"cache_dir={root / 'cache'}", "tracker=none")
    figures, shown = measured(tmp_path, [1, 2], *overrides)
    assert list(figures["choosers"]) == ["reward model"]
    assert list(figures["choosers"]["reward model"]) == ["best_of"]
    assert "by the reward model" in shown
    assert "oracle" not in shown


@pytest.mark.parametrize("sizes", [["0"], ["-1"], ["two"], ["1.5"], ["1", "x"], []])
def test_a_bad_size_is_refused(sizes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ceiling.main(["experiment=smoke", "--sizes", *sizes])
    assert "--sizes" in capsys.readouterr().err


def test_a_bad_setting_is_refused_by_its_key_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: evaluation\.prompts=1 is not allowed"):
        ceiling.main(["experiment=smoke", "evaluation.prompts=1", f"cache_dir={tmp_path / 'cache'}"])
    assert not (tmp_path / "cache").exists()
