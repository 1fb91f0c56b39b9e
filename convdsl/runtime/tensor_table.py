"""What the optimisers' kernels read: where tensors lie, and the numbers of a group, on the device.

Everything is written in the order of the stream and without waiting for it. See
`convdsl.kernels.tensor_list` for the kernels' side.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

BLOCK = 1024
#: elements of a tensor that takes longer to copy than to look at anew
LARGE = 1 << 16
#: of every tensor of a launch the parameter and the other columns: tensors, or plain numbers
Rows = Sequence[tuple[Tensor | int, ...]]


class Table:
    """Where the tensors of one launch lie, on the host and as `kernels.tensor_list` reads it."""

    def __init__(self, parameters: Sequence[Tensor], columns: int) -> None:
        count, device = programs_of(parameters), parameters[0].device
        self.addresses = torch.zeros((len(parameters), columns), dtype=torch.int64, device=device)
        self.rows = torch.zeros(count, dtype=torch.int32, device=device)
        self.held: list[tuple[int, ...]] = []

    def fits(self, parameters: Sequence[Tensor]) -> bool:
        """Whether there is room for all of them, on their device."""
        room = len(self.addresses) >= len(parameters)
        room = room and len(self.rows) >= programs_of(parameters)
        return room and self.rows.device == parameters[0].device

    def hold(self, tensors: Rows, capturing: bool) -> bool:
        """Whether all addresses are aligned. Uploads changes, which a capture puts off."""
        first, held = 0, []
        for row in tensors:
            parameter = row[0]
            assert isinstance(parameter, Tensor)
            places = (t.data_ptr() if isinstance(t, Tensor) else t for t in row)
            held.append((parameter.numel(), first, *places))
            first += programs_of([parameter])
        self.programs = first
        if held != self.held:
            self.held = held
            if not capturing:
                self.upload()
        tables = (t for row in tensors for t in row if isinstance(t, Tensor) and t.dim())
        return all(t.data_ptr() % 16 == 0 for t in tables)

    def upload(self) -> None:
        """Write to the device what is held, in the order of its stream and without waiting."""
        if not self.held:
            return
        addresses = torch.tensor(self.held, dtype=torch.int64)
        programs = (addresses[:, 0] + (BLOCK - 1)) // BLOCK
        rows = torch.arange(len(addresses), dtype=torch.int32).repeat_interleave(programs)
        self.addresses[: len(addresses)].copy_(addresses, non_blocking=True)
        self.rows[: len(rows)].copy_(rows, non_blocking=True)


def programs_of(parameters: Sequence[Tensor]) -> int:
    """How many programs it takes to step all parameters."""
    return sum(-(-p.numel() // BLOCK) for p in parameters)


class Numbers:
    """The numbers of one group on its device."""

    def __init__(self, device: torch.device, count: int) -> None:
        self.values = torch.zeros(count, dtype=torch.float32, device=device)
        self.held: list[float] = []

    def hold(self, rate: float | Tensor, others: Sequence[float]) -> None:
        """Write what changed, in the order of the stream and without waiting."""
        held = [0.0 if isinstance(rate, Tensor) else float(rate), *others]
        if held != self.held:
            self.held = held
            self.values.copy_(torch.tensor(held), non_blocking=True)
        if isinstance(rate, Tensor):
            self.values[:1].copy_(rate.detach().reshape(1), non_blocking=True)


def launch(kernel: Any, table: Table, arguments: dict[str, Any]) -> None:
    """Run a kernel of `kernels.tensor_list` over the tensors that the table holds."""
    if table.programs:
        with torch.cuda.device_of(table.rows):  # type: ignore[no-untyped-call]
            kernel[(table.programs,)](
                rows_ptr=table.rows, table_ptr=table.addresses, BLOCK=BLOCK, **arguments
            )


def suits(parameters: Sequence[Tensor]) -> bool:
    """Whether the kernels can step a group: float32, dense, on one device that runs them.

    Not what is made of other tensors, such as a process's share of a parameter.
    """
    if not parameters:
        return True
    device = parameters[0].device
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    return all(
        p.dtype == torch.float32
        and p.device == device
        and dense(p)
        and not is_traceable_wrapper_subclass(p)
        for p in parameters
    )


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill their stretch of memory, in whatever order."""
    if tensor.is_contiguous():
        return True
    axes = [
        (step, size) for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1
    ]
    expected = 1
    for step, size in sorted(axes):
        if step != expected:
            return False
        expected *= size
    return True


def alike(tensor: Tensor, parameter: Tensor) -> Tensor:
    """``tensor`` in type, place and order in memory as ``parameter``; itself if it is so."""
    same = tensor.dtype == parameter.dtype and tensor.device == parameter.device
    if same and _lie_alike(tensor, parameter):
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def in_order(parameters: Sequence[Tensor], *others: Sequence[Tensor | None]) -> bool:
    """Whether torch's fused steps may take these: they heed no strides, and all must be there."""
    for parameter, *rest in zip(parameters, *others, strict=True):
        if not dense(parameter):
            return False
        for tensor in rest:
            if tensor is None or not _lie_alike(tensor, parameter):
                return False
    return True


def in_rows(*lists: list[Any]) -> tuple[list[Any], ...]:
    """Lists of tensors that lie alike, or none, large ones with their axes in the order of memory.

    torch's fused steps copy gradients whose axes are in another order.
    """
    found = tuple(list(tensors) for tensors in lists)
    for place, parameter in enumerate(lists[0]):
        if parameter.numel() >= LARGE and not parameter.is_contiguous():
            axes = sorted(range(parameter.dim()), key=parameter.stride, reverse=True)
            for tensors in filter(None, found):
                tensors[place] = tensors[place].permute(axes)
    return found


def _lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two of one shape have their elements in the same order; axes of one have no say."""
    if one.stride() == other.stride():
        return True
    steps = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(a == b for size, a, b in steps if size > 1)
