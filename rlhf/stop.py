"""End runs for good before their last step: `python -m rlhf.stop RUN_DIR ...`.

Each ends after the step that it is at, as pruned, with its figures so far and a checkpoint that `rlhf clone` goes on
from. The request is a file, so it reaches a run wherever it is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import command, console
from rlhf.errors import DataError
from rlhf.search.pruning import request_stop
from rlhf.storage.reader import ENDED
from rlhf.storage.runs import find_runs, read_run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.stop", description="End runs before their last step.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN_DIR", help="directories of runs")
    options = parser.parse_args(arguments)
    with command():
        for path in options.paths:
            console.print(stop(path), soft_wrap=True)


def stop(path: Path) -> str:
    """Ask a run to end; returns what will come of it. Raises DataError where there is no run to stop."""
    if find_runs([path]) != [path]:
        raise DataError(f"{path} is no run's directory")
    found = read_run(path)
    if found.state in (*ENDED, "unreadable"):
        raise DataError(f"{path} is {found.state}{f': {found.reason}' if found.reason else ''}")
    request_stop(path)
    when = "after the step that it is at" if found.state == "running" else f"once it goes on: it is {found.state}"
    return f"{path} ends as pruned {when}"


if __name__ == "__main__":
    main()
