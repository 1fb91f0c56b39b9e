"""The part every generated network has in common; code generation copies it into each file.

Imports torch only, and what is copied along, so that a copy stands alone.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convdsl.runtime.labels import LabelSpec, assign_labels, check_labels
from convdsl.runtime.training_step import TrainingStep

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


def parameters_of(
    module: nn.Module, scope: str = "", found: dict[str, nn.Parameter] | None = None
) -> dict[str, nn.Parameter]:
    """Parameters by path, shared ones under each of theirs; ``found``, with them put in.

    What ``named_parameters`` gives, in less time: every call of a network needs it.
    """
    found = {} if found is None else found
    for name, parameter in module._parameters.items():
        if parameter is not None:
            found[scope + name] = parameter
    for name, child in module._modules.items():
        if child is not None:
            parameters_of(child, scope + name + ".", found)
    return found


def started(shape: tuple[int, ...], initializer: str, arguments: tuple[float, ...]) -> Tensor:
    """A fresh float32 tensor: ``torch.nn.init.<initializer>``, or the numbers of ``values``."""
    tensor = torch.empty(shape, dtype=torch.float32)
    if initializer == "values":
        tensor.view(-1, len(arguments)).copy_(torch.tensor(arguments))
    else:
        getattr(nn.init, initializer)(tensor, *arguments)
    return tensor


def check_input(x: Tensor, name: str, shape: Sequence[int], layout: str) -> Tensor:
    """``x`` as (N, C, H, W) if it suits a declared shape (C, H, W); ValueError otherwise.

    Sequences are (N, C, L); with ``layout`` NHWC what is given has its channels last.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    last = layout == "NHWC" and len(shape) > 1
    expected = [*shape[1:], shape[0]] if last else list(shape)
    if x.dim() != len(shape) + 1 or list(x.shape[1:]) != expected:
        wanted = ", ".join(str(size) for size in expected)
        advice = ""
        if list(x.shape) == expected:
            advice = "; one sample still needs a batch axis: x.unsqueeze(0)"
        elif x.dim() == len(shape) + 1 and sorted(x.shape[1:]) == sorted(expected):
            order = layout if len(shape) == 3 else layout.replace("HW", "L")
            advice = f"; the network reads {order}, see the layout= argument"
        raise ValueError(f"{name} must have shape (N, {wanted}), got {tuple(x.shape)}{advice}")
    if not x.is_floating_point():
        raise ValueError(
            f"{name} must be floating point, got {x.dtype}; for images: x.float() / 255"
        )
    return x.movedim(-1, 1) if last else x


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
    #: by path: factors of sum |w| and sum w^2 in the loss
    PENALTIES: ClassVar[dict[str, tuple[float, float]]] = {}
    #: by name: outputs nobody sees, and the factors of their sum |y| and sum y^2 in the loss
    HIDDEN: ClassVar[dict[str, tuple[float, float]]] = {}
    #: by path: the greatest norm over all axes but those given
    BOUNDS: ClassVar[dict[str, tuple[float, tuple[int, ...]]]] = {}
    INPUTS: ClassVar[dict[str, tuple[int, ...]]]
    #: samples a batch must have in training, and the layer that needs them
    SMALLEST_BATCH: ClassVar[tuple[int, str]] = (1, "")
    #: name -> shape of one sample; the names of those that only training has
    OUTPUTS: ClassVar[dict[str, tuple[int, ...]]]
    TRAINING_ONLY: ClassVar[frozenset[str]] = frozenset()
    #: named tuple of the outputs, if there are several
    RESULT: ClassVar[Any] = None
    #: a CUDA graph of a whole step is being captured, and `ready` comes before every replay of it
    in_step = False
    #: one backward pass follows, and no other
    once = False
    #: for every output with a head what its labels are
    LABELS: ClassVar[dict[str, LabelSpec]] = {}

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        layout: str = "NCHW",
    ) -> None:
        """layout: ``NCHW`` or ``NHWC``, the axis order of input and output maps.

        Sequences follow it: ``NHWC`` has them as (N, L, C).
        """
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

    def compute_dtype(self, x: Tensor, parameter: Tensor | None = None) -> torch.dtype:
        """What this call computes in. parameter: the first, if the caller has it at hand."""
        if torch.is_autocast_enabled(x.device.type):
            return torch.get_autocast_dtype(x.device.type)
        if parameter is None:
            parameter = next(self.parameters(), None)
        if parameter is None or parameter.dtype == torch.float32:
            return self.dtype
        return parameter.dtype

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Parameters and constants by path, in ``dtype``."""
        weights: dict[str, Tensor] = {**parameters_of(self)}
        for path in self.CONSTANTS:
            weights[path] = self.get_buffer(path)
        if dtype == torch.float32 and all(w.dtype == dtype for w in weights.values()):
            return weights
        return {path: weight.to(dtype) for path, weight in weights.items()}

    def every_parameter(self) -> list[nn.Parameter]:
        """``parameters()`` in less time; shared ones come several times."""
        return list(parameters_of(self).values())

    def memory_format(self, parameters: dict[str, nn.Parameter]) -> torch.memory_format:
        """What maps are brought into, given the network's ``parameters`` by path."""
        return torch.preserve_format

    def tensors(self) -> list[Tensor]:
        """All that the network owns: parameters, running statistics, constants."""
        buffers = [self.get_buffer(path) for path in (*self.STATE, *self.CONSTANTS)]
        return [*(self.get_parameter(path) for path in self.TABLE), *buffers]

    def ready(self, dtype: torch.dtype) -> object:
        """Make ready what a CUDA graph of a step in ``dtype`` takes as given; where that lies."""
        return None

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs, (N, C, H, W) or (N, C), of checked inputs in the computing dtype."""
        raise NotImplementedError

    def losses(self, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
        """The loss of raw outputs against labels: the sum over the heads, by their weights."""
        raise NotImplementedError

    def loss_at_once(self, inputs: list[Tensor], labels: dict[str, Tensor]) -> Tensor | None:
        """The loss by kernels that work out the gradients too, where there are such; else None."""
        return None

    def predictions(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each output's head predicts."""
        return outputs

    def working(self) -> list[str]:
        """Names of the outputs in this mode, in the order of `OUTPUTS`."""
        return [name for name in self.OUTPUTS if self.training or name not in self.TRAINING_ONLY]

    def forward(self, *tensors: Any) -> Any:
        """Raw outputs of the inputs, or the mean loss when labels follow them. Raises ValueError.

        Several outputs come as a named tuple, in which those that only training has are None in
        evaluation; an output that is alone comes as it is. Labels: see `assign_labels`.
        """
        self.constrain()
        count = len(self.INPUTS)
        if len(tensors) not in (count, count + 1):
            wanted = ", ".join(self.INPUTS)
            raise TypeError(f"call the network with ({wanted}) or ({wanted}, labels)")
        inputs = self._checked(tensors[:count])
        if len(tensors) == count:
            return self._result(self._outputs(inputs))
        labels = self._labels(tensors[count], inputs[0])
        outputs: dict[str, Tensor] = {}
        loss = self.loss_at_once(inputs, labels)
        if loss is None:
            outputs = self._outputs(inputs)
            loss = self.losses(outputs, labels)
        if self.PENALTIES:
            loss = loss + self.penalty()
        for name, (l1, l2) in self.HIDDEN.items() if self.training else ():
            y = outputs[name].float()
            loss = loss + (l1 * y.abs().sum() + l2 * y.square().sum()) / len(y)
        return loss

    def training_step(self, optimizer: torch.optim.Optimizer, clip: float = 0.0) -> TrainingStep:
        """``step`` such that ``loss = step(x, y)`` is forward, backward and ``optimizer``'s step.

        clip: the greatest norm that the gradients of all its parameters have together, 0 for any.
        On a CUDA device and with an optimiser of `convdsl.optim`, one CUDA graph. Raises ValueError
        for a network without a head, an optimiser that holds none of its parameters, or a clip
        below 0.
        """
        return TrainingStep(self, optimizer, clip)

    def penalty(self) -> Tensor | float:
        """What the weights' regularisers add to the loss: sums of l1 * |w| + l2 * w^2."""
        total: Tensor | float = 0.0
        for path, (l1, l2) in self.PENALTIES.items():
            weight = self.get_parameter(path).float()
            if l1:
                total = total + l1 * weight.abs().sum()
            if l2:
                total = total + l2 * weight.square().sum()
        return total

    def constrain(self) -> None:
        """Shrink weights whose norm the last step took over its bound; every call does it first.

        Weights within their bounds keep every bit.
        """
        for path, (most, axes) in self.BOUNDS.items():
            weight = self.get_parameter(path).data
            others = [axis for axis in range(weight.dim()) if axis not in axes]
            norm = torch.linalg.vector_norm(weight.float(), dim=others, keepdim=True)
            # projecting once leaves a norm that rounding may put just above
            scale = torch.where(norm > most * (1 + 1e-6), most / norm, 1.0)
            weight.mul_(scale.to(weight.dtype))

    @torch.no_grad()
    def predict(self, *inputs: Tensor) -> Any:
        """Predictions in evaluation mode: for a SOFTMAX head, probabilities."""
        self.constrain()
        training = self.training
        self.eval()
        try:
            return self._result(self.predictions(self._outputs(self._checked(inputs))))
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
        device = checked[0].device
        parameters = parameters_of(self)
        for parameter in parameters.values():
            if parameter.device != device:
                places = f"the input is on {device}, the network on {parameter.device}"
                raise ValueError(f"{places}: move one of them with .to(device)")
        dtype = self.compute_dtype(checked[0], next(iter(parameters.values()), None))
        order = self.memory_format(parameters)
        return [x.to(dtype, memory_format=order) if x.dim() == 4 else x.to(dtype) for x in checked]

    def _outputs(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        names = [*self.working(), *(self.HIDDEN if self.training else ())]
        return dict(zip(names, self.outputs(*inputs), strict=True))

    def _labels(self, y: Any, x: Tensor) -> dict[str, Tensor]:
        if not self.LABELS:
            raise ValueError("the network has no head, so it has no loss to work out from labels")
        heads = [name for name in self.working() if name in self.LABELS]
        if not heads:
            raise ValueError("every head is for training only: call .train() before asking a loss")
        given = assign_labels(y, self.LABELS, heads)
        several = len(self.LABELS) > 1
        return {
            name: check_labels(
                labels, f" of {name}" if several else "", self.LABELS[name], x, self.layout
            )
            for name, labels in given.items()
        }

    def _result(self, outputs: dict[str, Tensor]) -> Any:
        outputs = {k: o for k, o in outputs.items() if k not in self.HIDDEN}
        if self.layout == "NHWC":
            outputs = {k: o.movedim(1, -1) if o.dim() > 2 else o for k, o in outputs.items()}
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        return self.RESULT(*(outputs.get(name) for name in self.OUTPUTS))
