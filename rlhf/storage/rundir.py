"""A run's directory, the interface to reports and all other tools.

config.yaml        the resolved configuration
overrides.json     what its command line chose
status.json        state, step, reason, time
history.jsonl      a row per PPO step
metrics.json       the final figures
outputs.json       the responses, in AlpacaEval's model_outputs format
references.json    what they are compared with
responses.jsonl    the verdicts of the last evaluation so far, a row per prompt, with the responses
policy/            the trained adapter or model
kept/step-N/       the policy after N steps, where ppo.keep_every keeps it
chosen.json        which of those `rlhf choose` has chosen, and on which split
decisions.jsonl    at which evaluations it was decided whether the run goes on, and by what
parent.json        the run, and its step, from whose checkpoint this one went on
checkpoint/        to go on from, until the run is done
job.json           where a launcher has put it: its job, its log
.lock, .holder     while a process is at work: its lease, and the token that it writes by
tracker.json, wandb/, tensorboard/   a tracker's own
"""

import difflib
import json
import math
import pickle
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import OmegaConf

from rlhf.compose import NO_IDENTITY, SWEEPS, TAKE_ALL, from_saved
from rlhf.config.gate import as_written, own_text
from rlhf.config.run import Config
from rlhf.errors import ConfigError, Preempted, RankLostError, TakenOverError, UserError
from rlhf.storage import reader
from rlhf.storage.files import read_text, write_json, write_text, writing
from rlhf.storage.lease import Lease, take_lease
from rlhf.storage.reader import CONFIG, ENDED, HISTORY, MOST_SETTINGS, OVERRIDES, STATES, STATUS, MadeBy

TELL_SECONDS = 5.0
"""Between two writes of status.json, at least, that say how far a run is: many runs write to one file system."""

VERSION = 2  # raise it whenever the same configuration gives other figures, or figures of another meaning, than before
HEADER = f"# rlhf run, version {VERSION}\n"
"""The first line of a config.yaml."""

BESIDE = re.compile(rf"^(({'|'.join(NO_IDENTITY)}):.*\n([ -] .*\n)*|  threads: .*\n)", re.MULTILINE)
"""The parts of a config.yaml that do not make a run what it is."""


def command_line(hydra: Any) -> MadeBy:
    """The command line of a run that Hydra has composed, from its own part of the configuration."""
    made_by = MadeBy(config=hydra.job.config_name or "config", overrides=own_text(hydra.overrides.task))
    if hydra.mode == RunMode.MULTIRUN and hydra.sweeper._target_ not in TAKE_ALL:
        made_by["sweeper"] = hydra.sweeper._target_
    given = [each.path for each in hydra.runtime.config_sources if each.provider == "command-line"]
    if given and Path(given[0]).resolve() != SWEEPS.resolve():  # which is found without being named
        made_by["config_dir"] = given[0]
    return made_by


@lru_cache(maxsize=4096)
def as_yaml(pickled: bytes) -> str:
    """The YAML of a part of a configuration; most parts are alike in all runs of a sweep."""
    return OmegaConf.to_yaml(OmegaConf.create(pickle.loads(pickled)))


class RunDirectory:
    """One run's directory: `open` it first, do the work inside `outcome_recorded`.

    Of several processes of a run only one writes: to the others' objects (`writes` false) writing means nothing.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.checkpoints = path / "checkpoint"
        self.history = path / HISTORY
        self.lease: Lease | None = None
        self.known_step: int | None = None
        self.told_at = -math.inf

    def prepare(self, config: Config, made_by: MadeBy | None = None) -> None:
        """Make the directory this config's, before anything runs there; `made_by` is what a command line chose.

        Raises ConfigError, with the lines that differ, where the directory holds a run of another config. `name`,
        `tracker` and `model.threads` do not change a run's identity: the last ones given are saved.
        """
        text = HEADER + "".join(as_yaml(pickle.dumps({key: part})) for key, part in as_written(config).items())
        path = self.path / CONFIG
        saved = self._saved() if reader.present(path) else None
        if saved is not None:
            self._check_same(saved, text)
        if saved != text and self.state not in ENDED:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        if made_by is not None and saved is None:
            write_json(self.path / OVERRIDES, made_by)

    def _saved(self) -> str:
        with reader.named(str(self.path / CONFIG)):
            return read_text(self.path / CONFIG, MOST_SETTINGS)

    def _check_same(self, saved: str, asked: str) -> None:
        self._check_version(saved)
        saved, asked = BESIDE.sub("", saved), BESIDE.sub("", asked)
        if saved != asked:
            lines = difflib.unified_diff(saved.splitlines(), asked.splitlines(), "saved", "asked", n=1, lineterm="")
            advice = "remove it, or choose another name or hydra.run.dir"
            raise ConfigError(f"{self.path} holds a run of another configuration; {advice}:\n" + "\n".join(lines))

    def _check_version(self, saved: str) -> None:
        if not saved.startswith(HEADER):
            advice = "run it again: remove it, or choose another name or hydra.run.dir"
            raise ConfigError(f"{self.path} was made by another version, whose figures mean something else; {advice}")

    def config(self) -> Config:
        """The run's configuration, as it was saved; raises ConfigError where it can't be read any more."""
        try:
            self._check_version(self._saved())
            return from_saved(reader.read_settings(self.path))
        except Exception as error:  # OmegaConf's and our own have no base in common
            raise ConfigError(f"{self.path} holds no run that can be started: {error}") from error

    def open(self, config: Config) -> bool:
        """Take the directory for this process; true if the run has ended already."""
        self.prepare(config)
        if self.state in ENDED:
            return True
        self.lease = take_lease(self.path)
        if self.state in ENDED:  # while waiting for the process that had it
            self._release()
            return True
        self.set_status("running", self.step)
        return False

    def _release(self) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    def token(self) -> str:
        """The token of the lease that `open` has taken."""
        assert self.lease is not None
        return self.lease.token

    def share(self, token: str) -> None:
        """Have the directory too, as a rank beside the one that has opened it and whose lease has this token."""
        if self.lease is None:
            self.lease = Lease(self.path, token)

    def check_held(self) -> None:
        """Raises TakenOverError where the directory is another process's by now: asked before all writing."""
        if self.lease is not None:
            self.lease.check()

    @property
    def status(self) -> dict[str, Any]:
        """The contents of status.json; empty before anything has happened."""
        return reader.read_status(self.path) if reader.present(self.path / STATUS) else {}

    @property
    def state(self) -> str | None:
        return self.status.get("state")

    @property
    def step(self) -> int | None:
        """The last step that is known to be done."""
        return self.status.get("step") if self.known_step is None else self.known_step

    def set_step(self, step: int, at_once: bool) -> None:
        """Tell that the run goes on after a step: `at_once`, or if that was told long enough ago."""
        self.known_step = step
        if at_once or time.monotonic() - self.told_at >= TELL_SECONDS:
            self.told_at = time.monotonic()
            self.set_status("running", step)

    def set_status(self, state: str, step: int | None = None, reason: str | None = None) -> None:
        assert state in STATES
        self.write_json(STATUS, {"state": state, "step": step, "reason": reason, "time": round(time.time(), 3)})

    @contextmanager
    def outcome_recorded(self) -> Iterator[None]:
        """Whatever ends the block early stands in status.json, and is raised again; of several failures, the first."""
        try:
            yield
        except (TakenOverError, RankLostError):  # another process says how it ended, or whoever started them all
            raise
        except Preempted as stop:
            if self.state == "failed":  # a fellow's doing: the signal is how SLURM ends the ranks that are left
                raise UserError(str(self.status["reason"])) from stop
            self.set_status("preempted", self.step, str(stop))
            raise
        except BaseException as error:
            if self.state != "failed":
                self.writes = True  # whichever process it is: its fellows may be stuck, waiting for it
                self.set_status("failed", self.step, str(error) or type(error).__name__)
            raise
        finally:
            self._release()

    def may_write(self) -> bool:
        """Whether this process is the one that writes; raises TakenOverError where it is no more."""
        if self.writes:
            self.check_held()
        return self.writes

    def write_json(self, name: str, value: Any) -> None:
        if self.may_write():
            write_json(self.path / name, value)

    def write_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """A file of JSON lines."""
        if self.may_write():
            write_text(self.path / name, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def append_history(self, row: dict[str, Any]) -> None:
        if self.may_write():
            with writing(self.history), self.history.open("a", encoding="utf-8") as history:
                history.write(json.dumps(row, allow_nan=False) + "\n")

    def history_text(self) -> str:
        """All of history.jsonl: a checkpoint holds it, so that the two agree wherever the run goes on."""
        return self.history.read_text("utf-8") if self.history.exists() else ""

    def restore_history(self, text: str) -> None:
        """Have it be what it was at a checkpoint."""
        if self.may_write():
            write_text(self.history, text)

    def remove_checkpoints(self) -> None:
        if self.may_write():
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def read_history(self) -> list[dict[str, Any]]:
        return reader.read_history(self.path)

    def read_metrics(self) -> dict[str, Any]:
        return reader.read_metrics(self.path)
