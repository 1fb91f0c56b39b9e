"""A compiled network <-> a record of all that it was compiled from, as JSON can hold it.

The record holds the program and what it imports as text, never generated code: whoever loads it
compiles it again.
"""

import hashlib
import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from convdsl.compiler import Network, compile_source, make_options
from convdsl.lower.evaluate import Value
from convdsl.source import Source
from convdsl.train.problem import TrainingError

Record = dict[str, Any]


def record(network: Network) -> Record:
    """Text, imported files and options. Raises TrainingError for imports that cannot be read."""
    options = network.options
    root = options.root.resolve() if options.root is not None else None
    imports: dict[str, str] = {}
    for file in network.lowered.uses.files:
        try:
            name = file.resolve().relative_to(root or file.parent).as_posix()
            imports[name] = file.read_text(encoding="utf-8")
        except OSError as error:
            raise TrainingError("E300", f"cannot read {file}: {error.strerror}") from error
    return {
        "name": Path(network.source.name).name,
        "text": network.source.text,
        "imports": imports,
        "lets": dict(options.lets),
        "input": None if options.inputs is None else options.inputs.span.source.text,
        "defaults": [default.span.source.text for default in options.defaults],
    }


def digest(recorded: Record) -> str:
    """SHA-256 of the record, without the name of the file."""
    meaning = {key: value for key, value in recorded.items() if key != "name"}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def rebuild(recorded: Record) -> Network:
    """The network of a `record`. Raises CompileError, and TrainingError for what is no record."""
    try:
        lets = {str(name): _value(value) for name, value in recorded["lets"].items()}
        source = Source(str(recorded["name"]), str(recorded["text"]))
        defaults = [str(text) for text in recorded["defaults"]]
        shape = None if recorded["input"] is None else str(recorded["input"])
        imports = {str(name): str(text) for name, text in recorded["imports"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError("E420", f"the program is not recorded as expected: {error}") from error
    if not imports:
        return compile_source(source, make_options(lets, shape, defaults))
    with tempfile.TemporaryDirectory(prefix="convdsl-") as folder:
        for name, text in imports.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise TrainingError("E420", f"the recorded import {name!r} leaves its folder")
            target = Path(folder, *path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return compile_source(source, make_options(lets, shape, defaults, root=Path(folder)))


def _value(given: Any) -> Value:
    """A let from JSON, which has lists where the language has tuples."""
    if isinstance(given, list):
        return tuple(_value(item) for item in given)
    if isinstance(given, bool | int | float | str):
        return given
    raise TypeError(f"{given!r} is no value of the language")
