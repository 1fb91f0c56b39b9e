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
    from convdsl.train.fit import fit as fit
    from convdsl.train.history import History as History
    from convdsl.train.lit import LitNetwork as LitNetwork
    from convdsl.tuning.tune import tune as tune
else:
    _PLACES = {
        "SGD": "convdsl.optim",
        "Adam": "convdsl.optim",
        "AdamW": "convdsl.optim",
        "History": "convdsl.train.history",
        "LitNetwork": "convdsl.train.lit",
        "fit": "convdsl.train.fit",
        "tune": "convdsl.tuning.tune",
    }

    def __getattr__(name: str) -> object:
        """What imports torch, when first asked for: weights, optimisers, training, tuning."""
        from importlib import import_module

        if name == "weights":
            return import_module("convdsl.weights")
        if name in _PLACES:
            return getattr(import_module(_PLACES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CompileError",
    "History",
    "LitNetwork",
    "Network",
    "__version__",
    "compile",
    "compile_text",
    "fit",
    "load",
    "tune",
    "weights",
]
