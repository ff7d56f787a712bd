"""Runs smoke runs again and again in processes that are killed, until they end; a script, because it forks.

`python -m tests.restarts CACHE` reads runs as lines of JSON, `[PATH, RANKS, MODE, OVERRIDES]`, leaves each in its PATH,
and prints a line of JSON on how its processes ended, start by start. MODE says where they are killed: `anywhere` at
random times, `saving` at each place of a checkpoint's writing in turn, or `never`.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rlhf.config.run import Config
from rlhf.errors import Preempted
from rlhf.experiment import run
from rlhf.stages import learner, progress, record, setting, train  # noqa: F401  imported once, before any fork
from rlhf.storage import checkpoint
from tests.configure import configure

STEPS = 9
OVERRIDES = (
    *("experiment=smoke", f"ppo.steps={STEPS}", "evaluation.every=2", "checkpoint_seconds=0", "device=cpu"),
    "ppo.micro_batch_size=1",
)

PLACES = ("torch.save", "half of it", "os.fsync", "write_json", "rename", "after")


def kill_at(place: str) -> None:
    """From now on in this process, the second checkpoint's writing ends at `place`, and the process with it."""
    saves, save = [0], checkpoint.save_checkpoint

    def die(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(state: object, file: checkpoint.Hashed) -> None:
        file.write(b"half of a checkpoint")
        file.flush()
        die()

    def watched(folder: Path, step: int, state: dict) -> None:
        saves[0] += 1
        if saves[0] == 2:
            if place == "torch.save":
                torch.save = die
            elif place == "half of it":
                torch.save = half
            elif place == "os.fsync":
                os.fsync = die
            elif place == "write_json":
                checkpoint.write_json = die
            elif place == "rename":
                Path.rename = die  # type: ignore[method-assign]
        save(folder, step, state)
        if saves[0] == 2:
            die()

    progress.save_checkpoint = watched


def start(config: Config, path: Path, ranks: int, port: int, prepare: Callable[[], None]) -> list[int]:
    """Fork a process for each rank; returns their ids."""
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if process == 0:
            if ranks > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            status = 1
            try:
                if rank == 0:
                    prepare()
                run(config, path)
                status = 0
            except Preempted as stopped:
                status = int(str(stopped.code))
            finally:
                os._exit(status)
        processes.append(process)
    return processes


def end(processes: list[int]) -> list[int]:
    """What the processes ended with; one that is killed takes the others with it, as srun sees to."""
    codes = {}
    while len(codes) < len(processes):
        process, status = os.wait()
        codes[process] = os.waitstatus_to_exitcode(status)
        if codes[process] != 0:
            for other in set(processes) - set(codes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
    return [codes[process] for process in processes]


def deaths(mode: str, chance: random.Random) -> Iterator[tuple[Callable[[], None], float | None]]:
    """For each start what to prepare in it, and after how many seconds to kill it."""
    if mode == "saving":
        for place in PLACES:
            yield (lambda place=place: kill_at(place)), None
    elif mode == "anywhere":
        for _ in range(4):
            yield (lambda: None), chance.uniform(0.2, 2.5)
    yield (lambda: None), None


def main() -> None:
    told, sys.stdout = sys.stdout, sys.stderr
    [cache] = sys.argv[1:]
    torch.set_num_threads(1)
    chance = random.Random()
    for line in sys.stdin:
        path, ranks, mode, overrides = json.loads(line)
        config, ends = configure(*OVERRIDES, *overrides, f"cache_dir={cache}"), []
        for prepare, seconds in deaths(mode, chance):
            processes = start(config, Path(path), ranks, chance.randrange(20000, 30000), prepare)
            if seconds is not None:
                time.sleep(seconds)
                for process in processes:
                    os.kill(process, signal.SIGKILL)
            ends.append(end(processes))
        print(json.dumps(ends), file=told, flush=True)


if __name__ == "__main__":
    main()
