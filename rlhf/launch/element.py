"""What one element of a job array does: `python -m rlhf.launch.element SHEET`, the sheet naming each one's runs.

Imports next to nothing: until the run itself is there, the signals that ask it to stop wait.
"""

import json
import os
import sys
from pathlib import Path

from rlhf.process.signals import block_until_handled


def command(sheet: Path, element: int) -> list[str]:
    """What this process becomes: the run has the task's process id then, its signals and its exit status."""
    given = json.loads(sheet.read_text(encoding="utf-8"))
    runs = given["elements"][element]
    if len(runs) == 1:
        return ["-m", given["module"], *runs]
    return ["-m", "rlhf.launch.shared", str(sheet), str(element)]


def main() -> None:
    block_until_handled()
    sheet, element = Path(sys.argv[1]), int(os.environ["SLURM_ARRAY_TASK_ID"])
    os.execv(sys.executable, [sys.executable, "-u", *command(sheet, element)])


if __name__ == "__main__":
    main()
