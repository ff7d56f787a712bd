"""What can go wrong by the user's doing: told in a few lines, without a trace, and with a non-zero exit."""


class UserError(Exception):
    """A message that says what was found, where, and what is allowed or to be done."""


class ConfigError(UserError, ValueError):
    """A configuration that the run can't use: names the key, the value and what is allowed."""


class DataError(UserError, ValueError):
    """A file that is missing or malformed: names the file, the row and the field."""


class CheckError(UserError, RuntimeError):
    """A stage's result that is not fit to go on with: shows the figure and what it must be."""


class EndpointError(UserError, RuntimeError):
    """A model's endpoint that gives no answers: names it, the reason, and what was kept."""
