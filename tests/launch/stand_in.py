"""SLURM's commands as programs in PATH, with a queue in a file: what a cluster allows is told to them, nothing runs."""

import json
import sys
from pathlib import Path
from typing import Any

NAMES = ("sbatch", "squeue", "scancel", "scontrol", "srun")


class StandIn:
    """A cluster in `folder`, whose `bin` goes into PATH; MaxArraySize and how many jobs may be in the queue."""

    def __init__(self, folder: Path, max_array_size: int = 1001, max_jobs: int = 10**6) -> None:
        self.bin, self.file = folder / "bin", folder / "cluster.json"
        self.bin.mkdir(parents=True)
        self.write({"max_array_size": max_array_size, "max_jobs": max_jobs, "next": 100, "jobs": {}, "calls": []})
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
        sys.exit(f"sbatch: {answer}")
    print(answer, end="")


def sbatch(state: dict[str, Any], call: dict[str, Any]) -> str:
    lines = Path(call["arguments"][-1]).read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    count = int(options["array"].partition("%")[0].rpartition("-")[2]) + 1
    call |= {"options": options, "count": count}
    if options.get("account") == "refused" and not options["job-name"].endswith(":stages"):
        return "error: bad account"
    live = sum(now == "PENDING" for now in state["jobs"].values())
    if count > state["max_array_size"]:
        return "error: Batch job submission failed: Invalid job array specification"
    if live + count > state["max_jobs"]:
        limits = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        return f"error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: {limits}"
    job, state["next"] = state["next"], state["next"] + 1
    call["job"] = str(job)
    state["jobs"] |= {f"{job}_{element}": "PENDING" for element in range(count)}
    return f"Submitted batch job {job}\n"


def squeue(state: dict[str, Any], call: dict[str, Any]) -> str:
    asked = next(given for given in call["arguments"] if given.startswith("--format="))
    scripts = {call.get("job"): call["arguments"][-1] for call in state["calls"]}
    told = scripts.get if asked.endswith("%o") else lambda _: "Resources"
    return "".join(f"{job}|{now}|{told(job.partition('_')[0])}\n" for job, now in state["jobs"].items())


def scancel(state: dict[str, Any], call: dict[str, Any]) -> str:
    for job in call["arguments"]:
        state["jobs"] |= {known: "CANCELLED" for known in state["jobs"] if known == job or known.startswith(f"{job}_")}
    return ""


def scontrol(state: dict[str, Any], call: dict[str, Any]) -> str:
    return f"MaxArraySize            = {state['max_array_size']}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
