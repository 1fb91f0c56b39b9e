"""Lightning, imported in one place.

Lightning's torchmetrics imports torchvision if it is installed, and that fails beside a build of
torch it was not made for, because two operators are missing that nothing here uses. They are then
declared, without an implementation.
"""

import logging
import sys
import warnings
from typing import Any

import torch

#: an operator lives as long as its library
_DECLARED: list[Any] = []


def _mend_torchvision() -> None:
    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError:  # operator torchvision::nms does not exist
        make: Any = torch.library.Library
        library = make("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # halves of the import that failed
    else:
        del torchvision


_mend_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
    from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
    from lightning.pytorch.plugins.io import CheckpointIO
    from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy

__all__ = [
    "Callback",
    "CheckpointCallback",
    "CheckpointIO",
    "EMAWeightAveraging",
    "EarlyStopping",
    "MisconfigurationException",
    "ModelParallelStrategy",
    "SingleDeviceStrategy",
    "pl",
    "quietly",
]


def quietly() -> None:
    """Lightning says what devices there are and what it would do otherwise: not here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
