"""A folder uploaded to the Hugging Face hub; what goes wrong there says what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from rlhf.endpoints.said import clean
from rlhf.errors import ConfigError, EndpointError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
LOGIN = "log in by `hf auth login`, or set HF_TOKEN, with a token that may write"
REASONS = {
    401: f"the hub does not accept the token: {LOGIN}",
    403: f"this account or token may not write there: {LOGIN}, to an owner that is yours",
    409: "there is such a repository already, and it is left as it is: choose another name",
}
"""What the hub's answers mean, by their status."""


def check_free(name: str) -> None:
    """Raises, before any work, where nothing can be pushed to `name`: not logged in, taken already, no connection."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"--push={name} is not allowed: it must be OWNER/NAME, of letters, digits, '.', '_' and '-'")
    with explained(name):
        api = HfApi()
        api.whoami()
        if api.repo_exists(name):
            raise refused(name, REASONS[409])


def push(folder: Path, name: str, private: bool) -> str:
    """The address of a new repository that holds the folder; an existing one is never written to."""
    with explained(name):
        api = HfApi()
        address = api.create_repo(name, private=private, exist_ok=False)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a policy of rlhf")
    return str(address)


def refused(name: str, why: str) -> EndpointError:
    return EndpointError(f"--push={name}: {why}")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """The hub's errors as EndpointError, with what is to be done."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise refused(name, f"not logged in to the hub: {LOGIN}") from error
    except OfflineModeIsEnabled as error:
        raise refused(name, "the hub is not asked while HF_HUB_OFFLINE is set") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise refused(name, REASONS.get(status, f"HTTP {status}: {clean(str(error).splitlines()[0])}")) from None
    except (HTTPError, OSError) as error:
        raise refused(name, f"the hub can't be reached: {clean(str(error))}") from None
