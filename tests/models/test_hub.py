"""A model that does not come is told in words, and with what to do."""

from pathlib import Path

import huggingface_hub.constants as hub
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from rlhf.errors import ConfigError
from rlhf.models.backbone import load_shape
from tests.checkpoints import save_family


@pytest.fixture
def served(httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    """A hub on this machine, with an empty cache before it."""
    url = httpserver.url_for("").rstrip("/")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(hub, "ENDPOINT", url)
    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return httpserver


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "GatedRepo", r"it is gated: accept its licence .* `hf auth login` or set HF_TOKEN"),
        (401, "RepoNotFound", r"the hub has no such model, or it is private: check the id"),
        (404, "RepoNotFound", r"the hub has no such model, or it is private: check the id"),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(served: HTTPServer, status: int, code: str, told: str) -> None:
    headers = {"X-Error-Code": code, "X-Error-Message": "no"}
    served.expect_request("/some/model/resolve/main/config.json").respond_with_handler(
        lambda request: Response(status=status, headers=headers)
    )
    with pytest.raises(ConfigError, match=rf"model\.path=some/model is not allowed: .*{told}") as refused:
        load_shape("some/model")
    assert "\n" not in str(refused.value)


def test_without_a_network_a_model_on_the_hub_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Nobody listens at that port; one who is told to be offline is not asked."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    told = r"model\.path=some/model .*the hub can't be reached: .*`hf download some/model .* give model\.path=DIR"
    for offline in (False, True):
        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", offline)
        with pytest.raises(ConfigError, match=told):
            load_shape("some/model")
    assert [record.message.split(":")[0] for record in caplog.records] == ["the hub can't be reached"]


def test_a_directory_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such directory"):
        load_shape(str(tmp_path / "nowhere"))


def test_a_model_of_a_kind_that_transformers_lacks_is_refused(tmp_path: Path) -> None:
    path = save_family(tmp_path / "llama", "llama")
    config = tmp_path / "llama" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "unheard_of"'))
    with pytest.raises(ConfigError, match="model type `unheard_of`"):
        load_shape(path)
