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
else:

    def __getattr__(name: str) -> object:
        """`convdsl.weights`, which imports torch, when it is first asked for."""
        if name != "weights":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return import_module("convdsl.weights")


__all__ = ["CompileError", "Network", "__version__", "compile", "compile_text", "load", "weights"]
