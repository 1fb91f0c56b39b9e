"""Generated launches go through Triton's own JIT, not only its interpreter."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import convdsl

ROOT = Path(__file__).parent.parent


def test_every_launch_binds_and_compiles_without_a_device() -> None:
    path = ROOT / "networks" / "digits.cnn"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.jit_probe", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # inference, forward, backward and loss each launch what the compiler recorded, and so does a
    # step at once; with no optimiser of ours, each of the three makes the copy of the weights
    recorded = Counter(launch.nest for launch in convdsl.compile(path).triton.launches)
    assert {"samples_pass", "weights_pass", "scaling_pass"} <= recorded.keys()
    assert json.loads(done.stdout) == dict(sorted({**recorded, "cast": 3}.items()))
