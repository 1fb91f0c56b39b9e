"""Loop nests as functions of their program's place."""

import ast
from pathlib import Path

import convdsl
from convdsl.codegen.at_place import at_place, places
from convdsl.codegen.copy_source import definition, read_module

KERNELS = Path(convdsl.__file__).parent / "kernels"


def test_the_place_comes_as_arguments_before_the_others() -> None:
    text = at_place("kernels.transpose", "transpose")
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef) and function.name == "transpose_at"
    names = [argument.arg for argument in function.args.args]
    assert names == ["place_0", *definition("kernels.transpose", "transpose").arguments]
    assert "place_0 = tl.full((), place_0, tl.int32)\n" in text
    assert "pid = place_0\n" in text and "program_id" not in text


def test_axes_are_those_the_nest_asks_for() -> None:
    assert places("kernels.losses", "mean") == ()
    assert places("kernels.matmul", "matmul") == (0,)
    assert places("kernels.conv_grad_weight", "conv_grad_weight") == (0, 1)


def test_every_kernel_can_be_one_and_nothing_else_asks_for_a_place() -> None:
    """What a nest calls would ask for the place of the whole kernel's program."""
    seen = 0
    for path in sorted(KERNELS.glob("*.py")):
        module = f"kernels.{path.stem}"
        for name, found in read_module(module).definitions.items():
            if "program_id" not in found.text:
                continue
            assert "@triton.jit" in found.text
            text = at_place(module, name)
            assert "program_id" not in text and max(map(len, text.splitlines())) <= 100
            seen += 1
    assert seen > 30
