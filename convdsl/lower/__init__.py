"""Lowering: AST -> typed graph by static expansion.

`lower` resolves imports, checks names, expands repeats, blocks, conditions and branches with the
shapes flowing along, binds arguments to the layers of the registry, and gives every parameter its
path. It assumes a Program of `convdsl.syntax.parser` and makes only the forward graph; nothing is
simplified, fused or computed.
"""

import convdsl.ops  # noqa: F401  (registers the layers that names are looked up in)
from convdsl.lower.budget import Limits
from convdsl.lower.evaluate import Value, constant
from convdsl.lower.options import Lowered, Options, Uses
from convdsl.lower.program import lower

__all__ = ["Limits", "Lowered", "Options", "Uses", "Value", "constant", "lower"]
