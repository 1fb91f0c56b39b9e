"""Pooling across the channels of every place: what MAXOUT and CHPOOL share.

Channels last, a tensor of P places is one long map of P rows and C columns with a single channel,
so the loop nests of ``kernels/pool.py`` pool its columns with windows of 1 x F at stride 1 x S.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Nest, Schedule, Tail
from convdsl.ir.op import Layer, Window
from convdsl.ir.types import DType, TensorType
from convdsl.ops._map_gradient import MapGradient
from convdsl.ops._pooling import pooling_launch
from convdsl.ops._sum_pooling import sum_launch


class ChannelPooling(Layer):
    """Base of the layers that make one channel of each window of channels."""

    has_epilogue = True

    @property
    @abstractmethod
    def extent(self) -> int:
        """Channels of a window."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Channels from one window to the next."""

    @property
    @abstractmethod
    def takes_maximum(self) -> bool:
        """The maximum of a window, else the mean."""

    @abstractmethod
    def check(self, channels: int) -> None:
        """Raises ShapeError if windows over so many channels do not come out even."""

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        self.check(x.channels)
        return x.with_shape((x.channels - self.extent) // self.step + 1, *x.spatial)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(y, and for the maximum the winner's place in its window)."""
        y = self.shape(*operands)
        index = TensorType(y.shape, self._index, y.batched)
        return (y, index) if self.takes_maximum else (y,)

    @property
    def _index(self) -> DType:
        return DType.INT8 if self.extent <= 128 else DType.INT32

    def reference(self, *operands: str) -> tuple[str, ...]:
        (x,) = operands
        if not self.takes_maximum:
            return (f"{x}.unfold(1, {self.extent}, {self.step}).mean(-1)",)
        # places in front of channels, as pooling along one axis wants it, and back
        rows = f"{x}.unsqueeze(1).movedim(2, -1).flatten(1, -2)"
        pooled = f"F.max_pool1d({rows}, {self.extent}, {self.step}, return_indices=True)"
        count = f"({x}.shape[1] - {self.extent}) // {self.step} + 1"
        back = f".mT.reshape({x}.shape[0], {count}, *{x}.shape[2:])"
        starts = f"{self.step} * torch.arange({count}, device={x}.device)"
        index = f"({pooled}[1] - {starts}){back}.to(torch.{self._index.value})"
        return f"{pooled}[0]{back}", index

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        tensors: dict[str, Argument] = {"x_ptr": x, "y_ptr": tail.output}
        if self.takes_maximum:
            return self.launch("max_pool", {**tensors, "index_ptr": node.outputs[1]}, x.type)
        return self.launch("sum_pool", {**tensors, "w_ptr": None}, x.type, NORM=False)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        gradient = ChannelPoolingGradient(self, x.type)
        (dx,) = build.add(gradient, dy, *node.outputs[1:], names=(f"d_{x.name}",))
        return {x: dx}

    def launch(
        self, function: str, tensors: Mapping[str, Argument], x: TensorType, **constants: Argument
    ) -> Schedule:
        """One launch of a pooling nest over the places and channels of ``x`` as a map."""
        window = Window((1, self.extent), (1, self.step), ((0, 0), (0, 0)), (1, 1))
        large = x.with_shape(1, x.pixels, x.channels)
        small = x.with_shape(1, x.pixels, self.shape(x).channels)
        if self.takes_maximum:
            return pooling_launch(
                Nest("pool", function), tensors, large, small, window, **constants
            )
        return sum_launch(function, tensors, large, small, window, "map", **constants)


@dataclass(frozen=True)
class ChannelPoolingGradient(MapGradient):
    """dx from (dy, index) of a maximum, each channel what it won, or from (dy,) of a mean."""

    of: ChannelPooling

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, *index = operands
        zeros = f"{dy}.new_zeros(({dy}.shape[0], *{self.x.shape}))"
        extent, step, count = self.of.extent, self.of.step, self.of.shape(self.x).channels
        if index:
            ones = (1,) * len(self.x.spatial)
            starts = f"{step} * torch.arange({count}, device={dy}.device).view{(count, *ones)}"
            return (f"{zeros}.scatter_add(1, {index[0]}.long() + {starts}, {dy})",)
        place = f"torch.arange({count * extent}, device={dy}.device)"
        covered = f"{place} // {extent} * {step} + {place} % {extent}"
        share = f"{dy}.repeat_interleave({extent}, 1) / {extent}"
        return (f"{zeros}.index_add(1, {covered}, {share})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, *index = node.inputs
        tensors: dict[str, Argument] = {"dy_ptr": dy, "dx_ptr": tail.output}
        if index:
            return self.of.launch("max_pool_gradient", {**tensors, "index_ptr": index[0]}, self.x)
        none = {"w_ptr": None, "x_ptr": None, "y_ptr": None}
        return self.of.launch("sum_pool_gradient", {**tensors, **none}, self.x)
