"""The heads of a Triton module: an autograd Function each, loss and gradient in one go.

The kernels are the head's own (`Head.schedule`); here they get their tensors, and the backward
pass multiplies what they left by the scale and by the gradient of the loss, in float32.
"""

from convdsl.codegen.header import channels_first, channels_last, class_name
from convdsl.codegen.launches import FunctionBody, Kernels, Part
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Output, Value
from convdsl.ir.head import LossValues
from convdsl.ir.launch import Launch, Nest, Schedule, Size
from convdsl.ir.types import DType, TensorType

BLOCK = 1024
_SCALAR = TensorType((), DType.FLOAT32, batched=False)
#: the mean loss, what a head's gradient is to be multiplied by, and the gradient of the loss
LOSS, SCALE, D_LOSS = (Value(name, _SCALAR) for name in ("loss", "scale", "d_loss"))


def emit_losses(graph: Graph, out: Writer, kernels: Kernels) -> None:
    """The Functions of all heads."""
    kernels.part = Part.LOSS
    for output in graph.outputs:
        if output.head is not None:
            out.line()
            out.line()
            _function(graph, output, out, kernels)


def loss_call(graph: Graph, output: Output, x: str, labels: str) -> str:
    """The call of the Function of ``output``."""
    constants = [f'self.get_buffer("{p.path}")' for p in output.constants]
    return f"{_name(graph, output)}.apply({', '.join([x, labels, *constants])})"


def _name(graph: Graph, output: Output) -> str:
    number = graph.outputs.index(output)
    return f"{class_name(graph)}Loss{number + 1 if number else ''}"


def _function(graph: Graph, output: Output, out: Writer, kernels: Kernels) -> None:
    head, kind = output.head, output.value.type
    assert head is not None
    labels = head.labels(kind)
    values = LossValues(
        output=Value("x", kind),
        labels=Value("labels", labels.type),
        loss=LOSS,
        scale=SCALE,
        gradient=Value("dx", kind),
        constants=tuple(
            Value(name, p.value.type)
            for name, p in zip(head.constants(kind), output.constants, strict=True)
        ),
    )
    comment = f"{output.name}, {head.name}"
    given = [values.output, values.labels, *values.constants]
    out.line(f"class {_name(graph, output)}(torch.autograd.Function):")
    with out.indent():
        out.line(f'"""Mean loss of {comment}, over the batch; the gradient comes with it."""')
        out.line()
        out.line("@staticmethod")
        out.line(f"def forward(ctx, {', '.join(v.name for v in given)}):")
        with out.indent():
            out.line(f"x = x{channels_last(kind)}.contiguous()")
            order = "" if labels.kind == "classes" else channels_last(labels.type)
            out.line(f"labels = labels{order}.contiguous()")
            out.line("n = len(x)")
            out.line("new = x.new_empty")
            out.line("with torch.cuda.device_of(x):")
            made = [values.loss, values.scale, values.gradient]
            names = {v: v.name for v in (*given, *made)}
            body = FunctionBody(out, kernels, names, set(names))
            with out.indent():
                for value in made:
                    body.allocate(value)
                body.schedule(head.schedule(values), comment)
            out.line("ctx.save_for_backward(dx, scale)")
            out.line("return loss")
        out.line()
        out.line("@staticmethod")
        out.line("def backward(ctx, d_loss):")
        with out.indent():
            out.line("refuse_double_backward()")
            out.line("dx, scale = ctx.saved_tensors")
            out.line("n = len(dx)")
            out.line("new = dx.new_empty")
            _scale(values, body, comment)
            nothing = ["None"] * (len(given) - 1)
            out.line(f"return {', '.join([f'd_x{channels_first(kind)}', *nothing])}")


def _scale(values: LossValues, body: FunctionBody, comment: str) -> None:
    """``d_x = dx * scale * d_loss``."""
    result = Value("d_x", values.output.type)
    body.names |= {D_LOSS: D_LOSS.name, result: result.name}
    body.needed |= {D_LOSS, result}
    body.allocate(result)
    launch = scaled_launch(values.gradient, values.scale, D_LOSS, result)
    body.schedule(Schedule((launch,)), comment)


def scaled_launch(x: Value, scale: Value, factor: Value, y: Value) -> Launch:
    """``y = x * scale * factor``."""
    elements = f"n * {y.type.elements}" if y.type.batched else f"{y.type.elements}"
    return Launch(
        Nest("losses", "scaled"),
        {
            "x_ptr": x,
            "scale_ptr": scale,
            "factor_ptr": factor,
            "y_ptr": y,
            "elements": Size(elements),
            "BLOCK": BLOCK,
        },
        grid=(f"triton.cdiv({elements}, {BLOCK})",),
    )
