"""How a command ends: what the user can mend in one line, anything else with its trace."""

import pytest

from rlhf.console import command
from rlhf.errors import DataError


@pytest.mark.parametrize(("error", "code"), [(DataError("no file"), "error: no file"), (KeyboardInterrupt(), 130)])
def test_errors_of_the_users_end_the_process_in_one_line(error: BaseException, code: object) -> None:
    with pytest.raises(SystemExit) as end, command():
        raise error
    assert end.value.code == code


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), command():
        raise ZeroDivisionError
