"""Whether a checkpoint belongs to the run that wants to go on with it."""

from difflib import unified_diff
from typing import Any

from convdsl.train.problem import TrainingError

#: settings that do not change what is learned
_FREE = {"save_every"}


def check_same(before: dict[str, Any], now: dict[str, Any], force: bool) -> None:
    """Raises TrainingError with the difference, unless ``force`` says that it is meant.

    Weights and the optimiser's state must fit in any case; other classes are another task.
    """
    if before["classes"] != now["classes"]:
        raise TrainingError(
            "E423",
            f"the checkpoint has the classes {_list(before['classes'])}, the data has "
            f"{_list(now['classes'])}",
            "start a new run with --init",
        )
    optimizers = [found["recipe"].get("optimizer") for found in (before, now)]
    if optimizers[0] != optimizers[1]:
        raise TrainingError(
            "E423",
            f"the checkpoint is of {optimizers[0]}, whose state {optimizers[1]} cannot go on with",
            "start a new run with --init",
        )
    if before.get("frozen", now["frozen"]) != now["frozen"]:
        raise TrainingError(
            "E423",
            f"the checkpoint's run had frozen {_list(before['frozen'])}; "
            f"now it is {_list(now['frozen'])}",
            "give the same --freeze, or start a new run with --init",
        )
    if force:
        return
    if before["digest"] != now["digest"]:
        raise TrainingError(
            "E423", f"the program is another one:\n{_difference(before, now)}", _HELP
        )
    changed = changed_settings(before, now)
    if before["data"] != now["data"]:
        changed.append(f"data {before['data']} -> {now['data']}")
    if changed:
        raise TrainingError("E423", f"the settings are others: {'; '.join(changed)}", _HELP)


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings of the recipe that are others, as "name before -> now"."""
    return [
        f"{name} {before['recipe'].get(name)!r} -> {value!r}"
        for name, value in now["recipe"].items()
        if name not in _FREE and _plain(before["recipe"].get(name)) != _plain(value)
    ]


_HELP = "give what the run was started with, or --force to go on with the new"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown}, ... ({len(names)})" if len(names) > 10 else shown or "none"


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
