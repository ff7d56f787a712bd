"""A finished run's policy as a folder for others: `python -m rlhf.export RUN_DIR OUT`; see `--help`.

The folder has the weights, their tokenizer, a model card and the run's settings and figures. Nothing leaves this
machine without `--push`.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import command, console
from rlhf.errors import ConfigError, DataError, EndpointError
from rlhf.storage.files import write_text
from rlhf.storage.places import check_folder


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with command():
        export(options)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rlhf.export", description="Export a finished run's policy.")
    made.add_argument("run", metavar="RUN_DIR", type=Path, help="a finished run's directory")
    made.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet, or empty")
    made.add_argument("--merge", action="store_true", help="a whole model, the adapter added to its base's weights")
    base = "hub id or directory that others load the base from; default: as the run did, or shipped if the run made it"
    made.add_argument("--base", help=base)
    made.add_argument("--push", metavar="OWNER/NAME", help="then upload the folder to a new repository on the hub")
    made.add_argument("--private", action="store_true", help="make that repository private")
    return made


def export(options: argparse.Namespace) -> None:
    """All that can be refused is refused before anything is written; a folder is whole, or not there."""
    check(options)
    from rlhf.export import hub  # these import torch and transformers
    from rlhf.export.card import model_card, on_hub
    from rlhf.export.policy import find_policy, write_policy
    from rlhf.models.backbone import prepare_torch

    prepare_torch(None)
    policy = find_policy(options.run, options.base)
    whole = policy.whole or options.merge
    if options.push:
        base = None if whole else policy.published
        if base is not None and not on_hub(base):
            advice = "name what it is published as by --base, or give --merge"
            raise ConfigError(f"--push={options.push}: the adapter's base, {base}, is on this machine alone: {advice}")
        hub.check_free(options.push)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=".export-") as parent:
        folder = Path(parent) / "folder"
        folder.mkdir()
        write_policy(policy, folder, options.merge)
        write_text(
            folder / "README.md", model_card(policy, options.push or options.out.name, whole, bool(options.push))
        )
        if options.out.exists():
            options.out.rmdir()  # empty, as was made sure of
        shutil.move(folder, options.out)
    console.print(f"{options.out}: {'a model' if whole else 'an adapter'}, {size(options.out) / 2**20:.1f} MiB")
    if options.push:
        push(options)


def check(options: argparse.Namespace) -> None:
    if not options.run.is_dir():
        raise DataError(f"there is no run directory {options.run}")
    if options.private and not options.push:
        raise ConfigError("--private is not allowed: it is about the repository that --push makes")
    check_folder("OUT", options.out)
    if options.out.exists() and any(options.out.iterdir()):
        raise DataError(f"{options.out} is there already, and not empty: choose another folder, or remove it")


def push(options: argparse.Namespace) -> None:
    from rlhf.export import hub

    try:
        console.print(hub.push(options.out, options.push, options.private))
    except EndpointError as error:
        raise EndpointError(
            f"{error}; {options.out} is whole: `hf upload {options.push} {options.out}` uploads it"
        ) from error


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
