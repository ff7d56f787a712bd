"""rlhf.launch.starter with fake runs: `python -m tests.launch.fake_starter SWEEP`."""

import sys
from pathlib import Path

from rlhf.launch import starter


def command(run: Path, processes: int) -> list[str]:
    return [sys.executable, "-m", "tests.launch.fake_run", str(run)]


if __name__ == "__main__":
    starter.command = command
    starter.main()
