"""conv(x, w), batch_norm(y) => conv(x, w', b'), for inference with weights that stay as they are.

With running statistics batch normalisation is a line per channel, y * scale + shift, and a
convolution or dense layer in front of it takes both: scale into its filters, shift into its bias.
The graph comes with the recipe that makes the new weights of the old ones. Assumes a graph as
lowered. Leaves alone what somebody else reads too, and layers that share weights. Penalties and
bounds of weights are training's and are dropped: a folded weight is none that they were meant for.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Parameter, Value
from convdsl.ops._weights import Weighted
from convdsl.ops.bn import BatchNorm
from convdsl.passes.rewrite import substitute, substitute_results


@dataclass(frozen=True, slots=True)
class Fold:
    """How a weight and a bias come about, by paths of the state_dict.

    scale = norm[0] / sqrt(norm[3] + eps) per filter, the first axis of the weight, which becomes
    weight * scale; the bias, taken as 0 where there is none, (bias - norm[2]) * scale + norm[1].
    norm: weight, bias, running mean and running variance.
    """

    weight: str
    bias: str
    norm: tuple[str, ...]
    eps: float


def fold_norms(graph: Graph) -> tuple[Graph, tuple[Fold, ...]]:
    """The graph without the batch normalisations that could be folded, and how they were."""
    found = dict(_pairs(graph))
    own = {parameter.value: parameter for parameter in graph.parameters}
    taken = {v.name for node in graph.nodes for v in (*node.operands, *node.outputs)}
    build = Builder(taken | {v.name for v in (*graph.inputs, *own)})
    nodes: list[Node] = []
    biases: dict[Value, Parameter] = {}
    folds: list[Fold] = []
    renamed: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.output in renamed:
            continue
        if (norm := found.get(node.output)) is not None:
            weight, *rest = node.parameters
            assert isinstance(node.op, Weighted) and isinstance(norm.op, BatchNorm)
            layer = _with_bias(node.op)
            bias = own[rest[0]] if rest else _bias(layer, node, own[weight], build)
            biases[weight] = bias
            paths = tuple(own[value].path for value in norm.parameters)
            folds.append(Fold(own[weight].path, bias.path, paths, norm.op.eps))
            renamed[norm.output] = node.output
            node = Node(layer, node.inputs, (weight, bias.value), node.outputs, node.origin)
        nodes.append(substitute(node, renamed))
    left = {value for node in nodes for value in node.parameters}
    left |= {constant.value for output in graph.outputs for constant in output.constants}
    parameters: list[Parameter] = []
    for parameter in graph.parameters:
        bias_of = biases.get(parameter.value)
        if parameter.value in left:
            parameters.append(replace(parameter, penalty=(0.0, 0.0), bound=None))
        if bias_of is not None and bias_of.value not in own:
            parameters.append(bias_of)
    folded = replace(
        substitute_results(graph, renamed).with_nodes(nodes, ()),
        parameters=tuple(parameters),
        updates=tuple((value, new) for value, new in graph.updates if value in left),
    )
    return folded, tuple(folds)


def _pairs(graph: Graph) -> Iterator[tuple[Value, Node]]:
    """Outputs of layers that can take the batch normalisation behind them, with that."""
    users, results = graph.users(), graph.results()
    uses = Counter(value for node in graph.nodes for value in node.parameters)
    for node in graph.nodes:
        readers = users.get(node.output, [])
        if node.output in results or len(readers) != 1 or not isinstance(readers[0].op, BatchNorm):
            continue
        shared = any(uses[value] > 1 for value in (*node.parameters, *readers[0].parameters))
        if isinstance(node.op, Weighted) and not shared and _by_filter(node.op, node):
            yield node.output, readers[0]


def _by_filter(layer: Weighted, node: Node) -> bool:
    """Whether the first axis of its weight counts its output's channels, and its bias has one."""
    types, channels = [value.type for value in node.inputs], node.output.type.channels
    window = layer.window(*types)
    if not hasattr(layer, "bias") or (window and window.transposed):
        return False
    shapes = {name: spec.shape for name, spec in _with_bias(layer).parameters(*types).items()}
    return (
        shapes.keys() == {"weight", "bias"}
        and shapes["bias"] == (channels,)
        and shapes["weight"][0] == channels
    )


def _with_bias(layer: Weighted) -> Weighted:
    return replace(layer, bias=True)  # type: ignore[call-arg]


def _bias(layer: Weighted, node: Node, weight: Parameter, build: Builder) -> Parameter:
    """The bias of the layer, which had none."""
    spec = layer.parameters(*(value.type for value in node.inputs))["bias"]
    name, path = (f"{text.removesuffix('weight')}bias" for text in (weight.value.name, weight.path))
    kind = replace(weight.value.type, shape=spec.shape, dtype=spec.dtype)
    return Parameter(path, build.value(name, kind), spec.initializer)
