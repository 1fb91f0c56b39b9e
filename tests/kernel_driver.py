"""Runs one op's schedule by calling its loop nests, for comparison with its meaning in torch.

Takes and gives logical tensors (N, C, H, W); maps are stored (N, H, W, C) and weights of
convolutions (K, R, S, C) for the kernels, as generated code does. Outputs and scratch start as NaN
(integers as -99), so an element no kernel wrote shows. Needs TRITON_INTERPRET=1 without a GPU.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Box, Schedule, Size, Stride, Tail
from convdsl.ir.op import Op
from convdsl.ir.tile import Tile
from convdsl.ir.types import DType, TensorType
from convdsl.kernels.pointwise import keep
from convdsl.runtime.triton_support import boxes

KINDS = {
    torch.int8: DType.INT8,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
}
DTYPES = {kind: dtype for dtype, kind in KINDS.items()} | {DType.FLOAT32: torch.float32}
PERMUTES = {4: (0, 2, 3, 1), 3: (0, 2, 1)}
#: storage order of a parameter (`ir.op.ParameterSpec.permute`), None for the order of its type
Order = tuple[int, ...] | None


def node_of(op: Op, inputs: Sequence[Tensor], parameters: Sequence[Tensor] = ()) -> Node:
    """``op`` as a node over values of the tensors' types, named x0.., p0.. and y0.."""
    values = [Value(f"x{i}", _type_of(t)) for i, t in enumerate(inputs)]
    learned = [
        Value(f"p{i}", TensorType(tuple(t.shape), batched=False)) for i, t in enumerate(parameters)
    ]
    types = op.infer(*(v.type for v in (*values, *learned)))
    outputs = tuple(Value(f"y{i}", kind) for i, kind in enumerate(types))
    return Node(op, tuple(values), tuple(learned), outputs)


def _type_of(tensor: Tensor) -> TensorType:
    """Of an input: numbers per channel have no batch axis."""
    kind = KINDS.get(tensor.dtype, DType.COMPUTE)
    if tensor.ndim == 1 and kind is DType.COMPUTE:
        return TensorType(tuple(tensor.shape), DType.FLOAT32, batched=False)
    return TensorType(tuple(tensor.shape[1:]), kind)


def stored(tensor: Tensor) -> Tensor:
    """A fresh contiguous copy in storage order: channels last."""
    return ordered(tensor, PERMUTES.get(tensor.ndim))


def ordered(tensor: Tensor, order: Order) -> Tensor:
    """A fresh contiguous copy in an order of its axes."""
    return (tensor.permute(order) if order else tensor).contiguous().clone()


def empty(kind: TensorType, n: int, compute: torch.dtype, *, logical: bool = False) -> Tensor:
    """An unwritten tensor in storage order (``logical``: in the order of the type)."""
    shape = (n, *kind.shape) if kind.batched else kind.shape
    order = None if logical else PERMUTES.get(len(shape))
    dtype = DTYPES.get(kind.dtype, compute)
    fill = float("nan") if dtype.is_floating_point else -99
    return torch.full([shape[i] for i in order] if order else shape, fill, dtype=dtype)


def launch_all(
    schedule: Schedule,
    tensors: dict[Value, Tensor],
    n: int,
    compute: torch.dtype,
    *,
    epilogue: Any = keep,
    aux: tuple[Tensor, ...] = (),
    seed: int = 0,
) -> None:
    """Make the scratch and run the launches; ``epilogue`` and ``aux`` go to the last one."""
    for value in schedule.scratch:
        tensors[value] = empty(value.type, n, compute, logical=True)
    for launch in schedule.launches:
        module = import_module(f"convdsl.kernels.{launch.nest.module}")
        nest = getattr(module, launch.nest.function)
        last = launch is schedule.launches[-1]
        holes: Mapping[str, Any] = {
            "EPILOGUE": epilogue if last else keep,
            "aux": aux if last else (),
            "seed": torch.tensor([seed]),
        }
        arguments = {k: v for k, v in holes.items() if k in nest.arg_names}
        arguments |= {k: None for k in nest.arg_names if k.endswith("_PROLOGUE")}
        arguments |= {k: () for k in nest.arg_names if k.endswith("_aux")}
        for name, argument in launch.arguments.items():
            if isinstance(argument, Value):
                arguments[name] = tensors[argument]
            elif isinstance(argument, Stride):
                # of channels of a wider tensor too
                tensor = tensors[argument.value]
                # torch leaves the strides of axes of one element anyhow
                whole = tensor.is_contiguous()
                arguments[name] = tensor.shape[-1] if whole else tensor.stride(-2)
            elif isinstance(argument, Box):
                tensor = tensors[argument.value]
                shape = [eval(str(size), {"n": n}) for size in argument.shape]
                arguments[name] = boxes(tensor, shape, shape[-1], argument.block)
            elif isinstance(argument, Size):
                names = {"n": n, "triton": triton, "training": int(seed >= 0)}
                arguments[name] = eval(argument.text, names)
            else:
                arguments[name] = argument
        grid = [eval(axis, {"n": n, "triton": triton}) for axis in launch.grid]
        if 0 not in grid:
            nest[tuple(grid)](**arguments, num_warps=launch.warps, num_stages=launch.stages)


def run(
    op: Op,
    *inputs: Tensor,
    parameters: Sequence[Tensor] = (),
    pool: tuple[int, int] | None = None,
    epilogue: Any = keep,
    aux: Sequence[Tensor] = (),
    seed: int = 0,
    orders: Sequence[Order] | None = None,
    made: Sequence[Order] | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, ...]:
    """Outputs of ``op`` as its kernels compute them; with ``pool``, the pooled map and the index.

    aux: logical tensors of the shape of the op's (un-pooled) output, and parameters. orders: how
    the parameters are stored; without it as weights of convolutions are. made: the same of the
    outputs that have no batch axis, as gradients of parameters do not. tile: see `Tail`.
    """
    node = node_of(op, inputs, parameters)
    n, compute = inputs[0].shape[0], inputs[0].dtype
    outputs: tuple[Value, ...] = node.outputs
    tail = Tail(node.output, tile=tile)
    if pool:
        channels, height, width = node.output.type.shape
        shape = (channels, height // pool[0], width // pool[1])
        pooled = Value("pooled", TensorType(shape))
        index = Value("index", TensorType(shape, DType.INT8))
        outputs, tail = (pooled, index), Tail(pooled, pool, index)
    if orders is None:
        orders = [PERMUTES.get(p.ndim) for p in parameters]
    held = [ordered(p, order) for p, order in zip(parameters, orders, strict=True)]
    of_parameter = {id(p): tensor for p, tensor in zip(parameters, held, strict=True)}
    tensors = dict(zip(node.operands, (*map(stored, inputs), *held), strict=True))
    tensors |= {v: empty(v.type, n, compute, logical=not v.type.batched) for v in outputs}
    launch_all(
        op.schedule(node, tail),
        tensors,
        n,
        compute,
        epilogue=epilogue,
        aux=tuple(of_parameter[id(t)] if id(t) in of_parameter else stored(t) for t in aux),
        seed=seed,
    )
    if made is None:
        made = [None if v.type.batched else PERMUTES.get(len(v.type.shape)) for v in outputs]
    return tuple(logical(tensors[v], v.type, order) for v, order in zip(outputs, made, strict=True))


def logical(tensor: Tensor, kind: TensorType, order: Order = None) -> Tensor:
    """A stored tensor in the order of its type. order: of the axes of one without a batch."""
    if order:
        sizes = [kind.shape[axis] for axis in order]
        return tensor.view(sizes).permute([order.index(axis) for axis in range(len(order))])
    if kind.batched and tensor.ndim in PERMUTES:
        return tensor.movedim(-1, 1)
    return tensor


def meaning(op: Op, *operands: Tensor, **names: Any) -> tuple[Tensor, ...]:
    """Outputs of ``op`` by its torch reference; give float64 operands for an oracle."""
    table = {f"t{i}": t for i, t in enumerate(operands)}
    scope = {"torch": torch, "F": F, "seed": 0, "training": True, **table, **names}
    return tuple(eval(text, scope) for text in op.reference(*table))
