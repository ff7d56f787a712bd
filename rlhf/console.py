"""The console: log lines, users' errors, and how far a stage is (one bar on a terminal, a line per tenth elsewhere)."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlhf.errors import UserError

console = Console(highlight=False, soft_wrap=True)


class ConsoleLog(logging.Handler):
    """Prints log records on the console as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        console.print(self.format(record), markup=False)


def show_log(is_main: bool = True) -> None:
    """Show what the library logs, as commands do; `is_main` false: of several processes this one says nothing."""
    console.quiet = not is_main
    logger = logging.getLogger("rlhf")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, ConsoleLog) for handler in logger.handlers):
        logger.addHandler(ConsoleLog())


@contextmanager
def command(is_main: bool = True) -> Iterator[None]:
    """Around a command's work: the log is shown, a UserError ends it with its message, Ctrl-C with a shell's status."""
    show_log(is_main)
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


Item = TypeVar("Item")


class Track(Generic[Item]):
    """Iterates over `items`, showing `title`, the count, the time left and the text last given to `note`.

    The items are the last ones of `total`: what comes before them was done already.
    """

    def __init__(self, items: Iterable[Item], total: int, title: str, done: int = 0) -> None:
        self.items, self.total, self.title, self.done = items, total, title, done
        self.text = ""

    def note(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[Item]:
        return self._bar() if console.is_terminal else self._lines()

    def _bar(self) -> Iterator[Item]:
        text = TextColumn("{task.fields[text]}")
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), text)
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(self.title, total=self.total, completed=self.done, text="")
            for item in self.items:
                yield item
                progress.update(task, advance=1, text=self.text)

    def _lines(self) -> Iterator[Item]:
        start = time.perf_counter()
        for done, item in enumerate(self.items, start=self.done + 1):
            yield item
            if done * 10 // self.total > (done - 1) * 10 // self.total:
                elapsed = time.perf_counter() - start
                left = elapsed / (done - self.done) * (self.total - done)
                console.print(
                    f"{self.title} {done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left {self.text}".rstrip()
                )
