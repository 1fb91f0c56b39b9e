"""The committed times -> the table in docs/performance.md."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
_TABLE = re.compile(r"<!-- cpu -->\n.*?<!-- /cpu -->\n", re.DOTALL)


def page(document: dict[str, Any]) -> str:
    """The part of the page that says what ``document``, a JSON file of the benchmark, says."""
    machine, cases = document["machine"], document["cases"]
    batches, commits = ({case[key] for case in cases} for key in ("batch", "commit"))
    head = (
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, batches of "
        f"{', '.join(map(str, sorted(batches)))}, {document['clock']} time, at "
        f"{', '.join(sorted(commits))}:"
    )
    lines = [
        "<!-- cpu -->",
        head,
        "",
        "| network | precision | part | ours, ms | best peer, ms | which | spread | ratio |",
        "|---|---|---|---:|---:|---|---:|---:|",
    ]
    for case in document["cases"]:
        ours, peer = case["ours"], case["peer"]
        mine, theirs = (case["seconds"][name] for name in (ours, peer))
        spread = max(mine["spread"], theirs["spread"])
        way = f"{ours.removeprefix('ours ')}; {peer}"
        lines.append(
            f"| {case['network']} | {case['precision']} | {case['part']} | {_ms(mine)} | "
            f"{_ms(theirs)} | {way} | {spread:.0%} | {case['ratio']:.2f} |"
        )
    return "\n".join([*lines, "<!-- /cpu -->", ""])


def update(document: dict[str, Any]) -> None:
    """Write the times and the page; other cases of the same machine and clock stay."""
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if all(before.get(key) == document[key] for key in ("machine", "clock")):
        new = {_name(case): case for case in document["cases"]}
        old = {_name(case): case for case in before["cases"]}
        document = {**document, "cases": list((old | new).values())}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text("utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: page(document), text), encoding="utf-8")


def _name(case: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(case[key] for key in ("network", "precision", "part", "batch"))


def _ms(times: dict[str, Any]) -> str:
    milliseconds = 1e3 * float(times["median"])
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
