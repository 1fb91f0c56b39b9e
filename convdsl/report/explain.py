"""One layer's numbers with their formulas, as the lectures write them: `--explain ROW|NAME`.

    1  CONV(k, F=5, P=0)  lenet5.cnn:3:6
    volume: 32x32x1 -> 28x28x6
    W2 = (W1 - F + 2P)/S + 1 = (32 - 5 + 0)/1 + 1 = 28, H2 likewise
    parameters = (F*F*C1 + 1)*K = (5*5*1 + 1)*6 = 156

Sizes and receptive fields are read off the layer's window; what a layer says of its own
parameters and arithmetic comes from its `formulas`.
"""

from math import prod

from convdsl.ir.graph import Role
from convdsl.ir.op import Window
from convdsl.ir.types import Notation
from convdsl.lower.window import inexact
from convdsl.report.costs import Costs, Row

_AXES = {1: ("L",), 2: ("H", "W")}


def select(costs: Costs, wanted: str) -> list[Row]:
    """Rows a user means by a number, a path of blocks and tags, or a layer as written or named.

    The empty list when there are none.
    """
    if wanted.isascii() and wanted.isdigit():
        return [row for row in costs.rows if str(row.number) == wanted.lstrip("0")]
    for names in (_paths, _texts):
        found = [row for row in costs.rows if wanted.lower() in names(row)]
        if found:
            return found
    return []


def choices(costs: Costs) -> list[str]:
    """Every name `select` knows, in order and without repetition."""
    return list(
        dict.fromkeys(name for row in costs.rows for name in (row.origin.path, row.op.name) if name)
    )


def explain(row: Row, notation: Notation) -> str:
    """The formulas of one row with numbers, a line each."""
    origin = row.origin
    where = f"  {origin.span}" if origin.span else ""
    path = f"  ({origin.path})" if origin.path else ""
    lines = [
        f"#{row.number}  {row.label}{where}{path}",
        f"volume: {' and '.join(map(notation.show, row.inputs))} -> {notation.show(row.output)}",
    ]
    summary = (type(row.op).__doc__ or "").strip().splitlines()
    lines += summary[:1]
    lines += _sizes(row)
    lines += row.op.formulas(*row.inputs) or _counts(row)
    lines += _receptive(row)
    if row.output.spatial:
        product = "*".join(map(str, row.output.shape))
        lines.append(f"output = {product} = {row.output.elements:,} numbers per sample")
    if row.shared is not None:
        lines.append(f"the parameters are those of #{row.shared} and count once in the total")
    if row.kernel:
        lines.append(f"part of kernel k{row.kernel[0]}: {row.kernel[1]}")
    return "\n  ".join(lines) + "\n"


def _paths(row: Row) -> set[str]:
    parts = row.origin.path.lower().split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)} - {""}


def _texts(row: Row) -> set[str]:
    return {row.op.name.lower(), row.label.lower()}


def _sizes(row: Row) -> list[str]:
    """``W2 = (W1 - F + 2P)/S + 1`` per axis, width first; axes with equal numbers share a line."""
    window = row.window
    names = _AXES.get(len(row.output.spatial), ())
    if window is None or window.everything or not names:
        return []
    lines = [
        _size(name, window, axis, row.inputs[0].spatial[axis], row.output.spatial[axis])
        for axis, name in reversed(list(enumerate(names)))
    ]
    if len(lines) == 2 and lines[0][1:].replace("W1", "H1") == lines[1][1:]:
        return [f"{lines[0]}, H2 likewise"]
    return lines


def _size(name: str, window: Window, axis: int, given: int, got: int) -> str:
    extent, stride = window.kernel[axis], window.stride[axis]
    if window.uneven:
        return (
            f"{name}2 = {got}, window i is floor(i*{given}/{got}) to ceil((i+1)*{given}/{got}) - 1:"
            f" at most {extent} of {name}1 = {given}, at most {stride} apart"
        )
    (start, end), dilation = window.padding[axis], window.dilation[axis]
    span = dilation * (extent - 1) + 1
    if window.transposed:
        more = got - ((given - 1) * stride - start - end + span)
        return (
            f"{name}2 = ({name}1 - 1)*S - 2P + {'F' if dilation == 1 else 'D(F-1)+1'}"
            f"{' + output_padding' if more else ''} = "
            f"({given} - 1)*{stride} - {start + end} + {span}{f' + {more}' if more else ''} = {got}"
        )
    pad_formula, pad = ("2P", str(2 * start)) if start == end else ("P", f"({start}+{end})")
    extent_formula, extent_text = "F", str(extent)
    if dilation != 1:
        extent_formula, extent_text = "(D(F-1)+1)", f"({dilation}*({extent}-1)+1)"
    room = given - span + start + end
    text = (
        f"{name}2 = ({name}1 - {extent_formula} + {pad_formula})/S + 1 = "
        f"({given} - {extent_text} + {pad})/{stride} + 1 = "
    )
    if room % stride == 0:
        return f"{text}{got}"
    if got > room // stride + 1:
        return f"{text}{inexact(room, stride)}, rounded up to {got}"
    why = ": one more window would see padding only" if window.ceil else ""
    return f"{text}{inexact(room, stride)}, rounded down to {got}{why}"


def _counts(row: Row) -> tuple[str, ...]:
    """Parameters by their shapes, for layers that give no formulas of their own."""
    if not row.count:
        return ("parameters = 0",)
    specs = {
        name: spec
        for name, spec in row.op.parameters(*row.inputs).items()
        if spec.role is Role.LEARNED
    }
    parts = " + ".join("*".join(map(str, spec.shape)) for spec in specs.values())
    names = " + ".join(specs)
    total = sum(prod(spec.shape) for spec in specs.values())
    return (f"parameters = {names} = {parts} = {total:,}", f"MACs = {row.macs:,}")


def _receptive(row: Row) -> list[str]:
    """The recursion of `convdsl.report.costs` with its numbers."""
    window, seen, field = row.window, row.seen, row.field
    if field.size is None:
        return ["receptive field: all of the input"]
    if window is None or seen.size is None or not field.size:
        size = "x".join(map(str, field.size))
        return [f"receptive field: {size} input pixels, as before"] if size else []
    names = _AXES.get(len(field.size), tuple(str(i) for i in range(len(field.size))))
    formula = (
        ("floor(D*(F - 1)/S)", "j1/S", "/") if window.transposed else ("D*(F - 1)", "j1*S", "*")
    )
    lines = []
    for i in range(len(field.size)):
        reach = f"{window.dilation[i]}*({window.kernel[i]} - 1)"
        if window.transposed:
            reach = f"floor({reach}/{window.stride[i]})"
        lines.append(
            f"receptive field r2 = r1 + {formula[0]}*j1 = {seen.size[i]} + "
            f"{reach}*{seen.jump[i]} = {field.size[i]}, jump j2 = {formula[1]} = "
            f"{seen.jump[i]}{formula[2]}{window.stride[i]} = {field.jump[i]}"
        )
    if len(set(lines)) == 1:
        return lines[:1]
    return [f"{line} ({name})" for name, line in zip(names, lines, strict=True)]
