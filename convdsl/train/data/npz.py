"""Arrays of a numpy .npz file, read without pickle.

Either one set of arrays, of which a part is held out, or two sets: names begin or end with
``train`` and with ``test`` (else ``val``). Inputs are called ``x``, ``images`` or ``data``, or as
the network's inputs are; labels ``y``, ``labels`` or ``targets``.
"""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convdsl.train.data.parts import Arrays, Data, Request
from convdsl.train.data.split import split_arrays
from convdsl.train.data.suit import suited
from convdsl.train.problem import TrainingError, unreadable

INPUTS = ("x", "images", "data")
LABELS = ("y", "labels", "targets")


def read_npz(argument: str, request: Request) -> Data:
    """The file's arrays. Raises TrainingError."""
    arrays = load_arrays(Path(argument))
    train = _set(arrays, "train", request)
    test = _set(arrays, "test", request) or _set(arrays, "val", request)
    if train is None:
        whole = _set(arrays, "", request)
        if whole is None:
            raise TrainingError(
                "E411",
                f"{argument} has no inputs and labels under names known: {', '.join(arrays)}",
                "call them x and y, or x_train, y_train, x_test, y_test",
            )
        train, test = split_arrays(whole.inputs, whole.labels, request)
    elif test is None:
        train, test = split_arrays(train.inputs, train.labels, request)
    return Data(f"npz:{argument}", suited(train, request), suited(test, request))


def load_arrays(path: Path) -> dict[str, "np.ndarray[Any, Any]"]:
    """All arrays by name. Raises TrainingError; objects, which would need pickle, are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory:
            raise TrainingError("E411", f"{path} unpacks to {size:,} bytes, more than memory has")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        why = "it holds Python objects" if "pickle" in str(error) else str(error).splitlines()[0]
        raise TrainingError(
            "E411",
            f"{path} is no .npz file that can be read: {why}",
            "write it with numpy.savez(file, x=..., y=...) from arrays of numbers",
        ) from None


def _set(arrays: dict[str, "np.ndarray[Any, Any]"], which: str, request: Request) -> Arrays | None:
    """The inputs and labels of one part; None if they are not there."""

    def find(name: str) -> Tensor | None:
        forms = (f"{name}_{which}", f"{which}_{name}", f"{which}{name}") if which else (name,)
        return next((_tensor(arrays[form], form) for form in forms if form in arrays), None)

    labels = next((y for name in LABELS if (y := find(name)) is not None), None)
    names = list(request.inputs)
    inputs = [find(name) for name in names]
    if len(names) == 1 and inputs[0] is None:
        inputs = [next((x for name in INPUTS if (x := find(name)) is not None), None)]
    found = [x.float() if x.dtype == torch.int64 else x for x in inputs if x is not None]
    if labels is None or len(found) < len(names):
        return None
    return Arrays(tuple(found), labels)


def _tensor(array: "np.ndarray[Any, Any]", name: str) -> Tensor:
    """Bytes stay bytes, other numbers become float32; labels are brought right by the guards."""
    if array.dtype.kind not in "buif" or array.ndim == 0:
        raise TrainingError("E411", f"the array {name} holds {array.dtype}, not numbers of samples")
    if array.dtype.kind in "iub" and array.dtype != np.uint8:
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(
        np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
    )
