"""A command on a terminal of its own, as a user sees it and presses keys."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CTRL_C = b"\x03"


class Terminal:
    """`python -m MODULE ...` on a pseudo-terminal; `shown` is all that it has written, without colours."""

    def __init__(self, module: str, *arguments: object, cwd: Path = ROOT, columns: int = 80) -> None:
        self.own, other = pty.openpty()
        size = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm"}
        kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "HYDRA_FULL_ERROR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=cwd,
            env=kept | size | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(other)
        self.shown = ""

    def press(self, keys: bytes) -> None:
        os.write(self.own, keys)

    def until(self, pattern: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.shown}"
            if not self._read(0.2):
                assert re.search(pattern, self.shown), f"it ended without {pattern!r}: {self.shown}"

    def wait(self, seconds: float = 60.0) -> int:
        """The exit status, once all has been shown."""
        deadline = time.monotonic() + seconds
        while self._read(0.2):
            assert time.monotonic() < deadline, self.shown
        os.close(self.own)
        return self.process.wait(10)

    def _read(self, seconds: float) -> bool:
        """Whether more may come."""
        if not select.select([self.own], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.own, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace")).replace("\r", "")
        return bool(data)


def take_terminal() -> None:
    """In the new process: its input is the terminal that Ctrl-C comes from, whatever these tests were started from."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored by what a shell has put into the background
