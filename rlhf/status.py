"""Show what runs are doing: `python -m rlhf.status [PATH ...]`; see `--help`.

Read from their directories and, of runs that wait for SLURM, from its queue.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from rlhf.console import PlainConsole, command, number
from rlhf.escape import visible
from rlhf.launch.cancel import cancel
from rlhf.launch.keys import follow
from rlhf.launch.launchers import read_runs, restored
from rlhf.launch.overview import in_order, nearest, overview
from rlhf.launch.sweep import LAUNCHER_FILE
from rlhf.launch.watch import watch
from rlhf.stop import stop
from rlhf.storage.runs import BAD, RunState, find_runs, short_names

RETRIED = ("failed", "lost", "cancelled", "preempted")

EPILOG = """\
Exit status: 0 if nothing has gone wrong, 1 if a run has failed, is lost or unreadable, 2 if it was asked wrongly.
lost: was running, or waiting for a launcher, that is gone; --retry lost goes on with it."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    missing = [str(path) for path in options.paths if not path.is_dir()]
    if missing:
        parser().error(visible(f"no such directory: {', '.join(missing)}"))
    with command():
        sys.exit(status(options))


def parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m rlhf.status", None, "Show what runs are doing.", EPILOG, formatter_class=form
    )
    where = "sweeps, runs, or folders of them; default: outputs"
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("outputs")], metavar="PATH", help=where)
    act = parser.add_mutually_exclusive_group()
    until = "renew the table until nothing is left to do; on a terminal keys stop a run, or say how to branch it off"
    act.add_argument("--watch", action="store_true", help=until)
    act.add_argument("--json", action="store_true", help="a row per run, for scripts")
    act.add_argument("--cancel", action="store_true", help="stop the runs that run or wait; they save first")
    again = "start these again, by the launcher that had them; all: all that are not done"
    act.add_argument("--retry", choices=(*RETRIED, "all"), help=again)
    seconds, every = number(0.01, 86400.0, "number of seconds"), "between two looks of --watch; default: 2"
    parser.add_argument("--every", type=seconds, default=2.0, metavar="SECONDS", help=every)
    return parser


def status(options: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit status."""
    console = PlainConsole()
    if options.cancel:
        for line in cancel(read(options.paths)):
            console.print(line, soft_wrap=True)
    if options.retry:
        states = RETRIED if options.retry == "all" else (options.retry,)
        for line in retry([run for run in read(options.paths) if run.state in states]):
            console.print(line, soft_wrap=True)
    runs = watched(options.paths, options.every, console) if options.watch else read(options.paths)
    if options.json:
        print(json.dumps(rows(runs), indent=2))
    elif runs:
        console.print(overview(runs, time.time(), console.width), crop=False)
        if advised := advice(runs, options.paths):
            console.print(advised, soft_wrap=True)
    else:
        console.print(f"no runs in {', '.join(map(str, options.paths))}", soft_wrap=True)
    return int(any(run.state in BAD for run in runs))


def watched(paths: Sequence[Path], seconds: float, console: PlainConsole) -> list[RunState]:
    """Follow the runs to their end; with keys where somebody sits at a terminal."""
    if console.is_terminal and sys.stdin is not None and sys.stdin.isatty():
        return follow(lambda: read(paths), seconds, console, sys.stdin.fileno(), stop)
    return watch(lambda: read(paths), seconds, console)


def advice(runs: Sequence[RunState], paths: Sequence[Path]) -> str | None:
    """How to go on with what has stopped before its end; None where there is no such run."""
    states = {run.state for run in runs}.intersection(RETRIED)
    which = "all" if len(states) > 1 else "".join(states)
    return (
        f"to go on: {shlex.join(['python', '-m', 'rlhf.status', *map(str, paths), '--retry', which])}"
        if states
        else None
    )


def read(paths: Sequence[Path]) -> list[RunState]:
    return read_runs(path.resolve() for path in find_runs(paths))


def retry(runs: Sequence[RunState]) -> Iterator[str]:
    """Hand each sweep's runs to the launcher that had them; yields what was done, or what to do by hand."""
    for sweep, group in groupby(in_order(runs), key=lambda run: run.path.parent):
        paths = [run.path for run in group]
        if (sweep / LAUNCHER_FILE).exists():
            again = restored(sweep).submit_again(sweep, paths)
            yield from (f"submitted again: {path}" for path in again)
            yield from (f"still on its way: {path}" for path in paths if path not in again)
        else:
            yield from (f"no launcher had it; go on with: {resume(path)}" for path in paths)
    if not runs:
        yield "nothing to start again"


def resume(run: Path) -> str:
    return shlex.join(["python", "-m", "rlhf.resume", nearest(run)])


def rows(runs: Sequence[RunState]) -> list[dict[str, Any]]:
    """Rows for --json: the table's figures and whatever else is known."""
    names, now = short_names(run.path for run in runs), time.time()
    own = ("recoverable", "nodes")  # what a follower goes by
    return [
        {key: value for key, value in asdict(run).items() if key not in own}
        | {"path": str(run.path), "name": names[run.path], "seconds_left": run.seconds_left(now)}
        | {"job": dict(run.job), "log": str(run.log) if run.log else None}
        for run in runs
    ]


if __name__ == "__main__":
    main()
