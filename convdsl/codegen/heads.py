"""What a network makes of its outputs, for both targets: the loss, the predictions, their names."""

from collections.abc import Callable

from convdsl.codegen.header import results_type
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Output


def emit_results_type(graph: Graph, out: Writer) -> None:
    """The named tuple of several outputs, at the top of the module so that it can be pickled."""
    if len(graph.results_shown) > 1:
        name = results_type(graph)
        fields = [f'"{o.name}"' for o in graph.results_shown]
        # rename: a field that Python would not take is called _0, _1 ...
        out.call(f'{name} = namedtuple("{name}", [', fields, "], rename=True)")
        out.line()
        out.line()


def emit_heads(
    graph: Graph, out: Writer, loss: Callable[[Output, str, str], str], wide: bool = False
) -> None:
    """``losses`` and ``predictions``, if the network has a head.

    loss: the expression of an output's loss, of names of the output and the labels. wide: convert
    the output to what losses are worked out in first.
    """
    heads = [o for o in graph.outputs if o.head is not None]
    if not heads:
        return
    always = [o for o in heads if not o.training_only]
    out.line()
    tensors = "dict[str, Tensor]"
    out.line(f"def losses(self, outputs: {tensors}, labels: {tensors}) -> Tensor:")
    with out.indent():
        for output in always or heads:
            _term(output, out, loss, wide, output is (always or heads)[0])
        if always and len(always) < len(heads):
            out.line("if self.training:")
            with out.indent():
                for output in heads:
                    if output not in always:
                        _term(output, out, loss, wide, False)
        out.line("return loss")
    out.line()
    out.line(f"def predictions(self, outputs: {tensors}) -> {tensors}:")
    with out.indent():
        entries = []
        for output in graph.outputs:
            x = f'outputs["{output.name}"]'
            if not output.training_only:
                entries.append(f'"{output.name}": {output.head.predict(x) if output.head else x}')
        out.call("return {", entries, "}")


def _term(
    output: Output, out: Writer, loss: Callable[[Output, str, str], str], wide: bool, first: bool
) -> None:
    assert output.head is not None
    out.line(f'x, y = outputs["{output.name}"], labels["{output.name}"]')
    if wide:
        out.line("x = x.to(loss_dtype(x))")
    factor = "" if output.head.weight == 1.0 else f"{output.head.weight!r} * "
    out.statement(f"loss = {'' if first else 'loss + '}{factor}{loss(output, 'x', 'y')}")
