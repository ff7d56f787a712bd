"""The library's face: what `import rlhf` gives, and what it imports."""

import json
import subprocess
import sys

import rlhf

HEAVY = ("torch", "transformers", "peft", "hydra", "omegaconf", "numpy")


def imported_by(code: str) -> list[str]:
    """Which of the heavy packages a fresh interpreter has imported after `code`."""
    show = f"{code}; import json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    return json.loads(subprocess.run([sys.executable, "-c", show], capture_output=True, check=True, text=True).stdout)


def test_importing_it_imports_nothing_heavy() -> None:
    assert imported_by("import rlhf") == []


def test_each_public_name_is_found() -> None:
    assert dir(rlhf) == sorted(rlhf.__all__)
    for name in rlhf.__all__:
        assert getattr(rlhf, name) is not None


def test_regularizers_need_torch_alone() -> None:
    assert {"hydra", "omegaconf", "transformers", "peft"}.isdisjoint(imported_by("import rlhf.regularizers"))
