"""convdsl: one page of text becomes a convolutional network that trains.

import convdsl
net = convdsl.compile("networks/lenet5.cnn")
model = net.module()
"""

from typing import TYPE_CHECKING

from convdsl._version import __version__
from convdsl.compiler import Network, compile, compile_text, load
from convdsl.diagnostics import CompileError

if TYPE_CHECKING:
    from convdsl import weights as weights
    from convdsl.optim import SGD as SGD
    from convdsl.optim import Adam as Adam
    from convdsl.optim import AdamW as AdamW
    from convdsl.tuning.tune import tune as tune
else:

    def __getattr__(name: str) -> object:
        """What imports torch, when first asked for."""
        from importlib import import_module

        if name == "weights":
            return import_module("convdsl.weights")
        if name in ("SGD", "Adam", "AdamW"):
            return getattr(import_module("convdsl.optim"), name)
        if name == "tune":
            return import_module("convdsl.tuning.tune").tune
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CompileError",
    "Network",
    "__version__",
    "compile",
    "compile_text",
    "load",
    "tune",
    "weights",
]
