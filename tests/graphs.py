"""Graphs for tests of passes and code generation, made without the language."""

from collections.abc import Callable

import torch
from torch import Tensor

import convdsl.ops  # noqa: F401  (registers the layers)
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Origin, Output, Parameter, Value
from convdsl.ir.op import HEADS, Layer
from convdsl.ir.types import Notation, TensorType
from convdsl.ops.add import Add
from convdsl.ops.avgpool import AvgPool
from convdsl.ops.concat import Concat
from convdsl.ops.conv import Conv
from convdsl.ops.fc import Fc
from convdsl.ops.flatten import Flatten
from convdsl.ops.gap import GlobalAvgPool
from convdsl.ops.identity import Identity
from convdsl.ops.maxpool import MaxPool
from convdsl.ops.relu import Relu
from convdsl.ops.sigmoid import Sigmoid
from convdsl.ops.softmax import Softmax
from convdsl.ops.swish import Swish
from convdsl.ops.tanh import Tanh


class GraphMaker:
    """Applies layers one by one: ``y = make(Relu(), x)``."""

    def __init__(self, *inputs: tuple[int, ...]) -> None:
        self.build = Builder()
        names = ["input", "other", "third"]
        self.inputs = tuple(
            self.build.value(name, TensorType(shape))
            for name, shape in zip(names, inputs, strict=False)
        )
        self.parameters: list[Parameter] = []

    def __call__(self, op: Layer, *inputs: Value) -> Value:
        name = op.title
        outer = self.build.value(f"scope_{name}", TensorType((1,))).name
        parameters = []
        for key, spec in op.parameters(*(v.type for v in inputs)).items():
            kind = TensorType(spec.shape, batched=False)
            value = self.build.value(f"{outer}_{key}", kind)
            self.parameters.append(
                Parameter(f"{outer}.{key}", value, spec.initializer, spec.permute)
            )
            parameters.append(value)
        self.build.origin = Origin(text=name.upper(), path=outer)
        count = len(op.infer(*(v.type for v in (*inputs, *parameters))))
        names = (name, *(f"{name}_extra" for _ in range(count - 1)))
        return self.build.add(op, *inputs, parameters=tuple(parameters), names=names)[0]

    def graph(self, *results: Value, head: str | None = None, name: str = "Test") -> Graph:
        outputs = tuple(
            Output(f"output{i}", v, HEADS[head]() if head else None) for i, v in enumerate(results)
        )
        return Graph(
            name,
            Notation.CHW,
            self.inputs,
            tuple(self.parameters),
            tuple(self.build.nodes),
            outputs,
        )


def random_parameters(graph: Graph, seed: int = 0) -> dict[str, Tensor]:
    """Float64 parameters by path, small enough that nothing saturates."""
    generator = torch.Generator().manual_seed(seed)
    return {
        p.path: 0.4 * torch.randn(p.value.type.shape, generator=generator, dtype=torch.float64)
        for p in graph.parameters
    }


def random_inputs(graph: Graph, batch: int, seed: int = 1) -> list[Tensor]:
    """Float64 inputs (batch, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn((batch, *v.type.shape), generator=generator, dtype=torch.float64)
        for v in graph.inputs
    ]


def network(layers: Callable[[GraphMaker], Value], *shapes: tuple[int, ...]) -> Graph:
    """The graph of a function of a maker, without a head."""
    maker = GraphMaker(*shapes)
    return maker.graph(layers(maker))


def lenet_like(make: GraphMaker) -> Value:
    x = make(MaxPool(), make(Relu(), make(Conv(4), make.inputs[0])))
    x = make(MaxPool(), make(Swish(), make(Conv(6), x)))
    x = make(Relu(), make(Fc(7), make(Flatten(), x)))
    return make(Fc(5), x)


def residual(make: GraphMaker) -> Value:
    x = make(Relu(), make(Conv(4), make.inputs[0]))
    y = make(Conv(4), make(Tanh(), make(Conv(4), x)))
    return make(GlobalAvgPool(), make(Relu(), make(Add(), y, x)))


def inception(make: GraphMaker) -> Value:
    x = make(Identity(), make.inputs[0])
    a = make(Relu(), make(Conv(3, (1, 1)), x))
    b = make(Relu(), make(Conv(2), make(Conv(2, (1, 1)), x)))
    c = make(Conv(2, (1, 1)), make(MaxPool((3, 3), (1, 1), "half"), x))
    x = make(Concat(), a, b, c)
    return make(Softmax(), make(AvgPool((3, 3), (2, 2), ((1, 1), (1, 1))), x))


def cropping_pool(make: GraphMaker) -> Value:
    """An odd map under a 2x2 pooling: its last row and column must not be fused away."""
    x = make(MaxPool(), make(Sigmoid(), make(Conv(3), make.inputs[0])))
    return make(Tanh(), make(MaxPool((3, 3), (2, 2)), make(Relu(), make(Conv(2), x))))


def same_value_twice(make: GraphMaker) -> Value:
    x = make(Conv(3), make.inputs[0])
    return make(Add(), make(Relu(), x), x, make(Add(), x, x))


NETWORKS = {
    "lenet_like": (lenet_like, (2, 8, 8)),
    "residual": (residual, (4, 5, 6)),
    "inception": (inception, (3, 6, 7)),
    "cropping_pool": (cropping_pool, (2, 13, 11)),
    "same_value_twice": (same_value_twice, (2, 4, 4)),
}
