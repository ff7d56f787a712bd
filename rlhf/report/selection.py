"""Where choosing has biased a comparison: what is chosen on one split is to be reported on another."""

from collections.abc import Sequence

from rlhf.report.load import Run, Unfinished
from rlhf.report.markdown import count

EVAL = "eval"
SPLIT = "evaluation.split"
REMEDY = "Choose on the tuning people (evaluation.split=tune); run what was chosen anew on the others, by a fresh seed."


def broken(runs: Sequence[Run], pruned: Sequence[Unfinished]) -> list[str]:
    """Why these runs allow no verdict: what was chosen by the figures that they would be compared by."""
    reported = [run for run in runs if run.config.get(SPLIT) == EVAL]
    searched = [run for run in reported if run.made_by is not None and "sweeper" in run.made_by]
    chosen = [run for run in reported if run.chosen is not None and run.chosen["split"] == EVAL]
    stopped = [run for run in on(EVAL, pruned) if ruled(run)]
    reasons = []
    if searched:
        names = {str((run.made_by or {}).get("sweeper")).rpartition(".")[2] for run in searched}
        reasons.append(f"the settings of {count(len(searched), 'run')} were chosen by {' and '.join(sorted(names))}")
    if chosen:
        reasons.append(f"the policies of {count(len(chosen), 'run')} were chosen among those kept on the way")
    if stopped:
        reasons.append(f"{count(len(stopped), 'run')} fell out by pruning")
    return reasons


def ruled(run: Unfinished) -> bool:
    """Whether a rule has pruned it, and not somebody by hand."""
    return (run.config or {}).get("prune.name", "none") != "none"


def on(split: str, pruned: Sequence[Unfinished]) -> list[Unfinished]:
    return [run for run in pruned if (run.config or {}).get(SPLIT) == split]


def caveats(runs: Sequence[Run], pruned: Sequence[Unfinished]) -> list[str]:
    """What choosing does to the intervals of this comparison, which is no report where it is made to choose by."""
    found = []
    if pruned:
        found.append(
            f"{count(len(pruned), 'run')} ended as pruned and stands in no mean. Those left were selected by what they "
            "had reached: their levels are too high, and their intervals, which know nothing of it, too narrow."
        )
    if any(run.config.get(SPLIT) == "tune" for run in runs):
        found.append(
            "These are figures of the tuning people, to choose by and not to report: the best of several is best by "
            "luck too. Run what was chosen anew, on the others and by a fresh seed."
        )
    return found
