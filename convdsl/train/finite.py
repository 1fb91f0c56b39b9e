"""The first loss that is not finite stops a run, and the layer where it began is named."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convdsl.reference import run_forward
from convdsl.train.problem import TrainingError

if TYPE_CHECKING:
    from convdsl.train.lit import LitNetwork

#: steps between two looks at the losses on a device, where each look is a wait
EVERY = 16

#: what to do about numbers that are not finite
HELP = "lower --lr, give --clip 1 or warm up with --warmup; the last good checkpoint is kept"


class Finite:
    """Looks at losses before the step is made; on a device at several at a time."""

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._last: tuple[Any, list[Tensor]] | None = None

    def watch(self, loss: Tensor, lit: "LitNetwork", inputs: list[Tensor], labels: Any) -> None:
        """Take in a step's loss. Raises TrainingError if it or an earlier one is not finite."""
        self._waiting.append(loss.detach())
        self._last = (lit, inputs)
        if not loss.is_cuda or len(self._waiting) >= EVERY:
            self.check()

    def check(self) -> None:
        """Look at what was not looked at yet. Raises TrainingError."""
        if not self._waiting or self._last is None:
            return
        losses, self._waiting = torch.stack(self._waiting), []
        lit, inputs = self._last
        bad = torch.nonzero(~torch.isfinite(losses))
        # all processes stop together, or the others would wait for this one
        if not lit.trainer.strategy.reduce_boolean_decision(len(bad) > 0, all=False):
            return
        if not len(bad):
            raise TrainingError("E430", "the loss of another process is not finite", HELP)
        step = lit.global_step - (len(losses) - 1 - int(bad[0]))
        where = first_not_finite(lit, inputs)
        raise TrainingError(
            "E430",
            f"the loss is {losses[int(bad[0])].item()} at step {step + 1}"
            + (f": {where}" if where else ""),
            HELP,
        )


def first_not_finite(lit: "LitNetwork", inputs: list[Tensor]) -> str:
    """Which input, weight or layer is the first that is not finite, "" if none is found."""
    network: Any = lit.network
    for x, name in zip(inputs, network.INPUTS, strict=True):
        if not bool(torch.isfinite(x).all()):
            return f"the input {name} is not finite"
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weights {name} are no longer finite"
    if lit.compiled is None:
        return ""
    graph = lit.compiled.graph
    places = {p.path: network.get_parameter(p.path) for p in graph.learned}
    others = {p.path: network.get_buffer(p.path) for p in graph.parameters if p.path not in places}
    dtype = network.compute_dtype(inputs[0])
    with torch.no_grad():
        weights = {k: v.detach().to(dtype) for k, v in {**places, **others}.items()}
        values = run_forward(graph, [x.to(dtype) for x in inputs], weights)
    for node in graph.nodes:
        for value in node.outputs:
            if value in values and not bool(torch.isfinite(values[value]).all()):
                layer = node.origin.text or node.op.title
                place = f" ({node.origin.span})" if node.origin.span is not None else ""
                return f"the output of {layer}{place} is the first that is not finite"
    return "all outputs are finite, the loss of them is not"
