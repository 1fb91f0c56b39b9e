"""Costs to the table of `convdsl compile`: one row a layer, totals, the training-memory plan.

Says what a layer becomes, not how: `convdsl.report.explain` shows the formulas. Cuts nothing in
a pipe; on a terminal too narrow for it, the columns that are easiest to do without give way.
"""

from collections.abc import Sequence

from convdsl.ir.types import Notation
from convdsl.passes.plan_memory import MemoryPlan
from convdsl.report.costs import Costs, Row
from convdsl.report.fold import Line, folded, unfolded
from convdsl.report.layout import Column, TableRow, lay_out
from convdsl.report.quantities import (
    COMPUTE_BYTES,
    bytes_of,
    each,
    extent,
    field_of,
    kib,
    magnitude,
    pads,
    parameters,
    place,
)
from convdsl.report.terminal import Style, counted

_COLUMNS = (
    Column("#", right=True),
    Column(""),
    Column("line", leaves=4),
    Column("layer", least=10),
    Column("output", least=11),
    Column("F", right=True),
    Column("S", right=True),
    Column("P", right=True),
    Column("parameters", right=True),
    Column("= weights+bias", leaves=1),
    Column("MACs", right=True),
    Column("RF", right=True),
    Column("KiB", right=True, leaves=3),
    Column("kernel"),
    Column("= fused", leaves=2),
)


def table(
    costs: Costs,
    style: Style,
    *,
    file: str = "",
    dtype: str = "fp32",
    flat: bool = False,
    plan: MemoryPlan | None = None,
) -> str:
    """The whole report as text.

    file: name of the main source, whose places are shown as line:column alone. dtype: a key of
    COMPUTE_BYTES, the type activations are counted in. flat: do not fold repeats. plan: the
    training-memory plan to sum up.
    """
    lines = unfolded(costs.rows) if flat else folded(costs.rows)
    notation = costs.graph.notation
    size = COMPUTE_BYTES[dtype]
    rows: list[TableRow] = []
    kernels: set[int] = set()
    for line in lines:
        rows.append(_row(line, notation, size, file, kernels))
    parts = [
        style.paint(style.clean(headline(costs, file)), "bold") + "\n",
        lay_out(_COLUMNS, rows, style),
        _totals(costs, style, dtype, plan),
        style.paint(_legend(lines, dtype), "dim"),
    ]
    return "\n".join(part for part in parts if part)


def headline(costs: Costs, file: str) -> str:
    """``LeNet (lenet.cnn): 32x32x1 -> 10, SOFTMAX``; of several ends each with its name."""
    graph = costs.graph
    show = graph.notation.show
    starts = [(value.name, show(value.type)) for value in graph.inputs]
    ends = [
        (
            out.name,
            show(out.value.type)
            + (f", {out.head.name}" if out.head else "")
            + (" (only in training)" if out.training_only else ""),
        )
        for out in graph.results_shown
    ]
    where = f" ({file})" if file else ""
    return f"{graph.name or 'net'}{where}: {_listed(starts)} -> {_listed(ends)}"


def _listed(named: Sequence[tuple[str, str]]) -> str:
    if len(named) == 1:
        return named[0][1]
    return "; ".join(f"{name} {shape}" for name, shape in named)


def _row(line: Line, notation: Notation, size: int, file: str, kernels: set[int]) -> TableRow:
    row = line.row
    window = row.window
    plain = window is None and not row.count
    steps = window is not None and not window.everything
    return TableRow(
        (
            str(row.number),
            " ".join(f"x{count}" if first else "|".rjust(2) for count, first in line.marks),
            place(row.origin.span, file),
            row.label,
            _output(row, notation),
            extent(row),
            each(window.stride) if steps and window else "",
            pads(window.padding) if steps and window else "",
            *parameters(row),
            magnitude(row.macs) if row.macs else "",
            "" if plain else _seen(line),
            kib(row.stored * size) if row.stored else "",
            *_kernel(row, kernels),
        ),
        dim=plain,
    )


def _seen(line: Line) -> str:
    first, last = field_of(line.row.field), field_of(line.last.field)
    return first if first == last else f"{first}..{last}"


def _kernel(row: Row, shown: set[int]) -> tuple[str, str]:
    """The kernel's number, and what is in it where it first appears."""
    if row.kernel is None:
        return "", ""
    number, title = row.kernel
    if number in shown:
        return f"k{number}", ""
    shown.add(number)
    return f"k{number}", f"= {title}"


def _output(row: Row, notation: Notation) -> str:
    """The output; what a reshaping makes of its input is shown with that input."""
    shown = notation.show(row.output)
    given = row.inputs[0]
    if len(row.inputs) == 1 and given.elements == row.output.elements and given != row.output:
        return f"{notation.show(given)} -> {shown}"
    return shown


def _totals(costs: Costs, style: Style, dtype: str, plan: MemoryPlan | None) -> str:
    size = COMPUTE_BYTES[dtype]
    macs = costs.macs_at_inference
    left_out = ", ".join(costs.training_outputs)
    entries = [
        (
            "parameters",
            f"{costs.parameters:,} = {costs.weights:,} weights + {costs.biases:,} biases, "
            f"{bytes_of(4 * costs.parameters)} in fp32"
            + (f"\n{costs.parameters_at_inference:,} at inference" if left_out else ""),
        ),
        (
            "MACs",
            f"{macs:,}{_short(macs)} = {2 * macs:,} FLOPs{_short(2 * macs)} per sample"
            + (f" at inference, without {left_out}" if left_out else "")
            + (f"\n{costs.macs:,}{_short(costs.macs)} in training" if left_out else ""),
        ),
        (
            "activations",
            f"{bytes_of(size * costs.stored)} per sample in {dtype}, every layer's output"
            + (f"; fusion leaves {counted(costs.kernels, 'kernel')}" if costs.kernels else ""),
        ),
    ]
    if plan is not None:
        entries.append((f"batch {plan.batch:,}", _training(plan, dtype)))
    width = max(len(name) for name, _ in entries)
    indent = "\n" + " " * (width + 2)
    return "".join(
        f"{style.paint(f'{name:<{width}}', 'bold')}  {text}\n".replace("\n", indent).rstrip() + "\n"
        for name, text in entries
    )


def _training(plan: MemoryPlan, dtype: str) -> str:
    parts = [
        (plan.parameters, "parameters"),
        (plan.gradients, "gradients"),
        (plan.stored_weights, f"weights in {dtype}"),
        (plan.arena, f"activations ({bytes_of(plan.saved)} kept for backward)"),
    ]
    sums = "\n+ ".join(f"{bytes_of(size)} {name}" for size, name in parts if size)
    return f"{bytes_of(plan.total)} for a training step without the optimiser's state:\n= {sums}"


def _short(number: int) -> str:
    if number < 10**6:
        return ""
    return f" ({number / 1e9:,.3f} G)" if number >= 10**9 else f" ({number / 1e6:.3f} M)"


def _legend(lines: Sequence[Line], dtype: str) -> str:
    notes = [
        "MACs: multiply-accumulates of the forward pass; 1 MAC = 2 FLOPs.",
        "RF: receptive field in input pixels; all: the whole input.",
        f"KiB: the layer's output, one sample, {dtype}.",
    ]
    if any(line.marks for line in lines):
        notes.append("x3: the lines marked stand for 3 equal repetitions (--flat shows them all).")
    return "\n".join(notes) + "\n"
