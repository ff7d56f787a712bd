"""What a finished run has trained, written as a folder that others can load: an adapter, or a whole model."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.errors import DataError
from rlhf.models.precision import DTYPES
from rlhf.report.load import Run, read_run
from rlhf.storage.files import read_json, share, write_json
from rlhf.storage.reader import ADAPTER, read_base

BASE = "base"
"""Where in an adapter's folder its base lies, if it is of that run's own making."""

MODEL_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", "chat_template.jinja", "chat_template.json"),
    *("model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    *("tokenizer*.json", "tokenizer*.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt"),
    *("merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)
"""What belongs to a model; no code and nothing that is unpickled."""

RECORD = ("config.yaml", "metrics.json")
"""What of a run goes with its policy, into run/."""


@dataclass(frozen=True)
class Policy:
    """A run's policy: an adapter, or with `whole` a model of its own (lora=full).

    `base` is the directory or hub id of the model that it was trained on; `published` what others load that by, or None
    where the run itself has made it, so that it must go with the adapter.
    """

    run: Run
    whole: bool
    base: str
    published: str | None

    @property
    def directory(self) -> Path:
        return Path(self.run.path) / "policy"


def find_policy(directory: Path, base: str | None) -> Policy:
    """The policy of a finished run; `base` is what its base is published as. Raises DataError where there is none."""
    try:
        run, policy = read_run(directory), directory / "policy"
    except ValueError as error:
        raise DataError(f"{directory}: {error}; a policy is exported when its run is done") from error
    if not (policy / "config.json").is_file() and not (policy / ADAPTER).is_file():
        raise DataError(f"{policy} holds neither an adapter nor a model")
    whole = not (policy / ADAPTER).is_file()
    trained_on = str(policy) if whole else read_base(policy)
    if not trained_on:
        raise DataError(f"{directory}: the policy's base was never written, so that nobody can load the policy")
    if Path(trained_on).is_absolute() and not Path(trained_on).is_dir():
        advice = "the same command with another hydra.run.dir makes it again"
        raise DataError(f"{directory}: the policy's base is gone: there is no {trained_on}; {advice}")
    given = run.config.get("model.path") if not run.config.get("sft.epochs") else None
    return Policy(run, whole, trained_on, base or (str(given) if given else None))


def write_policy(policy: Policy, folder: Path, merge: bool) -> None:
    """The weights, their tokenizer and the run's record, into an empty folder; DataError where that can't be done."""
    try:
        if policy.whole:
            copy_model(policy.directory, folder)
        elif merge:
            write_merged(policy, folder)
        else:
            write_adapter(policy, folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{policy.directory}, trained on {policy.base}, can't be exported: {error}") from error
    (folder / "run").mkdir()
    for name in RECORD:
        copy_own(Path(policy.run.path) / name, folder / "run" / name)
    share(folder)


def copy_model(source: Path, folder: Path) -> None:
    """The files that belong to a model or an adapter, and nothing else that lies beside them: it may be pushed."""
    folder.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if any(path.match(pattern) for pattern in MODEL_FILES):
            copy_own(path, folder / path.name)


def copy_own(path: Path, place: Path) -> None:
    """A regular file; DataError for a link, whose target may be anything, and for whatever else is no file."""
    if path.is_symlink() or not path.is_file():
        raise DataError(f"{path} is a link, or no regular file: only a run's own files are exported; put a copy there")
    shutil.copy(path, place)


def write_adapter(policy: Policy, folder: Path) -> None:
    """peft's two files and the tokenizer, and beside them the base that they are nothing without, if it is our own."""
    copy_model(policy.directory, folder)
    settings = read_json(folder / ADAPTER)
    write_json(folder / ADAPTER, settings | {"base_model_name_or_path": policy.published or BASE})
    if policy.published is None:
        copy_model(Path(policy.base), folder / BASE)
    AutoTokenizer.from_pretrained(policy.base).save_pretrained(folder)


def write_merged(policy: Policy, folder: Path) -> None:
    """The base with the adapter added to its weights, in the type that the run had them in."""
    dtype = DTYPES[str(policy.run.config["model.dtype"])]
    base = AutoModelForCausalLM.from_pretrained(policy.base, dtype=dtype)
    merged = PeftModel.from_pretrained(base, str(policy.directory)).merge_and_unload()  # pyright: ignore[reportCallIssue]
    merged.save_pretrained(folder)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    AutoTokenizer.from_pretrained(policy.base).save_pretrained(folder)
