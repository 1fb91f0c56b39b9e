"""Whether a piece of generated code makes what its nodes mean: torch's float64 results.

Numbers are random; normalising ones are positive, and indices are those of the first place, which
every window has.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.types import DType
from convdsl.reference import run_nodes
from convdsl.tuning.piece import Piece

#: greatest error, as a share of the greatest number
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
#: share of conditions and indices that rounding may turn
TURNED = 0.01
#: an odd batch: few rows, which fill no tile
SAMPLES = 3


class Operands:
    """Random tensors for the values of a graph, logical ones and as they lie in memory."""

    def __init__(self, graph: Graph, n: int, dtype: torch.dtype, device: str) -> None:
        self.n, self.dtype, self.device = n, dtype, device
        self.parameters = {p.value: p.permute for p in graph.parameters}
        self.generator = torch.Generator(device).manual_seed(n)

    def logical(self, value: Value) -> Tensor:
        """Of the type of the value, channels first."""
        kind = value.type
        shape = (self.n, *kind.shape) if kind.batched else kind.shape
        if kind.dtype is DType.BIT:
            return self._uniform(shape) < 0.5
        if kind.dtype is DType.FLOAT32 or (value in self.parameters and len(shape) < 2):
            return self._uniform(shape) + 0.5
        if kind.dtype is not DType.COMPUTE:
            stored = getattr(torch, kind.dtype.value)
            return torch.zeros(shape, dtype=stored, device=self.device)
        numbers = torch.randn(shape, generator=self.generator, device=self.device)
        if value in self.parameters:
            numbers /= (kind.elements / kind.shape[0]) ** 0.5
        return numbers.to(self.dtype)

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def stored(self, value: Value, logical: Tensor) -> Tensor:
        """The same as kernels have it."""
        kind = value.type
        if value in self.parameters:
            order = self.parameters[value]
            return (logical.permute(order) if order else logical).contiguous()
        if kind.batched and len(kind.shape) > 1:
            logical = logical.movedim(1, -1)
        if kind.dtype is DType.BIT:
            places = torch.arange(8, device=logical.device)
            eights = logical.reshape(*logical.shape[:-1], -1, 8).long() << places
            logical = eights.sum(-1).to(torch.uint8)
        return logical.contiguous()

    def read(self, value: Value, stored: Tensor) -> Tensor:
        """The way back from `stored`, of what nodes make."""
        kind = value.type
        if kind.dtype is DType.BIT:
            places = torch.arange(8, device=stored.device)
            stored = ((stored.long().unsqueeze(-1) >> places) & 1).flatten(-2).bool()
        return stored.movedim(-1, 1) if kind.batched and len(kind.shape) > 1 else stored


def is_right(
    graph: Graph, nodes: Sequence[Node], piece: Piece, run: Any, operands: Operands
) -> bool:
    """Whether ``run``, of the piece of ``nodes``, makes what they mean of the operands."""
    given = {value: operands.logical(value) for value in piece.given}
    exact = {v: t.double() if t.is_floating_point() else t for v, t in given.items()}
    for node in nodes:
        for value in node.operands:
            root = graph.places.root(value)
            if root != value and root in exact:
                start = graph.places.start(value)
                exact[value] = exact[root][:, start : start + value.type.channels]
    training = not piece.is_random  # dropout is compared as in evaluation
    run_nodes(nodes, exact, training=training)
    seed = torch.tensor([-1], device=operands.device)
    stored = [operands.stored(value, given[value]) for value in piece.given]
    made = run(operands.n, seed, int(training), *stored)
    results = dict(zip(piece.made, made, strict=True))
    return all(is_near(operands.read(v, t), exact[v], operands.dtype) for v, t in results.items())


def is_near(mine: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    """Within rounding of ``dtype``; conditions and indices nearly all the same."""
    if mine.shape != exact.shape:
        return False
    if not exact.is_floating_point():
        return bool((mine != exact).double().mean() <= TURNED) if mine.numel() else True
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    error = (mine.double() - exact).abs()
    return bool((error <= TOLERANCE[dtype] * (scale or 1.0)).all())


def tensors(piece: Piece, operands: Operands) -> Mapping[Value, Tensor]:
    """What the piece takes, as it lies in memory."""
    return {v: operands.stored(v, operands.logical(v)) for v in piece.given}
