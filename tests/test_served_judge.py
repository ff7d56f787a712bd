"""A judge that a real server serves: `transformers serve` with a model of random weights, in a process of its own."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf import evaluate
from rlhf.console import console
from rlhf.storage.files import read_json
from tests.tiny import tiny_lm, tiny_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
SECONDS = 180

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="needs transformers[serving]"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of the server and the name of its model."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    tiny_lm().save_pretrained(folder / "model")
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder / "model")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1", str(folder / "model")
        finally:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text())


def test_a_served_model_judges(served: tuple[str, str], tmp_path: Path) -> None:
    """It gives no log-probabilities, and its words are letters: with labels among them some answers can be read."""
    for name, output in (("own", "a"), ("base", "l k")):
        rows = [{"instruction": f"say {a} {b}", "output": output} for a in "abcdef" for b in "abcdefghij"]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    url, model = served
    command = [str(tmp_path / "own.json"), "--reference", str(tmp_path / "base.json"), "judge=llm"]
    command += [f"judge.base_url={url}", f"judge.model={model}", "judge.api_key_env=null", "judge.concurrency=2"]
    command += ["judge.labels=[a,b]", "judge.force=true", f"cache_dir={tmp_path}"]  # its letters say nothing
    with console.capture() as told:
        evaluate.main(command)
    [written] = tmp_path.glob("own.evaluation-llm-*.json")
    figures = read_json(written)
    assert figures["asked"] + figures["failed"] == 60
    assert figures["failed"] < 10  # an answer of nothing but its end is none
    assert figures["input_tokens"] > figures["asked"] * 20
    assert figures["n_eval"] + figures["n_null"] == 60
    assert figures["n_eval"] == figures["n_from_text"]
    assert figures["n_eval"] > 0
    assert "prompts judged" in told.get()
