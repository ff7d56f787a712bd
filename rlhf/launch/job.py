"""What a SLURM task of a sweep does first."""

import os
import sys
from typing import NoReturn

from rlhf.process.signals import block_until_handled


def become(module: str, run: str) -> NoReturn:
    """Turn this process into `python -m MODULE RUN`.

    The run then has the task's process id, so SLURM's signals reach it and its exit status is the task's; the signal
    handlers that submitit has set are gone, for a new program starts with none.
    """
    block_until_handled()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-u", "-m", module, run])
