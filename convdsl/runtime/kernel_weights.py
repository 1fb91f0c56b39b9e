"""Weights as kernels read them: their order in memory, and the 16-bit copy of all of them.

Code generation copies this into Triton modules.

Parameters are ordinary leaf ``nn.Parameter``s with torch's shapes, each in memory of its own. Their
axes lie there in the order in which the kernel reads them and writes the gradient, as those of a
channels-last tensor do, so a pass in the parameters' own type copies nothing.

In another type kernels read views of one flat copy. Who keeps it up to date:

- An optimiser of `convdsl.optim` writes it in the launch that steps the parameters. It finds it by
  the attribute ``kernel_copy`` of each of them, a `Half`.
- `Copies.read` does, in one launch, whenever it cannot be sure of it. It is sure of a weight if an
  optimiser of ours stepped it after the last pass that gradients may follow, or it takes none; and
  if it lies where it did and its ``_version`` is what it was. Versions alone do not do, since
  torch's fused optimisers change none: who steps with another optimiser gets a launch a pass.
- Edits through ``.data`` change no version either. So a weight that an optimiser of ours steps
  becomes a `Watched`, whose ``.data`` shares its version.
- What writes through a raw pointer, or through a ``.data`` that was taken before, must say so, as
  torch asks of it (``torch.autograd.graph.increment_version``).

A CUDA graph of a training step reads the copy and writes it: before every replay
`KernelNetwork.ready` looks after it as above. In a graph that somebody else captures every pass
makes it again.

A weight in memory of another order or type, which a user gave it, is put right in every pass by a
launch of its own.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convdsl.kernels.cast import cast
from convdsl.runtime.support import Network, parameters_of
from convdsl.runtime.tensor_table import Table, launch

#: elements from one start in the flat copy to the next: what a line of memory holds
LINE = 64


class Watched(nn.Parameter):
    """A parameter whose ``data`` shares its version, so that edits through it are seen."""

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, tensor: Tensor) -> None:
        Tensor.data.__set__(self, tensor)  # type: ignore[attr-defined]
        torch.autograd.graph.increment_version(self)


def logical(stored: Tensor, order: tuple[int, ...]) -> Tensor:
    """The tensor whose axes, taken in this order, are those of ``stored``."""
    return stored.permute([order.index(axis) for axis in range(len(order))])


def lies(weight: Tensor, order: tuple[int, ...]) -> bool:
    """Whether its axes lie in memory in this order, without gaps."""
    return weight.permute(order).is_contiguous()


class Copies:
    """The flat copy of a network's weights in another type; see the module's docstring."""

    def __init__(
        self,
        weights: Sequence[Tensor],
        orders: Sequence[tuple[int, ...]],
        replaced: "Copies | None" = None,
    ) -> None:
        self.weights, self.orders = list(weights), orders
        self.flat: Tensor | None = None
        self.views: list[Tensor] = []
        #: where each weight lay, and its version, when the copy was made
        self.states: list[tuple[int, int]] = []
        self.sure = [False] * len(self.weights)
        #: an optimiser of ours steps some; a weight has a second copy, so that nothing is sure
        self.stepped = False
        self.shared: bool = replaced is not None and replaced.shared
        for number, weight in enumerate(self.weights):
            if isinstance(weight, nn.Parameter):
                older = weight.__dict__.get("kernel_copy")
                if older and older.copies is not replaced:
                    older.copies.share()
                    self.share()
                weight.__dict__["kernel_copy"] = Half(self, number)

    def read(self, dtype: torch.dtype, *, surely: bool = False) -> list[Tensor]:
        """Views of the copy in ``dtype``, brought up to date. surely: made again in any case."""
        flat = self.flat
        if flat is None or flat.dtype != dtype or flat.device != self.weights[0].device:
            flat = self._allocate(dtype)
        states = [state_of(weight) for weight in self.weights]
        if surely or states != self.states or not all(self.sure):
            self._copy(flat)
            # what a pass saved of other numbers autograd is to refuse, and of the same not
            if states != self.states and self.states:
                torch.autograd.graph.increment_version(flat)
            self.states = states
            for weight in self.weights if self.stepped else ():
                if type(weight) is nn.Parameter:
                    weight.__class__ = Watched
            # what is no parameter is a constant of the program
            seen = (isinstance(w, Watched) or not isinstance(w, nn.Parameter) for w in self.weights)
            self.sure = [sees and not self.shared for sees in seen]
        return self.views

    def _allocate(self, dtype: torch.dtype) -> Tensor:
        starts, size = [], 0
        for weight in self.weights:
            starts.append(size)
            size += -(-weight.numel() // LINE) * LINE
        # not an inference tensor, which nothing could be saved of later
        with torch.inference_mode(False), torch.no_grad():
            flat = torch.empty(size, dtype=dtype, device=self.weights[0].device)
            self.views = [
                logical(flat[start : start + w.numel()].view([w.shape[a] for a in order]), order)
                for w, start, order in zip(self.weights, starts, self.orders, strict=True)
            ]
            self.table = Table(self.weights, 4)
        self.flat, self.starts, self.states = flat, starts, []
        return flat

    def _copy(self, flat: Tensor) -> None:
        rows: list[tuple[Tensor | int, ...]] = []
        for number, (weight, start) in enumerate(zip(self.weights, self.starts, strict=True)):
            if weight.dtype == torch.float32 and lies(weight, self.orders[number]):
                rows.append((weight, start))
            else:
                with torch.no_grad():
                    self.views[number].data.copy_(weight)
        aligned = self.table.hold(rows, capturing=False)
        launch(cast, self.table, {"flat_ptr": flat, "ALIGNED": aligned})

    def share(self) -> None:
        """A weight has a copy elsewhere too, and who writes that one may not know of this."""
        self.shared, self.sure = True, [False] * len(self.weights)

    def given_out(self) -> None:
        """Gradients may follow, and after them a step that nobody tells us of."""
        steps = zip(self.sure, self.weights, strict=True)
        self.sure = [sure and not weight.requires_grad for sure, weight in steps]


def state_of(weight: Tensor) -> tuple[int, int]:
    """Where it lies and its version; inference tensors, which have none, are never `Watched`."""
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version


class Half:
    """Where the copy of one weight lies; what an optimiser of ours finds at the parameter."""

    def __init__(self, copies: "Copies", number: int) -> None:
        self.copies, self.number = copies, number

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ()  # a parameter that is saved takes no network along

    def place(self, parameter: Tensor) -> Tensor | None:
        """Where to write the stepped parameter as well, if anywhere; then say `written`."""
        copies = self.copies
        if copies.flat is None or copies.flat.device != parameter.device or copies.shared:
            return None
        mine = copies.weights[self.number] is parameter
        if not mine or not lies(parameter, copies.orders[self.number]):
            return None
        copies.stepped = True
        if type(parameter) is nn.Parameter:
            parameter.__class__ = Watched
        return copies.views[self.number]

    def written(self, parameter: Tensor) -> None:
        """The copy is that of the parameter as it is now."""
        copies = self.copies
        if copies.states:
            copies.states[self.number] = state_of(parameter)
            copies.sure[self.number] = isinstance(parameter, Watched)


class KernelNetwork(Network):
    """Base of a network on Triton kernels."""

    #: by path: the order in memory of the axes of what has several and kernels read
    WEIGHTS: ClassVar[dict[str, tuple[int, ...]]] = {}
    _copies: Copies | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for weight, order in zip(self._weights(self.tensors()), self.WEIGHTS.values(), strict=True):
            stored = torch.empty_like(weight.permute(order), memory_format=torch.contiguous_format)
            weight.data = logical(stored, order).copy_(weight.data)

    def kernel_weights(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """`WEIGHTS` among the network's ``tensors`` as kernels read them in one pass.

        Their axes are in the order of memory: what a pass saves of them may come back as a copy
        without strides, as ``torch.autograd.graph.save_on_cpu`` makes one.
        """
        weights, orders = self._weights(tensors), self.WEIGHTS.values()
        if all(weight.dtype == dtype for weight in weights):
            ordered = [w.permute(o).contiguous() for w, o in zip(weights, orders, strict=True)]
            return [w.detach() for w in ordered]  # no view to autograd, but of the same version
        copies = self._copies_of(weights)
        alone = weights[0].is_cuda and torch.cuda.is_current_stream_capturing()
        views = copies.read(dtype, surely=alone and not self.in_step)
        if torch.is_grad_enabled():
            copies.given_out()
        return [v.permute(o).detach() for v, o in zip(views, orders, strict=True)]

    def ready(self, dtype: torch.dtype) -> object:
        learned = parameters_of(self)
        weights = [learned[p] if p in learned else self.get_buffer(p) for p in self.WEIGHTS]
        if all(weight.dtype == dtype for weight in weights):
            return None
        copies = self._copies_of(weights)
        return copies.read(dtype)[0].data_ptr()

    def _weights(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Those of `WEIGHTS` among all that the network owns."""
        paths = (*self.TABLE, *self.STATE, *self.CONSTANTS)
        known = dict(zip(paths, tensors, strict=True))
        return [known[path] for path in self.WEIGHTS]

    def _copies_of(self, weights: Sequence[Tensor]) -> Copies:
        made = self._copies
        if made is None or any(w is not c for w, c in zip(weights, made.weights, strict=True)):
            made = self._copies = Copies(weights, tuple(self.WEIGHTS.values()), made)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": None}  # a copy of the network makes its own
