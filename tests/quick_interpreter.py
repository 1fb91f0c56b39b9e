"""Triton's interpreter without the work it does again and again: the same numbers in half the time.

It patches the language at every call of a function inside a kernel, looks types up in a table
that it builds for each look-up, and makes shapes anew for every number. What is remembered here
is made by its own code.
"""

from dataclasses import replace
from functools import wraps
from types import FunctionType, SimpleNamespace
from typing import Any

import triton
import triton.language as tl
from triton.language import core
from triton.runtime import interpreter

Change = tuple[Any, str, Any]

#: what is patched here are internals, of which this series of Triton is known
IS_KNOWN = triton.__version__.startswith("3.7.")


def make_quick() -> None:
    """Once per process, before the first kernel runs."""
    builder, semantic = interpreter.interpreter_builder, interpreter.interpreter_semantic
    # overflow checks work out every integer twice; no tensor here is large enough for 32 bits
    builder.options = replace(builder.options, sanitize_overflow=False)
    if not IS_KNOWN:
        return
    interpreter._patch_lang = _Language()
    interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    interpreter.FunctionRewriter.rewrite_ast = _of_known_code(
        interpreter.FunctionRewriter.rewrite_ast
    )
    core._unwrap_if_constexpr = _at_once(core._unwrap_if_constexpr)
    tl.block_type.__init__ = _of_known_shape(tl.block_type.__init__)
    tl.tensor.__init__ = _of_known_size(tl.tensor.__init__)
    semantic.computation_type_impl = _of_known_types(semantic.computation_type_impl)
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


def _of_known_shape(make: Any) -> Any:
    """``block_type(element_ty, shape)``; types of one shape share it."""
    shapes: dict[Any, Any] = {}
    known: dict[tuple[str, int], Any] = {}  # by name of the element and identity of the shape

    @wraps(make)
    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        name = element_ty.name
        if (name, id(shape)) not in known:
            sizes = tuple([s.value if type(s) is tl.constexpr else s for s in shape])
            valid = {*map(type, sizes)} == {int}
            if not valid or (name, id(shapes.get(sizes))) not in known:
                make(self, element_ty, shape)
                kept = shapes.setdefault(sizes, self.shape)
                known[name, id(kept)] = kept, self.numel, self.name
            shape = shapes[sizes]
        self.element_ty = element_ty
        self.shape, self.numel, self.name = known[name, id(shape)]

    return block_type


def _of_known_size(make: Any) -> Any:
    """``tensor(handle, type)``; tensors of one shape share it."""
    known: dict[int, Any] = {}  # by identity of the shape, which stays as long as its entry

    @wraps(make)
    def tensor(self: Any, handle: Any, type: Any) -> None:
        shape = type.shape if type.is_block() else None
        if id(shape) not in known:
            make(self, handle, type)
            known[id(shape)] = shape, self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        _, self.shape, self.numel = known[id(shape)]

    return tensor


def _of_known_types(computed: Any) -> Any:
    """``computation_type_impl``, of names of types."""
    known: dict[Any, Any] = {}

    @wraps(computed)
    def result(a: Any, a_is_scalar: bool, b: Any, b_is_scalar: bool, div_or_mod: bool) -> Any:
        key = (a.name, a_is_scalar, b.name, b_is_scalar, div_or_mod)
        if key not in known:
            known[key] = computed(a, a_is_scalar, b, b_is_scalar, div_or_mod)
        return known[key]

    return result


def _of_known_code(rewrite: Any) -> Any:
    """``FunctionRewriter.rewrite_ast``: every generated file has its own copy of the same loops."""
    known: dict[Any, Any] = {}

    @wraps(rewrite)
    def rewritten(self: Any) -> Any:
        function = self.fn
        annotations = tuple((key, str(v)) for key, v in function.__annotations__.items())
        code = function.__code__.replace(co_firstlineno=1)
        key = code, annotations, repr(function.__defaults__)
        if key not in known or function.__closure__:
            known[key] = rewrite(self)
            return known[key]
        first, names = known[key], function.__globals__
        for name, value in vars(interpreter).items():
            names.setdefault(name, value)
        made = FunctionType(first.__code__, names, first.__name__, function.__defaults__)
        made.__annotations__ = function.__annotations__
        return made

    return rewritten


def _of_one_shape(broadcast: Any) -> Any:
    """Two blocks of one shape need no broadcast."""

    @wraps(broadcast)
    def broadcasted(lhs: Any, rhs: Any) -> Any:
        one, other = lhs.type, rhs.type
        if one.is_block() and other.is_block() and one.shape.values == other.shape.values:
            return lhs, rhs
        return broadcast(lhs, rhs)

    return broadcasted
