"""How a command ends: what the user can mend in one line, anything else with its trace."""

import pytest

from rlhf.errors import DataError, errors_told


@pytest.mark.parametrize(("error", "code"), [(DataError("no file"), "error: no file"), (KeyboardInterrupt(), 130)])
def test_errors_of_the_users_end_the_process_in_one_line(error: BaseException, code: object) -> None:
    with pytest.raises(SystemExit) as end, errors_told():
        raise error
    assert end.value.code == code


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), errors_told():
        raise ZeroDivisionError
