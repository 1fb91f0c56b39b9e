"""The methods that make a loss and predictions of the outputs, the same for both targets."""

from collections.abc import Callable

from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph


def emit_heads(graph: Graph, out: Writer, loss: Callable[[Graph, int, str, str], str]) -> None:
    """``losses`` and ``predictions`` of a network with at least one head."""
    out.line()
    out.line("def losses(self, outputs: tuple[Tensor, ...], y: Tensor) -> Tensor:")
    with out.indent():
        terms = []
        for number, output in enumerate(graph.outputs):
            if output.head is not None:
                terms.append(loss(graph, number, f"outputs[{number}]", "y"))
        out.line(f"return {' + '.join(terms)}")
    out.line()
    out.line("def predictions(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:")
    with out.indent():
        terms = [
            o.head.predict(f"outputs[{i}]") if o.head else f"outputs[{i}]"
            for i, o in enumerate(graph.outputs)
        ]
        out.line(f"return ({', '.join(terms)},)")
