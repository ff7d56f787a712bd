"""What single sections make of runs whose answer is known."""

from pathlib import Path
from typing import Any

import pytest

from rlhf.report.load import Run
from studies import algorithms, behaviours, divergence, factuality, lora, overoptimisation, penalties, rank, tuning
from studies.section import AGREES, CONTRADICTS, OPEN, Section
from tests.report.conftest import make_run, point

WORLDS = (0, 1, 2, 3)
NOISE = (0.0, 0.1, -0.1, 0.0)


@pytest.fixture(autouse=True)
def _figures_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_figures.py and test_document.py draw; here it would only take time."""
    for module in (penalties, divergence, lora, rank, overoptimisation):
        monkeypatch.setattr(
            module, "draw", lambda path, panels, *axes, **options: path.write_text(f"{len(panels)} panels")
        )


def cells_of(section: Section, start: str, table: int = 0) -> list[str]:
    """The cells of the row that begins so, in one of the section's tables that have it."""
    lines = [line for text in section.paragraphs for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in lines[table].strip("|").split("|")]


def verdict_of(section: Section, words: str) -> str:
    [claim] = [claim for claim in section.claims if words in claim.paper]
    return claim.verdict


def runs_of(form: str, end: float, *, kl: float = 2.0, factuality: float = 75.0, **settings: Any) -> list[Run]:
    """One run in each world, whose win rate goes straight from 50 to `end`."""
    settings = {"regularizer__name": form, **settings}
    return [
        make_run(
            [
                point(0, 50.0, 0.0, 75.0),
                point(20, (50 + end) / 2 + NOISE[world], kl / 4, (75 + factuality) / 2),
                point(40, end + NOISE[world], kl, factuality + NOISE[world]),
            ],
            data__seed=world,
            **settings,
        )
        for world in WORLDS
    ]


def without(run: Run, *figures: str) -> Run:
    for figure in figures:
        run.metrics[figure] = None
    return run


def scattered(runs: list[Run]) -> list[Run]:
    for run, shift in zip(runs, (-4.0, 0.0, 0.0, 4.0), strict=True):
        run.metrics["win_rate_greedy"] += shift
    return runs


# ---- Penalties. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("none", "kl", "expected"),
    [(58.0, 59.0, AGREES), (59.0, 52.0, AGREES), (50.0, 59.0, CONTRADICTS)],
)
def test_whether_no_penalty_does_about_as_well(none: float, kl: float, expected: str, tmp_path: Path) -> None:
    section = penalties.section([*runs_of("none", none), *runs_of("kl", kl)], tmp_path)
    assert verdict_of(section, "Without a penalty") == expected
    assert cells_of(section, "kl", 1)[1] == f"{kl - none:+.1f}"  # the same in each world
    assert cells_of(section, "kl", 1)[3] == expected


def test_worlds_that_differ_can_not_tell(tmp_path: Path) -> None:
    section = penalties.section([*runs_of("none", 58.0), *scattered(runs_of("kl", 59.0))], tmp_path)
    assert verdict_of(section, "Without a penalty") == OPEN
    # differences of -3, 1, 1 and 5: their deviation is the root of 32 / 3, the margin 3.182 x that / 2
    assert cells_of(section, "kl", 1)[1] == "+1.0 [-4.2, +6.2]"


def test_one_world_can_not_tell(tmp_path: Path) -> None:
    runs = [run for run in (*runs_of("none", 50.0), *runs_of("js", 60.0)) if run.world == 0]
    section = penalties.section(runs, tmp_path)
    assert {claim.verdict for claim in section.claims} == {OPEN}
    assert cells_of(section, "js")[1] == "1 x 1"


def test_the_levels_of_forms(tmp_path: Path) -> None:
    section = penalties.section([*runs_of("none", 58.0), *runs_of("js", 60.0, kl=4.0)], tmp_path)
    row = cells_of(section, "js")
    assert row[1] == "4 x 1"
    assert row[2].startswith("60.0 [")
    assert row[3] == "–"  # these runs have no win rate at equal length
    assert row[4].startswith("60.0 [")
    assert row[4].endswith("(step 40)")
    assert row[5].startswith("55.0 [")  # sampled
    assert row[6:8] == ["4.00", "0.200"]
    assert (tmp_path / penalties.FIGURE).read_text() == "3 panels"  # the paper's is the third
    assert verdict_of(section, "penalty js, raises") == AGREES
    assert verdict_of(section, "Jensen-Shannon") == AGREES


def test_without_none_there_are_no_differences_to_it(tmp_path: Path) -> None:
    section = penalties.section([*runs_of("js", 58.0), *runs_of("kl", 66.0)], tmp_path)
    assert [claim.paper[:14] for claim in section.claims] == ["PPO with LoRA,", "PPO with LoRA,", "Jensen-Shannon"]
    assert verdict_of(section, "Jensen-Shannon") == CONTRADICTS


def test_another_strength_is_not_the_default(tmp_path: Path) -> None:
    strong = runs_of("js", 40.0, regularizer__strength=3.0)
    section = penalties.section([*runs_of("none", 58.0), *runs_of("js", 60.0), *strong], tmp_path)
    assert cells_of(section, "js")[2].startswith("60.0")


# ---- Divergence. ---------------------------------------------------------------------------------------------------


def test_forms_at_equal_divergence(tmp_path: Path) -> None:
    # in the root of the KL every rate is straight: none rises from 50 by 10.6 a root nat, js by 4.5
    runs = [*runs_of("none", 80.0, kl=8.0), *runs_of("js", 60.0, kl=5.0), *runs_of("kl", 52.0, kl=0.4)]
    section = divergence.section(runs, tmp_path)
    assert [cell.split(" ")[0] for cell in cells_of(section, "none")[2:5]] == ["–", "65.0", "71.2"]
    assert [cell.split(" ")[0] for cell in cells_of(section, "js")[2:5]] == ["–", "56.3", "58.9"]
    assert cells_of(section, "kl")[2:5] == ["–", "–", "–"]
    assert cells_of(section, "none", 1)[1:] == ["–", "–", "+8.7", "< 0.001", "+12.3", "< 0.001"]
    assert cells_of(section, "js")[5:] == ["5.00", "0.250", "4.5", "0.0"]  # straight in the root
    assert verdict_of(section, "Jensen-Shannon") == CONTRADICTS
    [claim] = [claim for claim in section.claims if "Jensen-Shannon" in claim.paper]
    assert claim.here == "the others minus js, at equal KL, are +8.7 to +12.3 points; not there to compare: kl."
    assert claim.counted == "of 2, 0 agree, 2 contradict, 0 can't tell"


def test_worlds_that_did_not_come_so_far_leave_the_cell_empty(tmp_path: Path) -> None:
    none = runs_of("none", 70.0, kl=8.0)
    for run in none[1:3]:
        run.checkpoints[-1]["true_kl_per_response"] = 3.0
    section = divergence.section([*none, *runs_of("js", 60.0, kl=8.0)], tmp_path)
    assert cells_of(section, "none")[3] != "–"
    assert cells_of(section, "none")[4] == "–"
    assert cells_of(section, "none", 1)[5] == "–"


def test_strengths_are_taken_together(tmp_path: Path) -> None:
    weak, strong = runs_of("js", 60.0, kl=8.0, regularizer__strength=0.3), runs_of("js", 56.0, kl=1.6)
    section = divergence.section([*runs_of("none", 60.0, kl=8.0), *weak, *strong], tmp_path)
    row = cells_of(section, "js")
    assert row[1] == "8"
    assert "–" not in row
    assert row[5:7] == ["8.00", "0.400"]
    assert "0.3, 1 times" in section.paragraphs[0]


@pytest.mark.parametrize(
    ("end", "kl", "peak"), [(60.0, 2.0, AGREES), (60.0, 8.0, CONTRADICTS), (40.0, 2.0, CONTRADICTS)]
)
def test_where_forms_peak(end: float, kl: float, peak: str, tmp_path: Path) -> None:
    section = divergence.section([*runs_of("none", end, kl=kl), *runs_of("js", end, kl=kl)], tmp_path)
    assert verdict_of(section, "Most variants") == peak  # where rates fall, SFT itself was best, at a KL of 0


@pytest.mark.parametrize(("end", "expected"), [(50.5, AGREES), (60.0, CONTRADICTS)])
def test_negative_kl(end: float, expected: str, tmp_path: Path) -> None:
    section = divergence.section([*runs_of("none", 58.0), *runs_of("negative_kl", end, kl=18.0)], tmp_path)
    assert verdict_of(section, "Negative KL") == expected


# ---- Factuality. ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("facts", "expected"), [(74.0, AGREES), (79.0, AGREES), (70.0, CONTRADICTS)])
def test_factuality_under_lora(facts: float, expected: str, tmp_path: Path) -> None:
    runs = [*runs_of("none", 58.0, factuality=facts - 1), *runs_of("js", 58.0, factuality=facts, judgements=[2.0] * 4)]
    section = factuality.section(runs if expected == CONTRADICTS else runs[len(WORLDS) :], tmp_path)
    assert verdict_of(section, "keeps SFT's factual precision") == expected
    row = cells_of(section, "js")
    assert row[2].startswith("75.0 [")
    assert row[3].startswith(f"{facts:.1f} [")
    assert row[4].startswith(f"{facts - 75:+.1f} [")
    assert row[6] == "–"  # no greedy figures
    assert row[7] == ("+1.0" if expected == CONTRADICTS else "–")
    assert row[8] == "3.00"


def test_runs_without_facts(tmp_path: Path) -> None:
    runs = [*runs_of("js", 58.0), *runs_of("js", 58.0, seed=1)]
    without(runs[0], "factuality")
    section = factuality.section(runs, tmp_path)
    assert "no facts at all (1 here)" in section.paragraphs[2]
    assert cells_of(section, "js")[1:4:2] == ["4 x 2", "–"]
    runs = [without(run, "factuality") for run in runs]
    assert "No finished runs" in factuality.section(runs, tmp_path).paragraphs[0]


# ---- LoRA, learning rates, rank. -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "facts", "expected"),
    [(57.0, 70.0, (AGREES, AGREES, AGREES)), (66.0, 78.0, (CONTRADICTS, CONTRADICTS, CONTRADICTS))],
)
def test_lora_against_full(rate: float, facts: float, expected: tuple[str, ...], tmp_path: Path) -> None:
    mine = runs_of("js", 58.0, factuality=75.0)
    full = runs_of("js", rate, kl=4.0, factuality=facts, lora__r=None)
    section = lora.section([*mine, *full, *runs_of("kl", 58.0), *runs_of("js", 90.0, lora__r=4)], tmp_path)
    papers = ("matches or beats", "Full PPO lowers", "protects")
    assert tuple(verdict_of(section, paper) for paper in papers) == expected
    assert cells_of(section, "win rate, js")[1] == f"{58 - rate:+.1f}"
    assert cells_of(section, "factuality, js")[1] == f"{75 - facts:+.1f}"
    assert cells_of(section, "js, full")[1] == "4 x 1"
    assert "LoRA 0.0005, full 5e-05" in section.paragraphs[0]


def test_a_text_without_facts_has_no_verdict_on_them(tmp_path: Path) -> None:
    runs = [*runs_of("js", 58.0), *runs_of("js", 57.0, lora__r=None)]
    section = lora.section([without(run, "factuality") for run in runs], tmp_path)
    assert len(section.claims) == 1


def test_lora_alone_is_no_comparison(tmp_path: Path) -> None:
    assert "No finished runs" in lora.section(runs_of("js", 58.0), tmp_path).paragraphs[0]


def test_learning_rates(tmp_path: Path) -> None:
    lora = [run for rate, end in ((5e-4, 58.0), (1e-3, 58.9), (2e-3, 57.0)) for run in runs_of("js", end, ppo__lr=rate)]
    full = [
        run
        for rate, end in ((5e-5, 55.0), (1e-4, 56.1))
        for run in runs_of("js", end, kl=4.0, lora__r=None, ppo__lr_full=rate)
    ]
    section = tuning.section([*lora, *full, *runs_of("kl", 60.0)], tmp_path)
    within, beyond = cells_of(section, "rank 8"), cells_of(section, "all weights")
    assert within[:6] == ["rank 8", "js", "ppo", "4 x 1", "58.0 (0.0005), 58.9 (0.001), 57.0 (0.002)", "0.0005"]
    assert beyond[1:6] == ["js", "ppo", "4 x 1", "55.0 (5e-05), 56.1 (0.0001)", "0.0001"]
    assert "**LoRA's chosen rate, as a multiple of that of all weights: rank 8 5 (js).**" in section.paragraphs
    assert not any("| kl |" in text for text in section.paragraphs)  # one rate is no choice


def test_learning_rates_of_lora_on_some_layers(tmp_path: Path) -> None:
    some = {"lora__target_modules": '["q_proj", "k_proj"]', "lora__r": 4}
    runs = [run for rate in (5e-4, 1e-3) for run in runs_of("js", 58.0, ppo__lr=rate, **some)]
    section = tuning.section(runs, tmp_path)
    assert cells_of(section, "rank 4 on [q_proj, k_proj]")[5] == "0.0005"
    assert not any("multiple" in text for text in section.paragraphs)


def test_ranks(tmp_path: Path) -> None:
    ranked = [
        run for r, end in ((16, 60.0), (1, 55.0), (None, 61.0), (8, 58.0)) for run in runs_of("js", end, lora__r=r)
    ]
    section = rank.section([*ranked, *runs_of("none", 10.0), *runs_of("js", 10.0, lora__r=1, ppo__lr=1.0)], tmp_path)
    rows = [line.split(" | ")[0] for line in section.paragraphs[4].splitlines()[2:]]
    assert rows == ["| 1", "| 8", "| 16", "| full"]
    assert cells_of(section, "1")[2] == "3,696"
    assert [cells_of(section, row)[4] for row in ("1", "8", "16", "full")] == ["-3.0", "–", "+2.0", "+3.0"]
    assert (tmp_path / rank.FIGURE).read_text() == "4 panels"
    answer = "LoRA's other ranks end -3.0 to +2.0 points of win rate from rank 8; 2 of the 2 intervals exclude 0."
    assert section.answers == [("Does LoRA's rank matter?", answer)]
    assert f"**{answer}**" in section.paragraphs


def test_two_ranks_are_too_few(tmp_path: Path) -> None:
    runs = [*runs_of("js", 58.0), *runs_of("js", 58.0, lora__r=4)]
    assert "No finished runs" in rank.section(runs, tmp_path).paragraphs[0]


# ---- Algorithms, the published behaviours, over-optimisation. ------------------------------------------------------


def test_algorithms(tmp_path: Path) -> None:
    best = runs_of("js", 62.0, algorithm__name="best_of_n", value__name="none", ppo__steps=0, evaluation__best_of=16)
    for run in best:
        run.metrics.update(true_kl_per_response=None, kl_bound_per_response=1.834, win_rate_greedy=None)
    rloo = runs_of("js", 57.0, algorithm__name="rloo", algorithm__samples_per_prompt=4, value__name="none")
    others = [*runs_of("none", 10.0), *runs_of("js", 10.0, ppo__retokenize=True)]
    section = algorithms.section([*others, *best, *rloo, *runs_of("js", 58.0)], tmp_path)
    rows = [line.split(" | ")[0] for line in section.paragraphs[1].splitlines()[2:]]
    assert rows == ["| ppo", "| rloo", "| best_of_n"]
    assert cells_of(section, "ppo")[2].startswith("58.0")
    assert cells_of(section, "rloo")[4] == "-1.0"
    best = cells_of(section, "best_of_n")
    assert (best[2], best[3].split(" ")[0], best[4]) == ("–", "56.0", "+2.0")  # sampled, 56 against 54
    assert best[7] == "at most 1.83"
    assert cells_of(section, "ppo")[9] == "24"


def test_ppo_alone_is_no_comparison(tmp_path: Path) -> None:
    assert "No finished runs" in algorithms.section(runs_of("js", 58.0), tmp_path).paragraphs[0]


def published(**settings: Any) -> dict[str, Any]:
    on = {key.replace(".", "__"): value for key, value in behaviours.PUBLISHED.items()}
    return {**on, **settings}


def test_the_published_behaviours(tmp_path: Path) -> None:
    off, on = runs_of("js", 58.0), runs_of("js", 53.0, ppo__dropout=True, **published())
    some = runs_of("js", 10.0, **published(ppo__average="tokens"))
    section = behaviours.section([*off, *on, *some, *runs_of("none", 10.0, **published())], tmp_path)
    assert cells_of(section, "js")[4] == "-5.0"
    assert len(section.paragraphs[1].splitlines()) == 3  # js alone has both


def test_behaviours_in_other_settings_are_no_comparison(tmp_path: Path) -> None:
    runs = [*runs_of("js", 58.0), *runs_of("js", 53.0, ppo__steps=180, **published())]
    assert behaviours.section(runs, tmp_path).paragraphs == []


def over(form: str, *rates: float) -> list[Run]:
    runs = runs_of(form, 50.0)
    for run in runs:
        points = [
            point(20 * place, rate + NOISE[run.world], 2.0 * place, reward=1.0 * place)
            for place, rate in enumerate(rates)
        ]
        run.checkpoints[:] = points
        run.metrics.update(points[-1], baseline=points[0])
    return runs


def test_over_optimisation(tmp_path: Path) -> None:
    section = overoptimisation.section([*over("none", 50.0, 60.0, 55.0), *over("js", 50.0, 58.0, 59.0)], tmp_path)
    assert cells_of(section, "none") == ["none", "20", "-5.0", "+1.00", "+2.00"]
    assert cells_of(section, "js") == ["js", "40", "0.0", "0.00", "+2.00"]
    assert verdict_of(section, "Beyond their best") == AGREES


def test_training_that_ends_at_its_best_can_not_tell(tmp_path: Path) -> None:
    section = overoptimisation.section([*over("none", 50.0, 55.0, 60.0), *over("js", 50.0, 58.0, 59.0)], tmp_path)
    assert verdict_of(section, "Beyond their best") == OPEN
