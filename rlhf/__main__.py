"""The command `rlhf`: its first word chooses a command, each also a module (`rlhf run` is `python -m rlhf.run`)."""

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
    "stop": "rlhf.stop",
    "clone": "rlhf.clone",
    "report": "rlhf.report.__main__",
    "samples": "rlhf.samples",
    "chat": "rlhf.chat",
    "evaluate": "rlhf.evaluate",
    "choose": "rlhf.choose",
    "judge": "rlhf.judge",
    "factscore": "rlhf.factscore",
    "alpaca-eval": "rlhf.alpaca_eval",
    "export": "rlhf.export.__main__",
    "dashboard": "rlhf.dashboard",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Call the module of the command that the first argument names, with the arguments after it."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(page())
    elif name in COMMANDS:
        sys.argv = [f"rlhf {name}", *rest]
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a `_target_` may be in a file there
        import_module(COMMANDS[name]).main()
    else:
        sys.exit(f"error: {name} is not a command of rlhf: choose one of {', '.join(COMMANDS)}")


def page() -> str:
    """The help page: each command with the purpose that its module states; imports none of them."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["usage: rlhf COMMAND ...; each has a --help of its own", "", *lines])


def purpose(module: str) -> str:
    """The start of a module's docstring, up to its first colon."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (docstring or "").split(":")[0]


if __name__ == "__main__":
    main()
