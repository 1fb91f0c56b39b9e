"""A loop nest as a function that other kernels call: its program's place comes as arguments.

    @triton.jit                             @triton.jit
    def transpose(x_ptr, ...):         =>   def transpose_at(place_0, x_ptr, ...):
        pid = tl.program_id(0)                  place_0 = tl.full((), place_0, tl.int32)
                                                pid = place_0

So a kernel may do what several launches do: a program that goes through all places of a grid does
all of the launch. Assumes that the nest has a docstring, and that only the nest itself asks for its
place, not what it calls.
"""

import ast
import re

from convdsl.codegen.copy_source import definition
from convdsl.codegen.writer import Writer

_PLACE = re.compile(r"tl\.program_id\((\d)\)")


def name_at(function: str) -> str:
    """``transpose_at``."""
    return f"{function}_at"


def places(module: str, function: str) -> tuple[int, ...]:
    """The axes of the grid that the nest asks for."""
    return tuple(sorted({int(axis) for axis in _PLACE.findall(definition(module, function).text)}))


def at_place(module: str, function: str) -> str:
    """The text of ``convdsl.<module>.<function>`` as such a function."""
    text = definition(module, function).text
    (nest,) = ast.parse(text).body
    assert isinstance(nest, ast.FunctionDef)
    asked = [f"place_{axis}" for axis in places(module, function)]
    out = Writer()
    out.line("@triton.jit")
    out.call(f"def {name_at(function)}(", [*asked, *map(ast.unparse, nest.args.args)], "):")
    with out.indent():
        out.line(f'"""`{function}`, as the program at this place of its grid."""')
        for place in asked:  # counting through the places may give plain numbers
            out.line(f"{place} = tl.full((), {place}, tl.int32)")
    behind = nest.body[0].end_lineno  # of the docstring
    body = "\n".join(text.splitlines()[behind:])
    return "\n".join([out.text, _PLACE.sub(r"place_\1", body)])
