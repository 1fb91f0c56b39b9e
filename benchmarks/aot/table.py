"""Facts of kernels <-> the committed tables, their differences in words, and what none may break.

A table is the JSON text of one target and one version of Triton, one row a kernel under its
description, sorted: facts that are zero and may be are left out. An older Triton has the tables of
`OLDER_TARGETS` only: building one takes half an hour. Compiles nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.aot.describe import describe
from benchmarks.aot.layers import layer_programs
from convdsl.compiler import Network, compile
from convdsl.tuning.build import TARGETS, Facts, Target
from convdsl.tuning.plan import Kernel, plan

ROOT = Path(__file__).parent.parent.parent
TABLES = ROOT / "tests" / "golden" / "aot"
#: the version of Triton whose tables have no version in their names
TRITON = "3.7.1"
#: older versions that have tables as well, and the targets of those
OLDER, OLDER_TARGETS = ("3.6.0",), ("sm_90", "sm_100", "gfx942")
#: facts every row shows
ALWAYS = ("registers", "spills", "shared")
#: instructions of matrix products, one kind for each target
PRODUCTS = frozenset(target.product for target in TARGETS.values())
#: least rows and columns of a tile that must be multiplied by its target's own instructions
WIDE = 64


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel's facts, the programs that launch it, and the digest of what was compiled."""

    facts: Facts
    networks: tuple[str, ...]
    digest: str


Rows = dict[str, Row]


def known_facts(
    plans: Iterable["Planned"], targets: Iterable[Target], triton: str
) -> dict[tuple[Kernel, Target], Facts]:
    """What the committed tables say of kernels that are still those that were built."""
    found = {}
    for target in targets:
        path = table_path(target, triton)
        facts = {row.digest: row.facts for row in read(path).values()} if path.exists() else {}
        for entry in plans:
            if entry.kernel.digest in facts:
                found[entry.kernel, target] = facts[entry.kernel.digest]
    return found


@dataclass(frozen=True, slots=True)
class Planned:
    """A kernel to build, its description, and the names of the programs that launch it."""

    kernel: Kernel
    description: str
    networks: tuple[str, ...]


def targets_of(triton: str) -> list[Target]:
    """The targets that there are tables for."""
    names = TARGETS if triton == TRITON else OLDER_TARGETS
    return [TARGETS[name] for name in names]


def all_networks() -> list[tuple[str, Network]]:
    """Every network of ``networks/`` with its file's name, compiled."""
    return [(path.stem, compile(path)) for path in sorted((ROOT / "networks").glob("*.cnn"))]


def all_programs() -> list[tuple[str, Network]]:
    """The networks, then the programs of the layers and heads under their names in the language."""
    return [*all_networks(), *layer_programs()]


def planned(networks: Iterable[tuple[str, Network]], dtype: str = "bf16") -> list[Planned]:
    """The kernels of the networks, sorted by description.

    Descriptions are told apart among all that are given: for the committed ones give all programs.
    """
    users = plan(networks, dtype)
    names = describe(users)
    made = [Planned(kernel, names[kernel], tuple(users[kernel])) for kernel in users]
    return sorted(made, key=lambda p: p.description)


def table_path(target: Target, triton: str) -> Path:
    """``tests/golden/aot/sm_90.json``, or ``sm_90-triton3.6.json`` for another Triton."""
    series = triton.rsplit(".", 1)[0]
    suffix = "" if triton == TRITON else f"-triton{series}"
    return TABLES / f"{target.name}{suffix}.json"


def write(rows: Mapping[str, Row], triton: str) -> str:
    """The JSON text of a table."""
    lines = []
    for description, row in sorted(rows.items()):
        facts = {k: v for k, v in asdict(row.facts).items() if v or k in ALWAYS}
        cells = json.dumps({**facts, "networks": sorted(row.networks), "digest": row.digest})
        lines.append(f"  {json.dumps(description)}: {cells}")
    body = ",\n".join(lines)
    return f'{{"triton": {json.dumps(triton)}, "kernels": {{\n{body}\n}}}}\n'


def read(path: Path) -> Rows:
    """The rows of a table. Raises FileNotFoundError."""
    table = json.loads(path.read_text(encoding="utf-8"))
    rows = {}
    for description, cells in table["kernels"].items():
        networks = tuple(cells.pop("networks"))
        digest = cells.pop("digest")
        rows[description] = Row(Facts(**cells), networks, digest)
    return rows


def differences(before: Mapping[str, Row], after: Mapping[str, Row]) -> list[str]:
    """A sentence for every kernel that came, went or changed."""
    found = []
    for description in sorted(before.keys() | after.keys()):
        if description not in after:
            found.append(f"{description}: is in the table, but nothing launches it")
        elif description not in before:
            found.append(f"{description}: is launched, but not in the table")
        else:
            found += _changes(description, before[description], after[description])
    return found


def _changes(description: str, before: Row, after: Row) -> list[str]:
    old, new = asdict(before.facts), asdict(after.facts)
    changed = [f"{k} from {old[k]} to {new[k]}" for k in old if old[k] != new[k]]
    if before.digest != after.digest:
        changed.append("the kernel is another than the one that was built")
    if sorted(before.networks) != sorted(after.networks):
        changed.append(f"networks from {', '.join(before.networks)} to {', '.join(after.networks)}")
    return [f"{description}: {'; '.join(changed)}"] if changed else []


def violations(plan: Planned, target: Target, facts: Facts) -> list[str]:
    """What a kernel must not do: spill, take more shared memory than there is, or, where its tile
    is wide and in 16 bits, multiply by other instructions than the target's own."""
    found = []
    if facts.spills:
        found.append(f"spills {facts.spills} bytes")
    if facts.shared > target.shared_limit:
        found.append(f"takes {facts.shared} of {target.shared_limit} bytes of shared memory")
    if _is_wide_product(plan.kernel):
        if not getattr(facts, target.product):
            found.append(f"does not use {target.product}")
        slower = [name for name in sorted(PRODUCTS - {target.product}) if getattr(facts, name)]
        found += [f"uses {name} {getattr(facts, name)} times" for name in slower]
    return [f"{target.name}: {plan.description}: {text}" for text in found]


def _is_wide_product(kernel: Kernel) -> bool:
    sizes = {a.name: a.value for a in kernel.arguments}
    tile = [sizes.get(name) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")]
    operand = kernel.arguments[0].kind
    wide = all(isinstance(size, int) and size >= WIDE for size in tile[:2])
    return wide and tile[2] is not None and operand in ("*bf16", "*fp16")
