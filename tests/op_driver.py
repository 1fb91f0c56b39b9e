"""Runs layers forward and backward, by their kernels or by their torch references.

A pointwise op has no arithmetic in its nest: its expression is written to a file as an epilogue,
since Triton reads the source of the functions it runs.
"""

import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convdsl.ir.broadcast import element_of, tile_of
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.op import Layer, Op, ShapeError
from convdsl.ir.types import Notation, TensorType
from tests.kernel_driver import Order, meaning, node_of, run

_FOLDER = tempfile.TemporaryDirectory()


@cache
def epilogue_of(op: Op, tile: int, *types: TensorType) -> Any:
    """A jit function of the pointwise nest's epilogue; operands but the ``tile``-th come in aux."""
    names = [f"operand_{i}" for i in range(len(types))]
    names[tile] = "acc"
    places = [element_of(kind, types[tile]) for kind in types]
    assert None not in places, f"{op.title} has operands that do not spread over the largest"
    others = [pair for i, pair in enumerate(zip(names, places, strict=True)) if i != tile]
    lines = ["import triton", "import triton.language as tl"]
    lines += [f"from convdsl.kernels.{h.module} import {h.function}" for h in op.helpers]
    lines += ["@triton.jit", "def epilogue(acc, offsets, column, mask, aux, seed):"]
    lines += [
        f"    {name} = tl.load(aux[{i}] + ({place}) + offsets * 0, mask=mask, other=0.0)"
        f".to(tl.float32)"
        for i, (name, place) in enumerate(others)
    ]
    lines.append(f"    return {op.expression(*names)}")
    path = Path(_FOLDER.name) / f"epilogue_{len(list(Path(_FOLDER.name).iterdir()))}.py"
    path.write_text("\n".join(lines) + "\n")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.epilogue


def kernels(
    op: Op,
    *inputs: Tensor,
    parameters: Sequence[Tensor] = (),
    seed: int = 0,
    orders: Sequence[Order] | None = None,
    made: Sequence[Order] | None = None,
) -> Any:
    """All outputs of ``op`` as its kernels compute them, in the dtype of the first input."""
    if op.is_view(TensorType(tuple(inputs[0].shape[1:]))):
        return meaning(op, *inputs, *parameters)
    operands = (*inputs, *parameters)
    if isinstance(op, Layer) and len(parts := op.split(node_of(op, inputs, parameters))) > 1:
        return _by_parts(op, parts, inputs, parameters, seed)
    if op.expression(*(f"t{i}" for i in range(len(operands)))) is None:
        return run(op, *inputs, parameters=parameters, seed=seed, orders=orders, made=made)
    node = node_of(op, inputs, parameters)
    tile = node.operands.index(tile_of(node))
    return run(
        op,
        *inputs,
        parameters=parameters,
        epilogue=epilogue_of(op, tile, *(v.type for v in node.operands)),
        aux=[*operands[:tile], *operands[tile + 1 :]],
        seed=seed,
        orders=orders,
        made=made,
    )


def _by_parts(
    op: Op, parts: Sequence[Node], inputs: Sequence[Tensor], parameters: Sequence[Tensor], seed: int
) -> tuple[Tensor, ...]:
    """`kernels` of the nodes a layer is made of."""
    whole = node_of(op, inputs, parameters)
    table = dict(zip(whole.operands, (*inputs, *parameters), strict=True))
    for part in parts:
        given = [table[v] for v in part.inputs]
        held = [table[v] for v in part.parameters]
        table |= dict(
            zip(part.outputs, kernels(part.op, *given, parameters=held, seed=seed), strict=True)
        )
    return tuple(table[v] for v in whole.outputs)


def reference(
    op: Op,
    *inputs: Tensor,
    parameters: Sequence[Tensor] = (),
    seed: int = 0,
    orders: Sequence[Order] | None = None,
    made: Sequence[Order] | None = None,
) -> Any:
    """All outputs of ``op`` by its torch reference, in evaluation; no order is asked."""
    return meaning(op, *inputs, *parameters, training=False, seed=seed)


def forward_backward(
    layer: Layer,
    inputs: Sequence[Tensor],
    dy: Tensor,
    *,
    parameters: Sequence[Tensor] = (),
    same: bool = False,
    by: Any = kernels,
    seed: int = 0,
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """(outputs, gradients of inputs and parameters), worked out ``by`` kernels or reference.

    same: all inputs are one value of the graph, so there is one gradient for them.
    """
    node = node_of(layer, inputs, parameters)
    if same:
        one = (node.inputs[0],) * len(inputs)
        node = Node(layer, one, node.parameters, node.outputs)
    specs = layer.parameters(*(v.type for v in node.inputs)).values()
    orders = {v: spec.permute for v, spec in zip(node.parameters, specs, strict=True)}
    outputs = by(layer, *inputs, parameters=parameters, seed=seed, orders=list(orders.values()))
    table: dict[Value, Tensor] = dict(zip(node.operands, (*inputs, *parameters), strict=True))
    table |= dict(zip(node.outputs, outputs, strict=True))
    build = Builder({value.name for value in table})
    cotangent = build.value("dy", node.output.type)
    table[cotangent] = dy
    gradients = layer.gradient(node, cotangent, build)
    orders_made = {gradients[v]: order for v, order in orders.items() if v in gradients}
    for step in build.nodes:
        made = by(
            step.op,
            *(table[v] for v in step.inputs),
            parameters=[table[v] for v in step.parameters],
            seed=seed,
            orders=[orders[v] for v in step.parameters],
            made=[orders_made.get(v) for v in step.outputs],
        )
        for value, tensor in zip(step.outputs, made, strict=True):
            assert tuple(tensor.shape[1:] if value.type.batched else tensor.shape) == (
                value.type.shape
            )
            table[value] = tensor
    wanted = dict.fromkeys(node.operands)
    return outputs, [table[gradients[v]] for v in wanted if v in gradients]


def autograd(layer: Layer, inputs: Sequence[Tensor], dy: Tensor) -> list[Tensor]:
    """Gradients of a layer without parameters by torch, in float64."""
    leaves = [x.double().requires_grad_() for x in inputs]
    y = reference(layer, *leaves)[0]
    return list(torch.autograd.grad(y, leaves, dy.double()))


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest deviation relative to max(1, |theirs|); equal infinities and NaNs deviate by 0."""
    ours, theirs = ours.double(), theirs.double()
    assert ours.shape == theirs.shape
    difference = torch.where(
        (ours == theirs) | (ours.isnan() & theirs.isnan()),
        0.0,
        (ours - theirs).abs() / theirs.abs().clamp_min(1.0),
    )
    return difference.nan_to_num(float("inf")).max().item() if difference.numel() else 0.0


def refusal(layer: Layer, *shapes: tuple[int, ...]) -> tuple[str, str, str | None]:
    """Code, message and help of the ShapeError that inputs of ``shapes`` raise."""
    with pytest.raises(ShapeError) as raised:
        layer.shape(*map(TensorType, shapes))
    error = raised.value
    shown = {
        name: Notation.HWC.show(value) if isinstance(value, TensorType) else value
        for name, value in error.values.items()
    }
    return error.code, error.message.format(**shown), error.help and error.help.format(**shown)
