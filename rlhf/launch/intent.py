"""Submission to SLURM as a transaction: what is about to be submitted is written down first.

That is an array's sheet in the sweep's slurm/, from which its elements read what they do, and whose name is the jobs'
comment. So a job that was taken though sbatch's answer was lost, or whose launcher was killed meanwhile, is found again
by whoever asks next.
"""

import re
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from rlhf.launch.job import LOG, write_job
from rlhf.launch.queue import by_comment, me, sees, site
from rlhf.storage.files import read_json, write_json

FOLDER = "slurm"
"""In the sweep's directory: the batch scripts, the sheets, and the logs, JOB_ELEMENT_RANK_log.out."""

INTENT_SECONDS, POLL_SECONDS = 60.0, 2.0
"""How long after its sbatch a job may still appear in the queue, and how often it is looked for."""

REFUSED = re.compile(r"sbatch: error: (?!.*(timed out|[Cc]ommunication|Unable to contact|Zero Bytes|message|connect))")
"""What sbatch says of a submission that SLURM has surely not taken."""

Jobs = dict[Path, str]
"""Runs, and the jobs that do them."""


def intend(sweep: Path, module: str, elements: list[list[Path]], **about: Any) -> Path:
    """Write down what is about to be submitted, `about` beside it; returns the sheet, whose stem is the comment."""
    sheet, here = sweep / FOLDER / f"{uuid4().hex[:12]}.json", site()
    sheet.parent.mkdir(parents=True, exist_ok=True)
    where = {"user": me()} | ({"cluster": here.cluster} if here else {})
    runs = [[str(run) for run in element] for element in elements]
    write_json(sheet, {"module": module, "elements": runs, "where": where, "time": round(time.time(), 3), **about})
    return sheet


def confirm(sheet: Path, array: str) -> Jobs:
    """Write down that SLURM has taken it as this array, in each run's job.json too; returns the runs' jobs."""
    said = read_json(sheet)
    jobs: Jobs = {}
    for number, element in enumerate(said["elements"]):
        for run in map(Path, element):
            job = jobs[run] = f"{array}_{number}"
            shared = {"shares": len(element)} if len(element) > 1 else {}
            log = f"{run.name}/{LOG}" if shared else f"{FOLDER}/{job}_0_log.out"
            if "stages" not in said:  # which no run is done by
                again = said["again"].get(run.name, {})
                write_job(run, "slurm", log, job_id=job, **said["where"], **shared, **said["job"], **again)
    write_json(sheet, said | {"array": array})
    return jobs


def sheets(sweep: Path) -> dict[Path, dict[str, Any]]:
    """All arrays of a sweep that were submitted, or about to be, the oldest first."""
    found = {sheet: read_json(sheet) for sheet in (sweep / FOLDER).glob("*.json")}
    return dict(sorted(found.items(), key=lambda item: item[1]["time"]))


def resolve(sheet: Path, error: BaseException | None = None) -> Jobs | None:
    """Find out whether SLURM has taken an array, whose sbatch has ended in `error` or whose launcher is gone.

    Returns the runs' jobs, none where it was surely not taken: then the sheet is gone. None where that can't be known
    now, as also after Ctrl-C.
    """
    said, start = read_json(sheet), time.monotonic()
    refused = error is not None and REFUSED.search(str(error))
    while True:
        found = by_comment(said["where"]["user"])
        if found and sheet.stem in found:
            return confirm(sheet, found[sheet.stem])
        age = time.monotonic() - start if error else time.time() - said["time"]
        waited = age > INTENT_SECONDS
        if refused or (waited and found is not None and sees(said["where"], site())):
            sheet.unlink()
            return {}
        if waited or not isinstance(error, Exception | None):
            return None
        time.sleep(POLL_SECONDS)
