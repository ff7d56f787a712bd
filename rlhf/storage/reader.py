"""Run directories as they are found: what is in each file is typed and bounded, whoever has written or torn it.

Each function raises DataError, in a line that names the file and what is wrong with it, and nothing else. rundir.py
lists the files. Imports no torch.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import yaml

from rlhf.errors import DataError
from rlhf.figures import FIGURES, bounds
from rlhf.storage.files import DEEPEST, check_plain, parse_json, read_text

STATES = ("pending", "running", "preempted", "failed", "cancelled", "pruned", "done")
"""pending: a launcher has taken it on; preempted: stopped by a signal after saving, to go on when started again;
pruned: stopped for good before its last step, by a rule or by somebody."""

ENDED = ("pruned", "done")
"""States of runs that are not started again."""

STATUS, CONFIG, METRICS, HISTORY = "status.json", "config.yaml", "metrics.json", "history.jsonl"
KEPT, CHOSEN = "kept", "chosen.json"
DECISIONS, PARENT = "decisions.jsonl", "parent.json"
OVERRIDES, JOB, RESPONSES = "overrides.json", "job.json", "responses.jsonl"

ADAPTER = "adapter_config.json"

MOST_SETTINGS = 1 << 18
"""Bytes of a config.yaml."""

LARGEST_FIGURE = 1e50
"""Figures are squared, and their errors divided by."""

ROUNDING = 0.01
"""By how much a figure may be beyond its bounds."""

OWN_STAGES = ("ppo", "evaluation")
"""What a run does itself; the stages before are shared between runs."""

Row = dict[str, Any]


class MadeBy(TypedDict):
    """A command line: the primary configuration (`config`, or a sweep's), its overrides, and a folder of its own.

    `sweeper` is what has chosen some of the overrides by what other runs reached.
    """

    config: str
    overrides: list[str]
    config_dir: NotRequired[str]
    sweeper: NotRequired[str]


class Kind(NamedTuple):
    """What a value may be, beside null, and how that is said."""

    holds: Callable[[Any], bool]
    needed: str


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def list_of(kind: Kind) -> Kind:
    return Kind(lambda value: isinstance(value, list) and all(map(kind.holds, value)), f"a list of each {kind.needed}")


TEXT = Kind(lambda value: isinstance(value, str), "text")
NUMBER = Kind(lambda value: is_number(value) and abs(value) <= LARGEST_FIGURE, f"a number up to {LARGEST_FIGURE:g}")
POSITIVE = Kind(lambda value: NUMBER.holds(value) and value >= 0, f"{NUMBER.needed}, 0 or greater")
WHOLE = Kind(is_whole, "a whole number, 0 or greater")
MAPPING = Kind(lambda value: isinstance(value, dict), "a mapping")
LIST = Kind(lambda value: isinstance(value, list), "a list")
STATE = Kind(lambda value: value in STATES, f"one of {', '.join(STATES)}")
PREFERENCES = list_of(Kind(lambda value: value is None or (is_number(value) and 1 <= value <= 2), "null or 1 to 2"))

JUDGED = {
    **{"instruction": TEXT, "dataset": TEXT, "preferences": PREFERENCES, "greedy_preferences": PREFERENCES},
    **{"reference": TEXT, "reference_facts": LIST, "facts": LIST, "correct": WHOLE, "wrong": WHOLE, "score": NUMBER},
}
ANSWERED = JUDGED | {"step": WHOLE, "response": TEXT, "greedy_reference": TEXT, "greedy_response": TEXT}
OUTPUT = {"instruction": TEXT, "output": TEXT, "dataset": TEXT, "draw": WHOLE}

SETTINGS = {
    **{"seed": WHOLE, "data.seed": WHOLE, "ppo.steps": WHOLE, "lora.r": WHOLE, "rollout.batch_size": WHOLE},
    **{"regularizer.name": TEXT, "regularizer.placement": TEXT, "algorithm.name": TEXT, "evaluation.split": TEXT},
    **{
        "data.name": TEXT,
        "judge.name": TEXT,
        "evaluation.every": WHOLE,
        "evaluation.prompts": WHOLE,
        "cache_dir": TEXT,
    },
    **{"regularizer.coef": NUMBER, "regularizer.strength": NUMBER, "ppo.lr": NUMBER, "ppo.lr_full": NUMBER},
}
"""Those settings, by dotted keys, that are more than shown or compared by what reads a run without its schema."""


def read_status(run: Path) -> Row:
    """`state`, `step`, `reason` and `time`, None where they are not known; pending before there is a status.json."""
    if not present(run / STATUS):
        with named(run.name):
            next(run.iterdir(), None)  # raises where the directory can't be read, in which nothing seems to be
    kinds = {"state": STATE, "step": WHOLE, "reason": TEXT, "time": NUMBER}
    found = read_object(run / STATUS) if present(run / STATUS) else {"state": "pending"}
    typed(found, STATUS, kinds, needed=["state"])
    return {key: found.get(key) for key in kinds}


def read_job(run: Path) -> Row:
    """What the launcher that has a run has written down; empty where none has."""
    if not present(run / JOB):
        return {}
    kinds = dict.fromkeys(("launcher", "job_id", "host", "log", "user", "cluster"), TEXT) | {"stages": list_of(TEXT)}
    kinds |= dict.fromkeys(("slot", "shares", "tries", "step"), WHOLE) | dict.fromkeys(("started", "time"), NUMBER)
    return typed(read_object(run / JOB), JOB, kinds)


def read_made_by(run: Path) -> MadeBy | None:
    """The command line that made a run; None where none did."""
    if not present(run / OVERRIDES):
        return None
    kinds = {"config": TEXT, "overrides": list_of(TEXT), "config_dir": TEXT, "sweeper": TEXT}
    return cast(MadeBy, typed(read_object(run / OVERRIDES), OVERRIDES, kinds, needed=["config", "overrides"]))


def read_chosen(run: Path) -> Row | None:
    """Which kept policy was chosen, on which split, and its figures; None where none was."""
    if not present(run / CHOSEN):
        return None
    kinds = {"step": WHOLE, "split": TEXT, "figure": TEXT, "figures": MAPPING}
    found = typed(read_object(run / CHOSEN), CHOSEN, kinds, needed=list(kinds))
    figures(found["figures"], CHOSEN)
    return found


def read_metrics(run: Path) -> Row:
    """metrics.json, all of its figures checked."""
    blocks = dict.fromkeys(("baseline", "controls", "seconds"), MAPPING)
    found = figures(typed(read_object(run / METRICS), METRICS, blocks | {"objective_problem": TEXT}), METRICS)
    controls = found.get("controls") or {}
    typed(controls, f"{METRICS}, controls", dict.fromkeys(controls, MAPPING))
    for name, block in {"baseline": found.get("baseline"), **controls}.items():
        figures(block or {}, f"{METRICS}, {name}")
    seconds = found.get("seconds") or {}
    typed(seconds, f"{METRICS}, seconds", dict.fromkeys(seconds, POSITIVE))
    return found


def with_cost(metrics: Row) -> Row:
    """The same with the seconds of training and evaluation as `cost`, where they are known."""
    taken = metrics.get("seconds") or {}
    known = [float(taken[stage]) for stage in OWN_STAGES if taken.get(stage) is not None]
    return metrics | {"cost": sum(known)} if known else metrics


def read_decisions(run: Path) -> list[Row]:
    """What was decided on the run's going on, a row for each step at which it was."""
    kinds = {"step": WHOLE, "rule": TEXT, "figure": TEXT, "value": NUMBER, "others": MAPPING, "reason": TEXT}
    return read_rows(run / DECISIONS, kinds, ["step", "rule"]) if present(run / DECISIONS) else []


def read_parent(run: Path) -> Row | None:
    """The run and the step that this one has gone on from as its branch; None where it began at its own start."""
    if not present(run / PARENT):
        return None
    return typed(read_object(run / PARENT), PARENT, {"path": TEXT, "step": WHOLE}, ["path", "step"])


def read_history(run: Path) -> list[Row]:
    """A row per step."""
    return [history_row(line, number) for number, line in numbered_lines(run / HISTORY)]


def history_row(line: str, number: int) -> Row:
    """One of history.jsonl; `number` counts lines from 1."""
    place = f"{HISTORY}, line {number}"
    return figures(typed(parse_row(line, place), place, {"step": WHOLE}, needed=["step"]), place)


def read_judgements(run: Path) -> list[Row] | None:
    """A row per evaluation prompt; None where the run has none."""
    return read_rows(run / RESPONSES, JUDGED, ["instruction"]) if present(run / RESPONSES) else None


def read_responses(run: Path) -> list[Row]:
    """The rows of the last evaluation so far, with the responses."""
    if not present(run / RESPONSES):
        raise DataError(f"{run / RESPONSES} does not exist: a run writes it at its first evaluation")
    needed = ("step", "instruction", "reference", "response", "score")
    rows = read_rows(run / RESPONSES, ANSWERED, needed)
    if not rows:
        raise DataError(f"{run / RESPONSES} holds no rows")
    return rows


def read_outputs(run: Path, name: str) -> list[Row]:
    """Responses in AlpacaEval's model_outputs format; empty where the run kept none under that name."""
    if not present(run / name):
        return []
    with named(name):
        rows = parse_json(read_text(run / name))
    typed({"rows": rows}, name, {"rows": list_of(MAPPING)}, needed=["rows"])
    return [typed(row, f"{name}, index {place}", OUTPUT, ["instruction", "output"]) for place, row in enumerate(rows)]


def read_settings(run: Path) -> Row:
    """config.yaml as nested mappings; nothing in it is resolved or instantiated."""
    with named(CONFIG):
        text = read_text(run / CONFIG, MOST_SETTINGS)
        check_yaml(text)
        found = yaml.load(text, Loader=LOADER)
        check_plain(found)
    if not isinstance(found, dict):
        raise DataError(f"{CONFIG} holds no mapping")
    return found


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where libyaml is there."""


def check_yaml(text: str) -> None:
    """Refuse anchors and aliases, which no run writes and of which bombs and cycles are made, and what is too deep.

    libyaml itself overflows the stack on deep texts, so this looks at the tokens first.
    """
    depth = 0
    for token in yaml.scan(text, Loader=LOADER):
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            raise ValueError("an alias or an anchor, which no run writes")
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels deep")


def read_base(policy: Path) -> str:
    """What the adapter in a policy's folder was trained on: a directory, a hub id, or "" where that was not written."""
    name = "base_model_name_or_path"
    return typed(read_object(policy / ADAPTER), ADAPTER, {name: TEXT}, [name])[name]


def select(settings: Row, key: str, needed: bool = False) -> Any:
    """The value of a dotted key of `read_settings`, None where there is none; raises DataError on a wrong type."""
    found: Any = settings
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    typed({key: found}, CONFIG, {key: SETTINGS[key]} if key in SETTINGS else {}, [key] * needed)
    return found


def read_object(path: Path) -> Row:
    """The mapping that a file of JSON holds."""
    with named(path.name):
        text = read_text(path)
    return parse_row(text, path.name)


def read_rows(path: Path, kinds: Mapping[str, Kind], needed: Collection[str] = ()) -> list[Row]:
    """Lines of JSON, each a mapping."""
    rows = ((f"{path.name}, line {number}", line) for number, line in numbered_lines(path))
    return [typed(parse_row(line, place), place, kinds, needed) for place, line in rows]


def numbered_lines(path: Path, being_written: bool = False) -> list[tuple[int, str]]:
    """Lines that are not empty, counted from 1; while a file is `being_written`, those alone that have their end."""
    with named(path.name):
        lines = read_text(path).split("\n")
    return [(number, line) for number, line in enumerate(lines[: -1 if being_written else None], start=1) if line]


def parse_row(text: str, place: str) -> Row:
    with named(place):
        found = parse_json(text)
    if not isinstance(found, dict):
        raise DataError(f"{place} holds no mapping")
    return found


def typed(row: Row, place: str, kinds: Mapping[str, Kind], needed: Collection[str] = ()) -> Row:
    """The row; raises DataError where a value is of another kind, or one that is needed is missing or null."""
    missing = [key for key in needed if row.get(key) is None]
    if missing:
        raise DataError(f"{place} lacks {', '.join(missing)}")
    for key, kind in kinds.items():
        if (value := row.get(key)) is not None and not kind.holds(value):
            raise DataError(f"{place}: {key} is {quoted(value)}: it must be {kind.needed}")
    return row


def figures(row: Row, place: str) -> Row:
    """The row, in which each figure, and each standard error of one, is null or a number that it can be."""
    for name, value in row.items():
        figure = name.removesuffix("_se")
        if value is None or (figure not in FIGURES and "/" not in name):
            continue
        low, high = bounds(name) if figure == name else (0.0, LARGEST_FIGURE)
        low, high = max(low, -LARGEST_FIGURE), min(high, LARGEST_FIGURE)
        if not is_number(value) or not low - ROUNDING <= value <= high + ROUNDING:
            raise DataError(f"{place}: {name} is {quoted(value)}: it must be a number from {low:g} to {high:g}")
    return row


def quoted(value: object, longest: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def present(path: Path) -> bool:
    """Whether there is anything at a path; raises DataError where that can't be known."""
    with named(path.name):
        return path.exists() or path.is_symlink()


@contextmanager
def named(place: str) -> Iterator[None]:
    """Whatever a file makes its reader stumble over as a DataError, in one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, RecursionError, MemoryError, yaml.YAMLError) as error:
        raise DataError(f"{place}: {' '.join(str(error).split()) or type(error).__name__}") from error
