"""Text of a program -> the same program in the house's style, comments kept.

One statement a line; a net of several lines is indented and its lines begin with `-`; branches
stand on lines of their own or all on one; notes and trailing comments in columns; at most 100
columns where a break is possible. Formatting twice is formatting once, and the syntax tree stays
the same but for its places. A text with syntax errors is refused, never repaired.
"""

from convdsl.source import Source
from convdsl.syntax.format_layout import lay_out
from convdsl.syntax.format_lines import render
from convdsl.syntax.parser import parse
from convdsl.syntax.words import scan


def format_source(source: Source) -> str:
    """The formatted text, lines ended by line feeds. Raises CompileError."""
    program = parse(source)
    return render(lay_out(scan(source), program.statements))
