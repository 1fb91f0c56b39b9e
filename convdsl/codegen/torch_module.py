"""Graph -> a plain PyTorch module: one readable line a layer, for every device torch has.

Takes the graph as lowered (forward only, unfused); torch's autograd makes the backward part. It
shares parameter names, checks and results with the Triton target.
"""

from convdsl.codegen.copy_source import Copier
from convdsl.codegen.header import class_head, docstring, where
from convdsl.codegen.heads import emit_heads
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Parameter, Role, Value
from convdsl.ir.types import DType

IMPORTS = """\
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""


def emit_torch(graph: Graph, source: str) -> str:
    """The whole file as text; deterministic to the byte."""
    support = Copier()
    support.add("runtime.support", "Network")
    body = Writer()
    class_head(graph, "in plain PyTorch", body)
    with body.indent():
        _outputs(graph, body)
        if any(o.head for o in graph.outputs):
            emit_heads(graph, body, torch_loss)
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


def _outputs(graph: Graph, out: Writer) -> None:
    names = _names(graph)
    arguments = ", ".join(f"{names[v]}: Tensor" for v in graph.inputs)
    out.line(f"def outputs(self, {arguments}) -> tuple[Tensor, ...]:")
    needed = {v for node in graph.nodes for v in node.operands} | graph.results()
    with out.indent():
        if any(p.value.type.dtype is DType.COMPUTE for p in graph.parameters):
            out.line(f"p = self.weights({names[graph.inputs[0]]}.dtype)")
        statements = []
        for node in graph.nodes:
            operands = [names[v] for v in node.operands]
            text = node.op.torch_text(*operands)
            texts = node.op.reference(*operands) if text is None else (text,)
            pairs = zip(node.outputs, texts, strict=text is None)
            statements += [(node, value, text) for value, text in pairs if value in needed]
        if any("training" in text for _, _, text in statements):
            out.line("training = self.training")
        for node, value, text in statements:
            out.comment(where(node))
            out.statement(f"{names[value]} = {text}")
        results = ", ".join(names[o.value] for o in graph.outputs)
        out.line(f"return ({results},)")


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
        names[graph.inputs[0]] = "x" if alone else "input"
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


def torch_loss(graph: Graph, number: int, output: str, labels: str) -> str:
    """The loss of output ``number`` as a torch expression."""
    head = graph.outputs[number].head
    assert head is not None
    return head.loss(output, labels)
