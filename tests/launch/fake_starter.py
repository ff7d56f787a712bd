"""rlhf.launch.starter with fake runs: `python -m tests.launch.fake_starter SWEEP`."""

from pathlib import Path

from rlhf.launch import starter

FAKE = (*starter.PYTHON, "tests.launch.fake_run")


def command(run: Path, processes: int) -> list[str]:
    return [*FAKE, str(run)]


if __name__ == "__main__":
    starter.WORKER = (*FAKE, "--worker")
    starter.command = command
    starter.main()
