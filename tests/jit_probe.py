"""``python -m tests.jit_probe NETWORK [boxes]``: a training step through Triton's JIT, without a
device; with ``boxes`` by the variants that take tensor descriptors, and only these are compiled.

Every launch of the generated module is bound, specialised and compiled for sm_90 by the code that
would launch it, then not launched: what comes out is garbage, but nothing of the launch is
left to chance. Prints the number of launches of each loop nest.
"""

import json
import sys
from collections import Counter
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import convdsl
from convdsl.runtime.load import load_text
from tests.variants import with_variants


class NoDevice:
    """Answers what the JIT asks of a driver before it compiles."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def main(path: str, *options: str) -> None:
    driver.set_active(NoDevice())
    launches: Counter[str] = Counter()
    launch = JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = None
        if not boxes or "x_box" in options:
            kernel = launch(self, *args, grid=grid, warmup=True, **options)
            assert kernel is not None and 1 <= len(grid) <= 3
        launches[self.__name__] += 1
        return kernel

    JITFunction.run = only_compile
    net = convdsl.compile(path)
    boxes = options == ("boxes",)
    if boxes:
        net = with_variants(net)
    module = load_text(net.emit("triton"), net.name)
    module.check_device = lambda x, kernel: None
    model = getattr(module, net.name)(dtype=torch.bfloat16)
    (shape,) = model.INPUTS.values()
    x = torch.randn(4, *shape, requires_grad=True)
    y = torch.zeros(4, dtype=torch.int64)
    model(x, y).backward()
    model(x.detach(), y).backward()  # at once, if the network is for that
    model.predict(x)
    print(json.dumps(dict(sorted(launches.items()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
