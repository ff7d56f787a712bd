"""Errors that a user can mend: shown in a few lines without a trace, with a non-zero exit status."""


class UserError(Exception):
    """A message that says what was found, where, and what is allowed or to be done."""


class ConfigError(UserError, ValueError):
    """A configuration that the run can't use: names the key, the value and what is allowed."""


class Preempted(SystemExit):
    """A signal has asked the run to stop, and it has saved what it needs to go on.

    No Exception, so that a sweep in this process stops too; the exit status is a shell's for SIGHUP, SIGINT or SIGTERM.
    """

    def __init__(self, reason: str) -> None:
        super().__init__({"SIGHUP": 129, "SIGINT": 130}.get(reason, 143))
        self.reason = reason

    @property
    def by_user(self) -> bool:
        """Whether somebody at a terminal has asked, who will start it again himself."""
        return self.reason in ("SIGHUP", "SIGINT")

    def __str__(self) -> str:
        return self.reason


class Pruned(Exception):  # noqa: N818 (no error: the run has ended as was decided)
    """A run ends for good after `step`, before its last one: by a rule of `prune`, or because somebody asked."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step, self.reason = step, reason

    def __str__(self) -> str:
        return self.reason


class TakenOverError(UserError):
    """Another process has this one's run by now, or somebody has removed it: nothing may be written there any more."""


class RankLostError(UserError, RuntimeError):
    """Another rank of this run is gone; if it could, it has said why."""


class DataError(UserError, ValueError):
    """A file that is missing or malformed: names the file, the row and the field."""


class CheckError(UserError, RuntimeError):
    """A stage's result that is not fit to go on with: shows the figure and what it must be."""


class EndpointError(UserError, RuntimeError):
    """A model's endpoint that gives no answers: names it, the reason, and what was kept."""
