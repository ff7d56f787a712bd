"""The whole report: sections in their order, and a summary of verdicts before them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from rlhf.report.load import Outputs, Run
from rlhf.report.markdown import table
from rlhf.report.settings import distinct
from studies import (
    algorithms,
    behaviours,
    divergence,
    factuality,
    lora,
    overoptimisation,
    penalties,
    questions,
    ran,
    rank,
    tuning,
)
from studies.claims import decided
from studies.section import Section, outcome, render

INTRODUCTION = (
    "# Results\n\nWritten by `python -m studies` from the run directories alone; nothing in it is edited by "
    "hand. It asks what arXiv 2309.09055 asks, in the embedded world ([world.md](world.md)), and says where the "
    "answers agree."
)

Write = Callable[[Sequence[Run], Path], Section]

SECTIONS: tuple[Write, ...] = (
    penalties.section,
    divergence.section,
    factuality.section,
    lora.section,
    tuning.section,
    rank.section,
    algorithms.section,
    overoptimisation.section,
    behaviours.section,
    questions.section,
)


def document(outputs: Outputs, figures: Path) -> str:
    """The report in markdown; its figures are written to `figures`."""
    runs, repeats = distinct(outputs.runs)
    reported, tuned = (
        [run for run in runs if run.config.get("evaluation.split") == split] for split in ("eval", "tune")
    )
    found = [write(tuned if write is tuning.section else reported, figures) for write in SECTIONS]
    about = [ran.ran(outputs, repeats), ran.reading(), ran.paper()]
    numbered = [section for section in (*found, ran.limits()) if section.paragraphs]
    claims = iter(decided([claim for section in numbered for claim in section.claims]))
    titled = [
        replace(section, title=f"{place}. {section.title}", claims=list(islice(claims, len(section.claims))))
        for place, section in enumerate(numbered, start=1)
    ]
    return "\n\n".join([INTRODUCTION, summary(titled), *map(render, (*about, *titled))]) + "\n"


def summary(sections: Sequence[Section]) -> str:
    """A row for every claim, with its verdict and its section; then what the paper could not ask."""
    rows = [
        [claim.paper, outcome(claim), section.title.split(".")[0]] for section in sections for claim in section.claims
    ]
    if not rows:
        return "No claim can be judged yet: no runs to compare."
    verdicts = table(["the paper", "this report", "section"], rows, text=2)
    asked = [
        f"- *{question}* {answer} (section {section.title.split('.')[0]})"
        for section in sections
        for question, answer in section.answers
    ]
    return "\n\n".join([verdicts, *["Beside the paper's claims:", "\n".join(asked)][: 2 * bool(asked)]])
