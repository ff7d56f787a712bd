"""The report on finished runs: `python -m studies [PATH ...] [--out docs/results.md]`, figures beside it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import command, console
from rlhf.errors import UserError
from rlhf.report.load import load_outputs
from rlhf.storage.files import write_text
from studies.document import document


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies", description="Write the report on finished runs.")
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[Path("outputs")], help="where runs lie; default: outputs"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results.md"), help="the report; figures/ stand beside it"
    )
    options = parser.parse_args(arguments)
    with command():
        write(options)


def write(options: argparse.Namespace) -> None:
    """Raises UserError, and leaves the last report as it is, where there is nothing to report on."""
    missing = [str(path) for path in options.paths if not path.is_dir()]
    if missing:
        raise UserError(f"no such directory: {', '.join(missing)}")
    outputs = load_outputs(options.paths)
    if not outputs.runs:
        where = ", ".join(map(str, options.paths))
        left = f"; {len(outputs.problems)} directories are unfinished or unreadable" if outputs.problems else ""
        raise UserError(f"no finished run below {where}{left}: {options.out} stays as it is")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = document(outputs, options.out.parent / "figures")
    write_text(options.out, text)
    console.print(f"{options.out}: {len(outputs.runs)} runs, {len(outputs.problems)} directories left out")


if __name__ == "__main__":
    main()
