"""What things cost here, as ratios of what is measured side by side: `python -m rlhf.bench WHAT [OVERRIDE ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf.bench.ranks import measure_ranks
from rlhf.bench.resume import measure_resume
from rlhf.bench.submit import measure_submission
from rlhf.errors import UserError

MEASURES = {"ranks": measure_ranks, "resume": measure_resume, "submit": measure_submission}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.bench", description=__doc__)
    what = "two ranks against one; a stopped run against a whole one; handing a hundred runs to SLURM"
    parser.add_argument("what", choices=MEASURES, help=what)
    parser.add_argument("overrides", nargs="*", help="settings of the runs, as on the command line of rlhf.run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn")
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench"), help="where the runs are left")
    options = parser.parse_intermixed_args(arguments)
    try:
        MEASURES[options.what](options.overrides, options.rounds, options.folder)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
