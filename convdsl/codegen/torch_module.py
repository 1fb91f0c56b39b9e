"""Graph -> a plain PyTorch module: one readable line a layer, for every device torch has.

Takes the graph as lowered (forward only, unfused); torch's autograd makes the backward part. It
shares parameter names, checks and results with the Triton target.
"""

from collections.abc import Iterable

from convdsl.codegen.copy_source import Copier
from convdsl.codegen.header import class_head, docstring, where
from convdsl.codegen.heads import emit_heads, emit_results_type
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Node, Output, Parameter, Role, Value
from convdsl.ir.types import DType
from convdsl.passes.drop_training_outputs import nodes_at_inference

IMPORTS = """\
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""


#: the axes (K, C, H, W) of filters, channels last
CHANNELS_LAST = (0, 2, 3, 1)


def emit_torch(graph: Graph, source: str) -> str:
    """The whole file as text; deterministic to the byte."""
    support = Copier()
    support.add("runtime.plain", "PlainNetwork")
    body = Writer()
    emit_results_type(graph, body)
    class_head(graph, "in plain PyTorch", body, "PlainNetwork")
    with body.indent():
        _channels_last(graph, body)
        _outputs(graph, body)
        emit_heads(graph, body, torch_loss, wide=True)
    parts = [
        "\n".join(docstring(graph, source, "Plain PyTorch.")),
        "",
        IMPORTS.rstrip(),
        "",
        support.text,
        "",
        "",
        body.text,
        "",
    ]
    return "\n".join(parts)


def _channels_last(graph: Graph, out: Writer) -> None:
    """Where there are any: ``CHANNELS_LAST``, the paths of filters that lie so."""
    paths = [f'"{p.path}"' for p in graph.learned if p.permute == CHANNELS_LAST]
    if paths:
        out.call("CHANNELS_LAST = (", paths, ",)" if len(paths) == 1 else ")")
        out.line()


def _outputs(graph: Graph, out: Writer) -> None:
    """The method ``outputs``: what inference needs, then what only training does."""
    first = dict.fromkeys(nodes_at_inference(graph))
    rest = [node for node in graph.nodes if node not in first]
    graph = graph.with_nodes((*first, *rest), ())
    names = _names(graph)
    needed = {v for node in graph.nodes for v in node.operands} | graph.results()
    # what nobody reads, but statistics move with it
    needed |= {node.output for node in graph.nodes if node.updated}
    over = _overwriting(graph)
    statements = {node: _statements(node, names, needed, node in over) for node in graph.nodes}

    def write(nodes: Iterable[Node]) -> None:
        for node in nodes:
            for text in statements[node]:
                out.comment(where(node))
                out.statement(text)

    def give(outputs: Iterable[Output]) -> None:
        results = [names[output.value] for output in outputs]
        if len(results) == 1:
            out.line(f"return ({results[0]},)")
        else:
            out.call("return (", results)

    arguments = ", ".join(f"{names[v]}: Tensor" for v in graph.inputs)
    out.line(f"def outputs(self, {arguments}) -> tuple[Tensor, ...]:")
    with out.indent():
        if any(p.value.type.dtype is DType.COMPUTE for p in graph.parameters):
            out.line(f"p = self.weights({names[graph.inputs[0]]}.dtype)")
        if any("training" in text for texts in statements.values() for text in texts):
            out.line("training = self.training")
        write(first)
        kept = [output for output in graph.outputs if not output.training_only]
        if len(kept) < len(graph.outputs):
            out.line("if not self.training:")
            with out.indent():
                give(kept)
        write(rest)
        give(graph.outputs)


def _overwriting(graph: Graph) -> set[Node]:
    """The nodes that may overwrite their input: nobody else reads it, autograd neither."""
    users, results = graph.users(), graph.results()
    free = {node.output for node in graph.nodes if node.op.output_is_free}
    return {
        node
        for node in graph.nodes
        if node.inputs[0] in free - results and users[node.inputs[0]] == [node]
    }


def _statements(
    node: Node, names: dict[Value, str], needed: set[Value], overwriting: bool
) -> list[str]:
    """``name = expression`` for every output that somebody needs."""
    operands = [names[v] for v in node.operands]
    in_place = node.op.torch_in_place(operands[0]) if overwriting else None
    text = in_place or node.op.torch_text(*operands)
    texts = node.op.reference(*operands) if text is None else (text,)
    pairs = zip(node.outputs, texts, strict=text is None)
    return [f"{names[value]} = {text}" for value, text in pairs if value in needed]


def _names(graph: Graph) -> dict[Value, str]:
    """Local names: ``x`` for a value read only by the next line, its own name otherwise."""
    names = {v: _free(v.name) for v in graph.inputs}
    names |= {p.value: _tensor(p) for p in graph.parameters}
    for node in graph.nodes:
        names.update({new: names[old] for new, old in node.updated.items()})
    users = graph.users()
    results = graph.results()
    if len(graph.inputs) == 1:
        alone = users.get(graph.inputs[0], []) == [*graph.nodes[:1]]
        names[graph.inputs[0]] = "x" if alone and graph.inputs[0] not in results else "input"
    for place, node in enumerate(graph.nodes):
        following = graph.nodes[place + 1 : place + 2]
        for value in node.outputs:
            if value in names:
                continue
            plain = users.get(value, []) == [*following] and value not in results
            names[value] = "x" if plain else _free(value.name)
    return names


def _tensor(parameter: Parameter) -> str:
    """Rounded to the computing type, unless it is never rounded."""
    if parameter.value.type.dtype is DType.COMPUTE:
        return f'p["{parameter.path}"]'
    kind = "parameter" if parameter.role is Role.LEARNED else "buffer"
    return f'self.get_{kind}("{parameter.path}")'


def _free(name: str) -> str:
    return (
        f"{name}_"
        if name in {"x", "input", "p", "self", "torch", "F", "training", "seed"}
        else name
    )


def torch_loss(output: Output, x: str, labels: str) -> str:
    """The loss of ``output`` as a torch expression."""
    assert output.head is not None
    constants = [f'self.get_buffer("{p.path}").to({x}.dtype)' for p in output.constants]
    return output.head.loss(x, labels, *constants)
