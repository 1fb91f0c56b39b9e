"""What every layer with weights takes besides its shape: start, penalties and a bound of the norm.

The words for a start are the usual ones; fan_in and fan_out are the inputs an output sees and the
outputs an input reaches. Penalties are terms of the loss and bounds hold from one training step to
the next; both are the generated network's work (`convdsl.runtime.support`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convdsl.ir.arguments import ArgumentError, field, number
from convdsl.ir.op import Initializer, Layer, ParameterSpec, glorot_uniform

#: a word, or a word with its numbers: ``("normal", 0.01)``
Start = tuple[str | float, ...]

#: starts that follow from the fans
_SCALED: dict[str, Callable[[int, int], Initializer]] = {
    "glorot_uniform": glorot_uniform,
    "glorot_normal": lambda i, o: Initializer("normal_", (0.0, (2.0 / (i + o)) ** 0.5)),
    "he_uniform": lambda i, o: _uniform((6.0 / i) ** 0.5),
    "he_normal": lambda i, o: Initializer("normal_", (0.0, (2.0 / i) ** 0.5)),
    "lecun_uniform": lambda i, o: _uniform((3.0 / i) ** 0.5),
    "lecun_normal": lambda i, o: Initializer("normal_", (0.0, (1.0 / i) ** 0.5)),
    "zeros": lambda i, o: Initializer("zeros_"),
    "ones": lambda i, o: Initializer("ones_"),
    "orthogonal": lambda i, o: Initializer("orthogonal_"),
}
#: starts with a number of their own: standard deviation, bound, value
_NUMBERED: dict[str, Callable[[float], Initializer]] = {
    "normal": lambda std: Initializer("normal_", (0.0, std)),
    "truncated_normal": lambda std: Initializer("trunc_normal_", (0.0, std, -2 * std, 2 * std)),
    "uniform": lambda bound: _uniform(bound),
    "constant": lambda value: Initializer("constant_", (value,)),
}


def _uniform(bound: float) -> Initializer:
    return Initializer("uniform_", (-bound, bound))


def _start(value: Any) -> Start:
    """``he_normal``, ``(normal, 0.01)``, or a number for (constant, number)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("constant", number()(value))
    word, *numbers = value if isinstance(value, tuple) else (value,)
    if word in _SCALED and not numbers:
        return (str(word),)
    if word in _NUMBERED and len(numbers) == 1:
        least = float("-inf") if word == "constant" else 0.0
        return (str(word), number(least)(numbers[0]))
    if word in _NUMBERED:
        raise ArgumentError(f"({word}, number)")
    scaled, numbered = ", ".join(_SCALED), ", ".join(f"({w}, x)" for w in _NUMBERED)
    raise ArgumentError(f"one of {scaled}, {numbered}, or a number")


def _bias_start(value: Any) -> Start:
    """A start for a vector: rows of a matrix are orthogonal, numbers are not."""
    if value == "orthogonal":
        words = ", ".join(word for word in _SCALED if word != value)
        raise ArgumentError(
            f"one of {words}, (normal, x), ..., or a number, as biases are a vector"
        )
    return _start(value)


def initializer(start: Start, fan_in: int, fan_out: int) -> Initializer:
    """The start in numbers."""
    word, *numbers = start
    if numbers:
        return _NUMBERED[str(word)](float(numbers[0]))
    return _SCALED[str(word)](fan_in, fan_out)


@dataclass(frozen=True, kw_only=True)
class Weighted(Layer):
    """Base of the layers with weights, and perhaps biases; its arguments are given by name."""

    init: Start = field(
        ("glorot_uniform",),
        convert=_start,
        doc="how weights start: glorot_uniform, he_normal, ..., (normal, 0.01), a number",
    )
    bias_init: Start = field(("zeros",), convert=_bias_start, doc="how biases start; as init")
    l1: float = field(0.0, convert=number(0.0), doc="the loss gets l1 * sum of |w| of the weights")
    l2: float = field(0.0, convert=number(0.0), doc="the loss gets l2 * sum of w^2 of the weights")
    max_norm: float | None = field(
        None,
        convert=number(1e-12),
        doc="bound of the Euclidean norm of the weights of one output, kept after every step",
    )

    def weight_spec(
        self,
        shape: tuple[int, ...],
        fan_in: int,
        fan_out: int,
        permute: tuple[int, ...] | None = None,
        unit_axes: tuple[int, ...] = (0,),
    ) -> ParameterSpec:
        """The weights. unit_axes: the axes whose indices name an output, for ``max_norm``."""
        return ParameterSpec(
            shape,
            initializer(self.init, fan_in, fan_out),
            permute,
            penalty=(self.l1, self.l2),
            bound=None if self.max_norm is None else (self.max_norm, unit_axes),
        )

    def bias_spec(
        self, shape: tuple[int, ...], fan_in: int, permute: tuple[int, ...] | None = None
    ) -> ParameterSpec:
        """The biases, which no penalty and no bound concerns."""
        return ParameterSpec(shape, initializer(self.bias_init, fan_in, 1), permute)
