"""The library's face: what `import rlhf` gives, and what it costs."""

import json
import subprocess
import sys

import rlhf

IMPORT = """
import json, sys, time
start = time.perf_counter()
import rlhf
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in ("torch", "transformers", "hydra") if name in sys.modules]]))
"""

SHORTEST_OF = 3


def test_importing_it_takes_no_torch_and_no_time() -> None:
    found = [
        json.loads(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True, text=True).stdout)
        for _ in range(SHORTEST_OF)
    ]
    assert min(seconds for seconds, _ in found) < 0.3
    assert found[0][1] == []


def test_each_public_name_is_found() -> None:
    assert dir(rlhf) == sorted(rlhf.__all__)
    for name in rlhf.__all__:
        assert getattr(rlhf, name) is not None


def test_regularizers_need_no_hydra() -> None:
    code = "import sys, rlhf.regularizers; print([name for name in ('hydra', 'omegaconf') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
