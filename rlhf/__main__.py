"""The command `rlhf`: its first word chooses a command, each of them also a module (`python -m rlhf.run`)."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

COMMANDS = {
    "run": "rlhf.run",
    "resume": "rlhf.resume",
    "prepare": "rlhf.prepare",
    "status": "rlhf.status",
    "report": "rlhf.report.__main__",
    "samples": "rlhf.samples",
    "chat": "rlhf.chat",
    "evaluate": "rlhf.evaluate",
    "judge": "rlhf.judge",
    "alpaca-eval": "rlhf.alpaca_eval",
    "export": "rlhf.export.__main__",
    "dashboard": "rlhf.dashboard",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Hand the arguments after the command's name to its module."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(page())
    elif name in COMMANDS:
        sys.argv = [f"rlhf {name}", *rest]
        import_module(COMMANDS[name]).main()
    else:
        sys.exit(f"error: {name} is no command of rlhf: choose one of {', '.join(COMMANDS)}")


def page() -> str:
    """The help page: each command with the first line of its module, which is not imported for it."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["usage: rlhf COMMAND ...; each has a --help of its own", "", *lines])


def purpose(module: str) -> str:
    """What a module's docstring says before its first colon."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (docstring or "").split(":")[0]


if __name__ == "__main__":
    main()
