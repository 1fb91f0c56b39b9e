"""Traffic to the table of `convdsl compile --traffic`: a row a kernel, and the sums of the parts.

Bytes are decimal, as bandwidths are: 1 GB is 10^9 bytes.
"""

from convdsl.codegen.traffic import Traffic
from convdsl.report.costs import Costs
from convdsl.report.layout import Column, TableRow, lay_out
from convdsl.report.quantities import magnitude
from convdsl.report.table import headline
from convdsl.report.terminal import Style

_COLUMNS = (
    Column("#", right=True),
    Column("part", leaves=1),
    Column("kernel", least=16),
    Column("of", least=10),
    Column("reads", right=True),
    Column("writes", right=True),
)
_LEGEND = """\
Each kernel reads every element it loads once, and writes every element it stores once.
Inputs come in the computing type, channels last. 1 GB = 10^9 bytes.
"""


def traffic_table(costs: Costs, traffic: Traffic, style: Style, file: str = "") -> str:
    """The whole report as text; file: name of the main source."""
    rows = [
        TableRow(
            (str(number), move.part, move.kernel, move.of, size(move.read), size(move.written))
        )
        for number, move in enumerate(traffic.moves, 1)
    ]
    what = f"a training step of {traffic.batch:,} in {traffic.dtype}"
    head = f"{headline(costs, file)}: {what}"
    parts = [
        style.paint(style.clean(head), "bold") + "\n",
        lay_out(_COLUMNS, rows, style),
        _sums(traffic, style),
        style.paint(_LEGEND, "dim"),
    ]
    return "\n".join(parts)


def size(number: int) -> str:
    """``26.4 GB``; below a million bytes exactly, ``784 B``."""
    text = magnitude(number)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def _sums(traffic: Traffic, style: Style) -> str:
    sums = {**traffic.parts, "in all": traffic.total}
    width = max(map(len, sums))
    texts = {part: size(total) for part, total in sums.items()}
    room = max(map(len, texts.values()))
    lines = [f"{style.paint(f'{part:<{width}}', 'bold')}  {texts[part]:>{room}}" for part in sums]
    lines[-1] += f" = {size(traffic.read)} read + {size(traffic.written)} written"
    return "".join(f"{line}\n" for line in lines)
