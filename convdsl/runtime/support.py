"""The part every generated network has in common; code generation copies it into each file.

Imports torch only, so that a copy stands alone.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

ParameterTable = dict[str, tuple[tuple[int, ...], str, tuple[float, ...]]]


def owner_of(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that owns the dotted ``path`` below ``root``, made where missing; its name."""
    *scopes, name = path.split(".")
    module = root
    for scope in scopes:
        if scope not in dict(module.named_children()):
            module.add_module(scope, nn.Module())
        module = module.get_submodule(scope)
    return module, name


def started(shape: tuple[int, ...], initializer: str, arguments: tuple[float, ...]) -> Tensor:
    """A fresh float32 tensor: ``torch.nn.init.<initializer>``, or the numbers of ``values``."""
    tensor = torch.empty(shape, dtype=torch.float32)
    if initializer == "values":
        tensor.view(-1, len(arguments)).copy_(torch.tensor(arguments))
    else:
        getattr(nn.init, initializer)(tensor, *arguments)
    return tensor


def check_input(x: Tensor, name: str, shape: Sequence[int], layout: str) -> Tensor:
    """``x`` as (N, C, H, W) if it suits a declared shape (C, H, W); ValueError otherwise."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    expected = list(shape)
    if layout == "NHWC" and len(shape) == 3:
        expected = [shape[1], shape[2], shape[0]]
    if x.dim() != len(shape) + 1 or list(x.shape[1:]) != expected:
        wanted = ", ".join(str(size) for size in expected)
        advice = ""
        if list(x.shape) == expected:
            advice = "; one sample still needs a batch axis: x.unsqueeze(0)"
        elif x.dim() == 4 and len(shape) == 3 and sorted(x.shape[1:]) == sorted(expected):
            advice = f"; the network reads {layout}, see the layout= argument"
        raise ValueError(f"{name} must have shape (N, {wanted}), got {tuple(x.shape)}{advice}")
    if not x.is_floating_point():
        raise ValueError(
            f"{name} must be floating point, got {x.dtype}; for images: x.float() / 255"
        )
    return x.permute(0, 3, 1, 2) if layout == "NHWC" and len(shape) == 3 else x


def check_labels(y: Tensor, x: Tensor, shape: Sequence[int], classes: int) -> None:
    """ValueError unless ``y`` has int64 labels in [0, classes), ``shape`` for each of ``x``."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"labels must be class numbers of dtype torch.int64, got {got}")
    wanted = (len(x), *shape)
    if tuple(y.shape) != wanted:
        raise ValueError(f"labels must have shape {wanted}, got {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"labels are on {y.device}, the input is on {x.device}")
    if y.numel():
        low, high = (int(v) for v in torch.aminmax(y))
        if low < 0 or high >= classes:
            worst = low if low < 0 else high
            raise ValueError(
                f"label {worst} is outside 0..{classes - 1}: the network has {classes} classes"
            )


class Network(nn.Module):
    """Base of a generated network.

    Calling it with its inputs gives logits; with labels behind them, the mean loss.
    Parameters are float32 masters; ``dtype`` is what is computed in. After ``.half()`` and the
    like the parameters' own dtype rules; under ``torch.autocast`` autocast's.
    """

    TABLE: ClassVar[ParameterTable]
    #: buffers: running statistics, and fixed numbers that are not saved
    STATE: ClassVar[ParameterTable] = {}
    CONSTANTS: ClassVar[ParameterTable] = {}
    INPUTS: ClassVar[dict[str, tuple[int, ...]]]
    #: samples a batch must have in training, and the layer that needs them
    SMALLEST_BATCH: ClassVar[tuple[int, str]] = (1, "")
    #: for every output with a head: shape of one sample's labels, number of classes
    LABELS: ClassVar[tuple[tuple[tuple[int, ...], int], ...]] = ()

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        layout: str = "NCHW",
    ) -> None:
        """layout: ``NCHW`` or ``NHWC``, the axis order of input and output maps."""
        super().__init__()
        if layout not in ("NCHW", "NHWC"):
            raise ValueError(f"layout must be NCHW or NHWC, got {layout!r}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be floating point, got {dtype}")
        self.dtype = dtype
        self.layout = layout
        for path, row in self.TABLE.items():
            module, name = owner_of(self, path)
            module.register_parameter(name, nn.Parameter(started(*row).to(device)))
        for table, saved in ((self.STATE, True), (self.CONSTANTS, False)):
            for path, row in table.items():
                module, name = owner_of(self, path)
                module.register_buffer(name, started(*row).to(device), persistent=saved)

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """What this call computes in."""
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)
        parameter = next(self.parameters(), None)
        if parameter is None or parameter.dtype == torch.float32:
            return self.dtype
        return parameter.dtype

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Parameters and constants by path, in ``dtype``."""
        learned = {path: self.get_parameter(path).to(dtype) for path in self.TABLE}
        return learned | {path: self.get_buffer(path).to(dtype) for path in self.CONSTANTS}

    def tensors(self) -> list[Tensor]:
        """All that the network owns: parameters, running statistics, constants."""
        buffers = [self.get_buffer(path) for path in (*self.STATE, *self.CONSTANTS)]
        return [*(self.get_parameter(path) for path in self.TABLE), *buffers]

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs, (N, C, H, W) or (N, C), of checked inputs in the computing dtype."""
        raise NotImplementedError

    def losses(self, outputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """The loss of raw outputs against labels: the sum over the outputs' heads."""
        raise NotImplementedError

    def predictions(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What each output's head predicts."""
        return outputs

    def forward(self, *tensors: Tensor) -> Any:
        """Logits of the inputs, or the mean loss when labels follow them. Raises ValueError."""
        count = len(self.INPUTS)
        if len(tensors) not in (count, count + 1):
            wanted = ", ".join(self.INPUTS)
            raise TypeError(f"call the network with ({wanted}) or ({wanted}, labels)")
        inputs = self._checked(tensors[:count])
        if len(tensors) == count:
            return self._result(self.outputs(*inputs))
        if not self.LABELS:
            raise ValueError("the network has no head, so it has no loss to work out from labels")
        for shape, classes in self.LABELS:
            check_labels(tensors[count], inputs[0], shape, classes)
        return self.losses(self.outputs(*inputs), tensors[count])

    @torch.no_grad()
    def predict(self, *inputs: Tensor) -> Any:
        """Predictions in evaluation mode: for a SOFTMAX head, probabilities."""
        training = self.training
        self.eval()
        try:
            return self._result(self.predictions(self.outputs(*self._checked(inputs))))
        finally:
            self.train(training)

    def _checked(self, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        checked = [
            check_input(x, name, shape, self.layout)
            for x, (name, shape) in zip(tensors, self.INPUTS.items(), strict=True)
        ]
        if len({len(x) for x in checked}) > 1:
            raise ValueError(f"inputs differ in batch size: {[len(x) for x in checked]}")
        smallest, layer = self.SMALLEST_BATCH
        if self.training and 0 < len(checked[0]) < smallest:
            raise ValueError(
                f"{layer} needs more than one value per channel in training, so at least "
                f"{smallest} samples, got {len(checked[0])}: give more, or call .eval() first"
            )
        for parameter in self.parameters():
            if parameter.device != checked[0].device:
                places = f"the input is on {checked[0].device}, the network on {parameter.device}"
                raise ValueError(f"{places}: move one of them with .to(device)")
        dtype = self.compute_dtype(checked[0])
        return [x.to(dtype) for x in checked]

    def _result(self, outputs: tuple[Tensor, ...]) -> Any:
        if self.layout == "NHWC":
            outputs = tuple(o.permute(0, 2, 3, 1) if o.dim() == 4 else o for o in outputs)
        return outputs[0] if len(outputs) == 1 else outputs
