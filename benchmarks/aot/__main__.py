"""``python -m benchmarks.aot``: build kernels ahead of time and print or write their table.

    python -m benchmarks.aot                          # every network and layer, every target
    python -m benchmarks.aot vgg16 --target sm_90     # one network, one target
    python -m benchmarks.aot LOCAL --dtype fp32       # what one layer may become
    python -m benchmarks.aot --update                 # rewrite tests/golden/aot
    python -m benchmarks.aot --afresh                 # believe nothing the tables say

A kernel whose row has the digest of what would be compiled is not compiled again.

The table of an older Triton is made in an environment that has it; nothing here needs torch:

    python3 -m venv /tmp/triton36
    /tmp/triton36/bin/pip install triton==3.6.0 lark click
    PYTHONPATH=. /tmp/triton36/bin/python -m benchmarks.aot --update

Exits with 1 when a kernel spills, takes too much shared memory or misses the target's
own matrix instructions.
"""

import sys
from dataclasses import asdict

import click

from benchmarks.aot.table import (
    ALWAYS,
    OLDER,
    TRITON,
    Planned,
    Row,
    all_programs,
    known_facts,
    planned,
    table_path,
    targets_of,
    violations,
    write,
)
from convdsl.tuning.build import TARGETS, Facts, Target, build_all, triton_version


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--target", "names", multiple=True, type=click.Choice(sorted(TARGETS)))
@click.option("--dtype", default="bf16", type=click.Choice(["bf16", "fp16", "fp32"]))
@click.option("--update", is_flag=True, help="write the tables of the chosen targets")
@click.option("--afresh", is_flag=True, help="compile also what the tables know already")
@click.option("--workers", default=2, help="processes that compile")
def main(
    networks: tuple[str, ...],
    names: tuple[str, ...],
    dtype: str,
    update: bool,
    afresh: bool,
    workers: int,
) -> None:
    """Compile the kernels of NETWORKS for every target.

    NETWORKS are files of networks/ without their ending, layers or heads; all if none is given.
    """
    if update and (networks or dtype != "bf16"):
        raise click.UsageError("the committed tables hold all their programs in bf16")
    version = triton_version()
    if update and version not in (TRITON, *OLDER):
        raise click.UsageError(f"there are no tables of Triton {version}")
    known = all_programs()
    if unknown := set(networks) - {name for name, _ in known}:
        raise click.UsageError(f"no such network: {', '.join(sorted(unknown))}")
    plans = planned(known, dtype)
    if networks:
        plans = [plan for plan in plans if set(plan.networks) & set(networks)]
    targets = [TARGETS[name] for name in names] or targets_of(version)
    facts = {} if afresh or dtype != "bf16" else known_facts(plans, targets, version)
    builds = [(p.kernel, t) for t in targets for p in plans if (p.kernel, t) not in facts]
    with click.progressbar(length=len(builds), label="compiling", file=sys.stderr) as bar:
        facts |= build_all(builds, workers, progress=lambda: bar.update(1))
    wrong: list[str] = []
    for target in targets:
        found = [(plan, facts[plan.kernel, target]) for plan in plans]
        show(target, found)
        wrong += [text for plan, made in found for text in violations(plan, target, made)]
        if update:
            rows = {p.description: Row(made, p.networks, p.kernel.digest) for p, made in found}
            path = table_path(target, version)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(write(rows, version), encoding="utf-8")
    for text in wrong:
        click.echo(text, err=True)
    sys.exit(1 if wrong else 0)


def show(target: Target, found: list[tuple[Planned, Facts]]) -> None:
    """Print the table of one target; columns of instructions nobody uses are left out."""
    columns = [
        name
        for name in asdict(found[0][1])
        if name in ALWAYS or any(getattr(made, name) for _, made in found)
    ]
    width = max(len(plan.description) for plan, _ in found)
    head = " ".join(f"{name:>9}" for name in columns)
    click.echo(f"\n{f'{target.name}, Triton {triton_version()}':<{width}} {head}  networks")
    for plan, made in found:
        cells = " ".join(f"{getattr(made, name):>9,}" for name in columns)
        click.echo(f"{plan.description:<{width}} {cells}  {' '.join(plan.networks)}")


if __name__ == "__main__":
    main()
