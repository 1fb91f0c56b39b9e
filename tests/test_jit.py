"""Generated launches go through Triton's own JIT, not only its interpreter."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import convdsl
from tests.variants import with_variants

ROOT = Path(__file__).parent.parent


def launched(path: Path, *options: str) -> dict[str, int]:
    """How often `tests.jit_probe` launches each loop nest."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.jit_probe", str(path), *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_every_launch_binds_and_compiles_without_a_device() -> None:
    path = ROOT / "networks" / "digits.cnn"
    # inference, forward, backward and loss each launch what the compiler recorded, and so does a
    # step at once; with no optimiser of ours, each of the three makes the copy of the weights
    recorded = Counter(launch.nest for launch in convdsl.compile(path).triton.launches)
    assert {"samples_pass", "weights_pass", "scaling_pass"} <= recorded.keys()
    assert launched(path) == dict(sorted({**recorded, "cast": 3}.items()))


def test_tensor_descriptors_bind(tmp_path: Path) -> None:
    path = tmp_path / "boxed.cnn"
    path.write_text(
        "input 16@4x4\nnet Boxed = CONV(16, F=1x3) - GAP - FC(16) - FC(5), SOFTMAX\n",
        encoding="utf-8",
    )
    recorded = Counter(x.nest for x in with_variants(convdsl.compile(path)).triton.launches)
    assert {"conv_swapped", "rows_persistent"} <= recorded.keys()
    found = launched(path, "boxes")
    assert {nest: found[nest] for nest in recorded} == dict(recorded)
