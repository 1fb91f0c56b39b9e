"""Checkpoints: a folder each, of weights and state as safetensors and of everything else as JSON.

    step-000000660/
      weights.safetensors   the network's tensors under its own names
      state.safetensors     the optimiser's and whatever else training needs to go on
      checkpoint.json       the program, classes, normalisation, settings, counts; sizes and
                            SHA-256 of the two files, so a torn folder is known as one

A folder is written under another name, flushed to the disk and renamed, so it is there whole or
not at all. Nothing in it can run code.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from convdsl.train.problem import TrainingError, unreadable, writing

FORMAT = "convdsl checkpoint"
SCHEMA = 1
JSON_FILE = "checkpoint.json"
WEIGHTS = "weights.safetensors"
STATE = "state.safetensors"
#: longest JSON read, so that a wrong file cannot fill the memory
MOST_JSON = 1 << 28


def save(folder: Path, weights: Mapping[str, Tensor], model: Any, training: Any) -> None:
    """Write a checkpoint at ``folder``, which must not exist.

    model: what users of the weights need. training: what only training needs; may hold tensors.
    Both are dictionaries of what JSON has, tuples and whole-number keys too. Raises TrainingError
    if the disk does not take it; then there is nothing at ``folder``.
    """
    tensors: dict[str, Tensor] = {}
    document = {
        "format": FORMAT,
        "schema": SCHEMA,
        "model": plain(model, tensors, "model"),
        "training": plain(training, tensors, "training"),
    }
    files = {
        WEIGHTS: save_tensors({name: _stored(tensor) for name, tensor in weights.items()}),
        STATE: save_tensors({name: _stored(tensor) for name, tensor in tensors.items()}),
    }
    document["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        with writing(folder):
            temporary.mkdir(parents=True)
            for name, data in [*files.items(), (JSON_FILE, text.encode())]:
                write_flushed(temporary / name, data)
            flush_folder(temporary)
            temporary.rename(folder)
            flush_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path) -> dict[str, Any]:
    """``{"weights": .., "model": .., "training": ..}`` of a checkpoint, tensors on the CPU.

    Raises TrainingError with the reason for one that is torn, foreign or of a newer version.
    """
    document = read_document(folder)
    found = {name: _checked(folder, name, document) for name in (WEIGHTS, STATE)}
    try:
        return {
            "weights": found[WEIGHTS],
            "model": restored(document["model"], found[STATE]),
            "training": restored(document["training"], found[STATE]),
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(folder, f"its {JSON_FILE} is not as written: {error!r}") from error


def read_document(folder: Path) -> dict[str, Any]:
    """The JSON of a checkpoint. Raises TrainingError."""
    path = folder / JSON_FILE
    try:
        if path.stat().st_size > MOST_JSON:
            raise _refused(folder, f"its {JSON_FILE} is too large")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _refused(folder, f"it has no {JSON_FILE}") from None
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError:
        raise _refused(folder, f"its {JSON_FILE} is no text") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(folder, f"its {JSON_FILE} is torn: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _refused(folder, "it is not one of convdsl's")
    if document.get("schema") != SCHEMA:
        raise _refused(
            folder, f"it has version {document.get('schema')}, this convdsl reads {SCHEMA}"
        )
    if not isinstance(document.get("files"), dict):
        raise _refused(folder, f"its {JSON_FILE} lists no files")
    return document


def _checked(folder: Path, name: str, document: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _refused(folder, f"{name} is missing") from None
    except OSError as error:
        raise unreadable(path, error) from error
    said = document["files"].get(name) or {}
    if len(data) != said.get("bytes"):
        raise _refused(folder, f"{name} is torn: {len(data):,} bytes of {said.get('bytes')}")
    if hashlib.sha256(data).hexdigest() != said.get("sha256"):
        raise _refused(folder, f"{name} was changed after it was written")
    return read_safetensors(data, path)


def read_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises TrainingError for what is none."""
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(
            "E420", f"{path} is no safetensors file that can be read: {why[:200]}"
        ) from None


def _refused(folder: Path, why: str) -> TrainingError:
    return TrainingError("E420", f"{folder} is no checkpoint that can be used: {why}")


def _stored(tensor: Tensor) -> Tensor:
    """A copy of its own on the CPU; what shares memory with others cannot be stored."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def write_flushed(path: Path, data: bytes) -> None:
    """Write a new file through to the disk."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """``value`` as JSON has it, tensors put into ``tensors`` under the name of their place."""
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"$tensor": place}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: plain(item, tensors, f"{place}.{key}") for key, item in value.items()}
        pairs = [[plain(k, {}, ""), plain(v, tensors, f"{place}.{k}")] for k, v in value.items()]
        return {"$pairs": pairs}
    if isinstance(value, list | tuple):
        items = [plain(item, tensors, f"{place}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}, which a checkpoint cannot hold")


def restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `plain`."""
    if isinstance(value, list):
        return [restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(restored(item, tensors) for item in value["$tuple"])
    if "$pairs" in value:
        return {restored(k, tensors): restored(v, tensors) for k, v in value["$pairs"]}
    if "$float" in value:
        return float(value["$float"])
    return {key: restored(item, tensors) for key, item in value.items()}
