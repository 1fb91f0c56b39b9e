"""Whether a checkpoint belongs to the run that wants to go on with it."""

from difflib import unified_diff
from typing import Any

from convdsl.train.problem import TrainingError

#: settings that do not change what is learned
_FREE = {"save_every"}


def check_same(before: dict[str, Any], now: dict[str, Any], force: bool) -> None:
    """Raises TrainingError with the difference, unless ``force`` says that it is meant.

    Weights must fit in any case; other classes are another task.
    """
    if before["classes"] != now["classes"]:
        raise TrainingError(
            "E423",
            f"the checkpoint has the classes {_list(before['classes'])}, the data has "
            f"{_list(now['classes'])}",
            "start a new run with --init",
        )
    if force:
        return
    if before["digest"] != now["digest"]:
        raise TrainingError(
            "E423", f"the program is another one:\n{_difference(before, now)}", _HELP
        )
    changed = [
        f"{name} {before['recipe'].get(name)!r} -> {value!r}"
        for name, value in now["recipe"].items()
        if name not in _FREE and _plain(before["recipe"].get(name)) != _plain(value)
    ]
    if before["data"] != now["data"]:
        changed.append(f"data {before['data']} -> {now['data']}")
    if changed:
        raise TrainingError("E423", f"the settings are others: {'; '.join(changed)}", _HELP)


_HELP = "give what the run was started with, or --force to go on with the new"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown}, ... ({len(names)})" if len(names) > 10 else shown or "of no names"


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    old, new = before["program"], now["program"]
    lines = list(
        unified_diff(
            old["text"].splitlines(), new["text"].splitlines(), "checkpoint", "now", lineterm=""
        )
    )
    for name in ("lets", "input", "defaults", "imports"):
        if old.get(name) != new.get(name):
            lines.append(f"{name}: {old.get(name)!r} -> {new.get(name)!r}")
    return "\n".join(lines[:40])
