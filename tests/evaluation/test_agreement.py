"""Agreement with people: by hand, and the published figures of two judges."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import DataError
from rlhf.evaluation.agreement import (
    Comparison,
    agreement,
    annotator_kappas,
    kappa,
    label_of,
    read_comparisons,
    read_label,
)

PANDALM = Path(__file__).parents[3] / "shared" / "data" / "preferences" / "pandalm_human_testset.jsonl"


def comparisons(tmp_path: Path, *rows: dict[str, Any]) -> list[Comparison]:
    path = tmp_path / "people.jsonl"
    base = {"instruction": "q", "input": "", "output_1": "a", "output_2": "bb"}
    path.write_text("".join(json.dumps(base | row) + "\n" for row in rows))
    return read_comparisons(path)


def people(*labels: int) -> dict[str, int]:
    return {f"annotator{number}": label for number, label in enumerate(labels, start=1)}


def test_agreement_by_hand(tmp_path: Path) -> None:
    """Majorities 1, 2, 2, 0, and none; the judge says 1, 1, nothing, 0, 2."""
    rows = comparisons(tmp_path, people(1, 1, 2), people(2, 2, 2), people(2, 2, 0), people(0, 0, 1), people(0, 1, 2))
    assert [row.majority for row in rows] == [1, 2, 2, 0, None]
    found = agreement(rows, [1, 1, None, 0, 2])
    assert (found["n"], found["n_without_majority"], found["n_null"], found["n_ties"]) == (4, 1, 1, 1)
    assert found["agreement"] == 50.0
    assert found["agreement_se"] == pytest.approx(100 / 3**0.5 / 2)  # two of 100 and two of 0: sd 100 / sqrt(3), over 4
    assert found["agreement_readable"] == pytest.approx(200 / 3)
    assert found["agreement_decided"] == pytest.approx(100 / 3)
    # of three read, 2/3 agree; by chance 1/3 x 2/3 (label 1) + 1/3 x 1/3 (label 0) = 1/3: (2/3 - 1/3) / (1 - 1/3)
    assert found["kappa"] == pytest.approx(0.5)
    # output 2 is the longer: the judge chose 1 twice (of two), people 2 twice of three
    assert (found["output_1_preferred"], found["longer_preferred"]) == (100.0, 0.0)
    assert found["longer_preferred_by_people"] == pytest.approx(200 / 3)
    assert found["output_1_preferred_by_people"] == pytest.approx(100 / 3)


def test_kappa_of_a_published_table() -> None:
    """Cohen's own kind of example: 20 and 15 agreements, 5 and 10 disagreements of 50: (0.7 - 0.5) / 0.5."""
    first = [1] * 25 + [2] * 25
    second = [1] * 20 + [2] * 5 + [1] * 10 + [2] * 15
    found, error = kappa(first, second)
    assert found == pytest.approx(0.4)
    assert error is not None
    assert 0.1 < error < 0.15
    assert kappa([1, 1], [1, 1]) == (None, None)


def test_kappas_of_every_two_people(tmp_path: Path) -> None:
    rows = comparisons(tmp_path, people(1, 1, 2), people(2, 2, 1), people(0, 0, 0))
    assert annotator_kappas(rows) == pytest.approx({"1 and 2": 1.0, "1 and 3": 0.0, "2 and 3": 0.0})
    assert annotator_kappas(comparisons(tmp_path, people(1, 2), people(1))) == {}


def test_a_single_label_is_its_own_majority(tmp_path: Path) -> None:
    rows = comparisons(tmp_path, {"preference": 2}, {"preference": 1.5, "annotator": "someone"}, {"preference": 0})
    assert [row.majority for row in rows] == [2, 0, 0]
    assert annotator_kappas(rows) == {}


def test_a_row_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2, field 'annotator2' is 5"):
        comparisons(tmp_path, people(1, 1), people(1, 5))
    with pytest.raises(DataError, match="field 'preference' is missing"):
        comparisons(tmp_path, {})


def test_the_input_belongs_to_the_instruction_and_outputs_may_be_no_strings(tmp_path: Path) -> None:
    (row,) = comparisons(tmp_path, {"input": "x", "output_1": True, "preference": 1})
    assert (row.instruction, row.outputs) == ("q\n\nx", ("True", "bb"))


READ = {"1": 1, "2": 2, "Tie": 0, "0": 0, 1: 1, 2.0: 2, 1.5: 0, "garbage": None, None: None}


@pytest.mark.parametrize(("value", "label"), [*READ.items(), (True, None)])
def test_labels_in_figures_and_words(value: object, label: int | None) -> None:
    assert read_label(value) == label


@pytest.mark.parametrize(("preference", "label"), [(1.0, 1), (1.49, 1), (1.5, 0), (1.51, 2), (2.0, 2), (None, None)])
def test_the_label_of_a_preference(preference: float | None, label: int | None) -> None:
    assert label_of(preference) == label


@pytest.mark.skipif(not PANDALM.is_file(), reason="the PandaLM data is not here")
def test_the_published_agreement_of_people_and_two_judges() -> None:
    rows = read_comparisons(PANDALM)
    assert len(rows) == 999
    kappas = annotator_kappas(rows)
    assert [round(value, 2) for value in kappas.values() if value is not None] == [0.85, 0.88, 0.86]
    for column, published in (("gpt35_result", 69.8), ("pandalm7b_result", 66.8)):
        found = agreement(rows, [read_label(row.row.values[column]) for row in rows])
        assert round(found["agreement"], 1) == published
        assert (found["n"], found["n_without_majority"]) == (999, 0)
