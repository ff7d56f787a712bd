"""As much of wandb's server as a run, `wandb sync` and going on with a run need, on this machine."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 40


@dataclass
class StoredRun:
    """What the server was sent of a run; `starts` counts the processes that opened it."""

    about: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    starts: int = 0

    @property
    def config(self) -> dict[str, Any]:
        return {name: entry["value"] for name, entry in json.loads(self.about["config"]).items()}


class FakeWandb:
    """`way` is how it answers: `answer`, `refuse` every connection's request, or `hang` until the test is over."""

    def __init__(self, url: str) -> None:
        self.url, self.way, self.over = url, "answer", threading.Event()
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[dict[str, Any]] = []

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            return {"upsertBucket": {"bucket": self.upsert(variables), "inserted": True}}
        if operation == "RunResumeStatus":
            return {"model": {"id": "p", "name": "rlhf", "entity": OWNER, "bucket": self.resume(variables["name"])}}
        if operation == "CreateArtifact":
            self.artifacts.append(variables["input"])
            place = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
            return {"createArtifact": {"artifact": place}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        viewer = {"id": "u", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"features": []}, "project": None, "entity": None}

    def upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(variables["name"], StoredRun())
        run.about |= {name: value for name, value in variables.items() if value is not None}
        project = {"id": "p", "name": run.about.get("project"), "entity": OWNER}
        shown = {"id": "b", "name": variables["name"], "displayName": run.about.get("displayName")}
        return shown | {"historyLineCount": len(run.history), "project": project, "sweepName": None}

    def resume(self, name: str) -> dict[str, Any] | None:
        run = self.runs.setdefault(name, StoredRun())
        run.starts += 1
        if run.starts == 1:
            return None
        counts = {"logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": len(run.events)}
        tails = {"historyTail": tail(run.history), "eventsTail": tail(run.events)}
        about = {"id": "b", "name": name, "displayName": run.about.get("displayName"), "notes": "", "tags": []}
        config = {"config": run.about["config"], "wandbConfig": json.dumps({"t": 1})}
        return about | counts | tails | config | {"summaryMetrics": json.dumps(run.summary)}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """What a run sends as it goes: files of JSON lines, each with the number of its first line."""
        run = self.runs[name]
        files = sent.get("files") or {}
        for file, lines in (("wandb-history.jsonl", run.history), ("wandb-events.jsonl", run.events)):
            if file in files:
                del lines[files[file]["offset"] :]
                lines += [json.loads(line) for line in files[file]["content"]]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]


OWNER = {"id": "e", "name": "someone"}


def tail(rows: list[dict[str, Any]]) -> str:
    return json.dumps([json.dumps(row) for row in rows[-1:]])


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def log_message(self, *arguments: object) -> None: ...

    def do_POST(self) -> None:
        body, fake = self.body(), self.server.fake
        if fake.way == "hang":
            fake.over.wait(60)
        if fake.way != "answer":
            self.close_connection = True
            return
        if self.path == "/graphql":
            asked = json.loads(body)
            name = asked.get("operationName") or ""
            self.reply({"data": fake.graphql(name, asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            fake.stream(self.path.split("/")[-2], json.loads(body))
        self.reply({"exitcode": None, "limits": {}})

    do_PUT = do_GET = do_POST  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    fake: FakeWandb
    daemon_threads = True


@contextmanager
def fake_wandb() -> Iterator[FakeWandb]:
    server = Server(("127.0.0.1", 0), Handler)
    server.fake = FakeWandb(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.fake
    finally:
        server.fake.over.set()
        server.shutdown()
        server.server_close()
