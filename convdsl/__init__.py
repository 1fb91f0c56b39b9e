"""convdsl: one page of text becomes a convolutional network that trains.

import convdsl
net = convdsl.compile("networks/lenet5.cnn")
model = net.module()
"""

from convdsl._version import __version__
from convdsl.compiler import Network, compile, compile_text, load
from convdsl.diagnostics import CompileError

__all__ = ["CompileError", "Network", "__version__", "compile", "compile_text", "load"]
