"""The report on finished runs: `python -m studies [PATH ...] [--out docs/results.md]`, figures beside it.

A PATH is a folder of runs, or a file of many that `--pack FILE` has written.
"""

import argparse
import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlhf.console import command, console
from rlhf.errors import UserError
from rlhf.report.load import Outputs, load_outputs
from rlhf.storage.files import write_text
from studies.document import document
from studies.rows import pack, unpack


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies", description="Write the report on finished runs.")
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[Path("outputs")],
        help="folders of runs, or packed ones; default: outputs",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results.md"), help="the report; figures/ stand beside it"
    )
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="write the runs to FILE (.json.xz) too, and report on it"
    )
    options = parser.parse_args(arguments)
    with command():
        write(options)


def write(options: argparse.Namespace) -> None:
    """Raises UserError, and leaves the last report as it is, where there is nothing to report on."""
    missing = [str(path) for path in options.paths if not path.exists()]
    if missing:
        raise UserError(f"no such directory: {', '.join(missing)}")
    outputs = load(options.paths)
    if not outputs.runs:
        where = ", ".join(map(str, options.paths))
        left = f"; {len(outputs.problems)} directories are unfinished or unreadable" if outputs.problems else ""
        raise UserError(f"no finished run below {where}{left}: {options.out} stays as it is")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.pack:
        pack(options.pack, outputs.runs)
        outputs = replace(unpack(options.pack), problems=outputs.problems)
    gc.freeze()  # each of statsmodels' corrections has garbage collected, which takes a second among so many rows
    text = document(outputs, options.out.parent / "figures")
    write_text(options.out, text)
    console.print(f"{options.out}: {len(outputs.runs)} runs, {len(outputs.problems)} directories left out")


def load(paths: Sequence[Path]) -> Outputs:
    """The runs of folders and of packed files."""
    packed = [path for path in paths if path.is_file()]
    found = load_outputs(path for path in paths if path not in packed)
    return Outputs([*found.runs, *(run for path in packed for run in unpack(path).runs)], found.problems)


if __name__ == "__main__":
    main()
