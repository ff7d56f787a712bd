"""The console: log lines, users' errors, and how far a stage is (one bar on a terminal, a line per tenth elsewhere)."""

import logging
import os
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from typing import Any, Generic, NoReturn, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from rlhf.errors import UserError
from rlhf.escape import visible
from rlhf.process.signals import ended_by_user

Number = TypeVar("Number", int, float)


class PlainConsole(Console):
    """Prints text as text: no markup, no emoji codes, no control characters but those of the console's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich; cells of tables come here too."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See rich; whatever has not come as a string, as pieces with styles of their own."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)

    def on_broken_pipe(self) -> None:
        """Say nothing more where the reader is gone: Ctrl-C ends `| tee LOG` first, which must not end a run."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = PlainConsole(soft_wrap=True)


class ConsoleLog(logging.Handler):
    """Prints log records on the console as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        console.print(self.format(record))


class OfOthers(logging.Filter):
    """Passes what other libraries log, for Hydra's handlers: rlhf's own lines would be shown twice."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging."""
        return not record.name.startswith("rlhf.")


def show_log(is_main: bool = True) -> None:
    """Show what the library logs, as commands do; `is_main` false: of several processes this one says nothing."""
    console.quiet = not is_main
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a terminal whose encoding lacks a character
    logger = logging.getLogger("rlhf")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, ConsoleLog) for handler in logger.handlers):
        logger.addHandler(ConsoleLog())


@contextmanager
def command(is_main: bool = True) -> Iterator[None]:
    """Around a command: the log is shown, a UserError or a bad path ends it in a line, Ctrl-C with a shell's status."""
    show_log(is_main)
    try:
        with ended_by_user():
            yield
    except UserError as error:
        fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")  # a folder that is a file, a full disk, no rights


def fail(message: str) -> NoReturn:
    """End the process with a message of a few lines."""
    sys.exit(f"error: {visible(message)}")


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """An argument's type: a whole number within bounds."""
    return partial(_within, int, least, most, f"whole number from {least} to {most}")


def number(least: float, most: float, of: str) -> Callable[[str], float]:
    """An argument's type: a number within bounds; `of` says of what, as in `a number of seconds`."""
    return partial(_within, float, least, most, f"{of} from {least:g} to {most:g}")


def _within(read: Callable[[str], Number], least: Number, most: Number, needed: str, text: str) -> Number:
    try:
        value = read(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is no {needed}")
    return value


Item = TypeVar("Item")

TELL_SECONDS = 30.0
"""Between two lines that say how far slow work is."""


class Track(Generic[Item]):
    """Iterates over `items`, showing `title`, the count, the time left and the text last given to `note`.

    On a terminal as a bar, else a line for each tenth, and while items are slow. The items are the last ones of
    `total`: what comes before them was done already.
    """

    def __init__(self, items: Iterable[Item], total: int, title: str, done: int = 0) -> None:
        self.items, self.total, self.title, self.done = items, total, title, done
        self.text = ""

    def note(self, text: str) -> None:
        self.text = text

    def __iter__(self) -> Iterator[Item]:
        return self._bar() if console.is_terminal else self._lines()

    def _bar(self) -> Iterator[Item]:
        text = TextColumn("{task.fields[text]}", markup=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            text,
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(self.title, total=self.total, completed=self.done, text="")
            for item in self.items:
                yield item
                progress.update(task, advance=1, text=self.text)

    def _lines(self) -> Iterator[Item]:
        start = told = time.perf_counter()
        for done, item in enumerate(self.items, start=self.done + 1):
            yield item
            now = time.perf_counter()
            if done * 10 // self.total > (done - 1) * 10 // self.total or now - told >= TELL_SECONDS:
                elapsed, told = now - start, now
                left = elapsed / (done - self.done) * (self.total - done)
                console.print(
                    f"{self.title} {done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left {self.text}".rstrip()
                )
