"""SLURM's commands as programs in PATH, with a queue in a file: what a cluster allows is told to them, nothing runs."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

NAMES = ("sbatch", "squeue", "scancel", "scontrol", "srun")


class StandIn:
    """A cluster in `folder`, whose `bin` goes into PATH; MaxArraySize and how many jobs may be in the queue."""

    def __init__(self, folder: Path, max_array_size: int = 1001, max_jobs: int = 10**6) -> None:
        self.bin, self.file = folder / "bin", folder / "cluster.json"
        self.bin.mkdir(parents=True)
        limits = {"max_array_size": max_array_size, "max_jobs": max_jobs}
        self.write(limits | {"next": 100, "jobs": {}, "calls": [], "mode": "take", "private": False, "user": "root"})
        for name in NAMES:
            text = f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__)} {self.file} {name} "$@"\n'
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def write(self, state: dict[str, Any]) -> None:
        self.file.write_text(json.dumps(state))

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.file.read_text())

    def calls(self, name: str) -> list[dict[str, Any]]:
        return [call for call in self.state["calls"] if call["program"] == name]

    def set(self, **changed: Any) -> None:
        """`mode`: `take`; `refuse`; take and have the answer `lost`, or Ctrl-C pressed (`interrupt`); squeue `silent`.

        `user`: whose the jobs are that are submitted from now on, and who asks; `private`: others' jobs are not shown.
        """
        self.write(self.state | changed)

    def end(self, *jobs: str, state: str = "COMPLETED") -> None:
        """Have jobs, or all, be over."""
        found = self.state
        for job in jobs or list(found["jobs"]):
            found["jobs"][job] = state
        self.write(found)


def main(file: Path, program: str, arguments: list[str]) -> None:
    state = json.loads(file.read_text())
    call: dict[str, Any] = {"program": program, "arguments": arguments}
    state["calls"].append(call)
    answer = {"sbatch": sbatch, "squeue": squeue, "scancel": scancel, "scontrol": scontrol}[program](state, call)
    file.write_text(json.dumps(state))
    if answer.startswith("error: "):
        sys.exit(f"{program}: {answer}")
    print(answer, end="")


def sbatch(state: dict[str, Any], call: dict[str, Any]) -> str:
    lines = Path(call["arguments"][-1]).read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    count = int(options["array"].partition("%")[0].rpartition("-")[2]) + 1
    call |= {"options": options, "count": count, "user": state["user"]}
    failed = "error: Batch job submission failed: "
    if state["mode"] == "refuse":
        return f"{failed}Invalid partition name specified"
    if options.get("account") == "refused" and not options["job-name"].endswith(":stages"):
        return "error: bad account"
    if state.get("only_node", "none") in options.get("exclude", ""):
        return f"{failed}Requested node configuration is not available"
    live = sum(now == "PENDING" for now in state["jobs"].values())
    if count > state["max_array_size"]:
        return f"{failed}Invalid job array specification"
    if live + count > state["max_jobs"]:
        limits = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        return f"error: QOSMaxSubmitJobPerUserLimit\nsbatch: {failed}{limits}"
    job, state["next"] = state["next"], state["next"] + 1
    call["job"] = str(job)
    state["jobs"] |= {f"{job}_{element}": "PENDING" for element in range(count)}
    if state["mode"] == "interrupt":
        os.kill(os.getppid(), signal.SIGINT)
    if state["mode"] == "lost":
        return f"{failed}Socket timed out on send/recv operation"
    return f"Submitted batch job {job}\n"


def squeue(state: dict[str, Any], call: dict[str, Any]) -> str:
    asked = dict(given.removeprefix("--").partition("=")[::2] for given in call["arguments"])
    if state["mode"] == "silent":
        return "error: Unable to contact slurm controller (connect failure)"
    arrays = {made["job"]: made for made in state["calls"] if "job" in made}
    rows = {job: arrays[job.partition("_")[0]] for job in state["jobs"]}
    wanted = asked["jobs"].split(",") if "jobs" in asked else list(arrays)
    if "jobs" in asked and len(wanted) == 1 and not any(job.startswith(f"{wanted[0]}_") for job in rows):
        return "error: Invalid job id specified"
    hidden = asked.get("user") if "user" in asked else state["user"] if state["private"] else None
    shown = {job: made for job, made in rows.items() if made["job"] in wanted and hidden in (None, made["user"])}
    return "".join(row(job, state["jobs"][job], made) for job, made in shown.items())


def row(job: str, now: str, made: dict[str, Any]) -> str:
    node = "" if now == "PENDING" else "node1"
    return f"{job}|{now}|{node}|{made['options'].get('comment', '')}|Resources|{made['arguments'][-1]}\n"


def scancel(state: dict[str, Any], call: dict[str, Any]) -> str:
    for job in call["arguments"]:
        state["jobs"] |= {known: "CANCELLED" for known in state["jobs"] if known == job or known.startswith(f"{job}_")}
    return ""


def scontrol(state: dict[str, Any], call: dict[str, Any]) -> str:
    private = "jobs" if state["private"] else "none"
    return f"ClusterName = here\nPrivateData = {private}\nMaxArraySize            = {state['max_array_size']}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
