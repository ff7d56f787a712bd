"""What servers say, made safe: one cleaner for every text of theirs, and one bound on what is read of them."""

import base64
import os
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from rlhf.config.gate import HIDDEN, is_secret_name
from rlhf.escape import visible

MOST_BYTES = 1 << 22
"""Size limit of a server's answer."""

SHORTEST_KEY = 6
"""Characters; what is shorter is no key, and would be hidden within words."""


def clean(text: str, *secrets: str) -> str:
    """The text without keys and without characters that steer a terminal.

    Keys are `secrets` and what the environment holds under such names, however they are written: in other letters,
    quoted for a URL, or in base64.
    """
    known = {*secrets, *(value.strip() for name, value in os.environ.items() if is_secret_name(name))}
    forms = {form for secret in known if len(secret) >= SHORTEST_KEY for form in written(secret)}
    if forms:
        longest_first = sorted(forms, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), HIDDEN, text, flags=re.IGNORECASE)
    return visible(text.replace("\r\n", "\n"))


def written(secret: str) -> set[str]:
    """The ways in which a server may repeat a key."""
    coded = base64.b64encode(secret.encode(errors="replace")).decode().rstrip("=")
    return {secret, quote(secret, safe=""), coded}


def bounded_client(timeout: float) -> Any:
    """An HTTP client for openai's that reads no answer for longer than `timeout`, and none beyond MOST_BYTES.

    The timeouts of httpx are for each piece that comes, and the pieces may be many. Nothing is decompressed: a small
    answer might become a very large one.
    """
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: Any, end: float) -> None:
            self.stream, self.end = stream, end

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for piece in self.stream:
                size += len(piece)
                if size > MOST_BYTES:
                    raise ValueError(f"an answer of more than {MOST_BYTES:,} bytes")
                if time.monotonic() > self.end:
                    raise httpx2.ReadTimeout("it has not ended in time")
                yield piece

        def close(self) -> None:
            self.stream.close()

    class Transport(httpx2.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            end = time.monotonic() + timeout
            request.headers["Accept-Encoding"] = "identity"
            response = super().handle_request(request)
            response.headers.pop("Content-Encoding", None)
            response.stream = Bounded(response.stream, end)
            return response

    return httpx2.Client(transport=Transport(), timeout=timeout)
