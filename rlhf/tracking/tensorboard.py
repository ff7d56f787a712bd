"""TensorBoard: event files in the run directory, read by `tensorboard --logdir outputs`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.config.run import Config
from rlhf.config.tracker import TensorboardConfig
from rlhf.tracking.tracker import RESPONSE_COLUMNS, Outcome, Row, Tracker, numbers, plain, response_cells

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorboardTracker(Tracker):
    """Writes event files; the rows that a resumed run logs again replace those logged before."""

    def __init__(self, config: Config, settings: TensorboardConfig, directory: Path) -> None:
        self.settings, self.folder, self.config = settings, directory / "tensorboard", plain(config)
        self.writer: SummaryWriter | None = None

    def log(self, row: Row) -> None:
        writer, step = self._writer(row["step"]), row["step"]
        for name, value in numbers(row).items():
            if name != "step":
                writer.add_scalar(name, value, step)

    def responses(self, step: int, rows: Sequence[Row]) -> None:
        cells = [response_cells(row) for row in rows[: self.settings.responses]]
        self._writer(step).add_text("evaluation/responses", markdown(list(RESPONSE_COLUMNS), cells), step)

    def finish(self, outcome: Outcome) -> None:
        writer = self._writer(0)
        if outcome.metrics:
            writer.add_text("metrics", code(dict(outcome.metrics)))
        writer.close()

    def _writer(self, step: int) -> "SummaryWriter":
        """Open the writer at the first step, so that TensorBoard drops what an earlier process logged from there on."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
            self.writer.add_text("config", code(self.config), step)
        return self.writer


def code(value: object) -> str:
    """A block of JSON for TensorBoard's text panel."""
    return f"```\n{json.dumps(value, indent=2)}\n```"


def markdown(header: list[str], rows: list[list[object]]) -> str:
    """A table for TensorBoard's text panel."""
    shown = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


def cell(value: object) -> str:
    text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
