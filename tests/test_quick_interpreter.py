"""The interpreter that remembers knows what the one that works it out again knows."""

import itertools

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.language import core
from triton.runtime import interpreter

from convdsl.runtime.load import load_text
from tests.empty_cache import empty_cache
from tests.quick_interpreter import IS_KNOWN

pytestmark = pytest.mark.skipif(
    not IS_KNOWN, reason="the interpreter of another Triton is left as it is"
)

SCALARS = (tl.int1, tl.int8, tl.uint8, tl.int32, tl.int64, tl.uint64, tl.float16, tl.bfloat16)
SCALARS += (tl.float32, tl.float64)
SHAPES: tuple[list[int], ...] = ([1], [4], [1, 8], [8, 1], [2, 4, 8])


@pytest.mark.parametrize("scalar", SCALARS, ids=str)
def test_types(scalar: tl.dtype) -> None:
    pointer = tl.pointer_type(scalar)
    plain_type, plain_number = tl.block_type.__init__.__wrapped__, tl.tensor.__init__.__wrapped__
    plain_dtype = interpreter._get_np_dtype.__wrapped__
    for element, shape in itertools.product((scalar, pointer), SHAPES):
        expected = object.__new__(tl.block_type)
        plain_type(expected, element, shape)
        for again in (shape, [tl.constexpr(s) for s in shape], expected.shape):
            type = tl.block_type(element, again)
            assert type == expected and vars(type).keys() == vars(expected).keys()
            assert (type.name, type.numel) == (expected.name, expected.numel)
            assert type.shape.values == expected.shape.values
            assert interpreter._get_np_dtype(type) == plain_dtype(type)
        number, plain = tl.tensor(None, type), object.__new__(tl.tensor)
        plain_number(plain, None, type)
        assert vars(number).keys() == vars(plain).keys()
        assert number.shape.values == plain.shape.values and number.numel == plain.numel
        assert number.dtype == plain.dtype == element
    assert interpreter._get_np_dtype(scalar) == plain_dtype(scalar)
    assert interpreter._get_np_dtype(pointer) == np.uint64
    assert tl.tensor(None, scalar).shape.values == [] and tl.tensor(None, scalar).numel == 1


def test_shapes_are_still_checked() -> None:
    with pytest.raises(TypeError, match="0d"):
        tl.block_type(tl.int32, [])
    for _ in range(2):
        with pytest.raises(ValueError, match="power of 2"):
            tl.block_type(tl.int32, [3])
    tl.block_type(tl.int32, [8])
    with pytest.raises(TypeError, match="constexpr"):
        tl.block_type(tl.int32, [8.0])


@pytest.mark.parametrize(
    "value", [3, 0.5, True, None, "x", [tl.constexpr(1), 2], (1, tl.constexpr(2)), tl.float32]
)
def test_what_is_unwrapped(value: object) -> None:
    plain = core._unwrap_if_constexpr.__wrapped__
    for asked in (value, tl.constexpr(value)):
        found = core._unwrap_if_constexpr(asked)
        assert type(found) is type(plain(asked)) and found == plain(asked)


@triton.jit
def doubled(x):  # type: ignore[no-untyped-def]
    return tl.sum(x + x, 0)


@triton.jit
def a_kernel(at, to):  # type: ignore[no-untyped-def]
    tl.store(to, doubled(tl.load(at + tl.arange(0, 4))))


@triton.jit
def a_wrong_kernel(at):  # type: ignore[no-untyped-def]
    tl.store(at, doubled(tl.arange(0, 4)) + tl.arange(0, 3))


def test_a_launch_leaves_the_language_as_it_was() -> None:
    owners = (tl, core, tl.math, tl.tensor, tl.dtype)
    before = [dict(vars(owner)) for owner in owners]
    result = torch.zeros(1)
    for _ in range(2):
        a_kernel[(1,)](torch.arange(4.0), result)
        assert result.item() == 12
        with pytest.raises(interpreter.InterpreterError, match="power of 2"):
            a_wrong_kernel[(1,)](result)
        assert [dict(vars(owner)) for owner in owners] == before


SAME_CODE = """
import triton
import triton.language as tl
SCALE: tl.constexpr = tl.constexpr({scale})
@triton.jit
def scaled(x, BY{kind} = {by}):
    return x * BY * SCALE
@triton.jit
def kernel(at):
    tl.store(at, scaled(tl.load(at)))
"""


def test_functions_of_one_code_keep_their_own_names_and_defaults() -> None:
    with empty_cache():
        for scale, by, kind in itertools.product((2, 5), (3, 7), ("", ": tl.constexpr")):
            text = SAME_CODE.format(scale=scale, by=by, kind=kind)
            number = torch.ones(1)
            load_text(text, "same_code").kernel[(1,)](number)
            assert number.item() == scale * by
