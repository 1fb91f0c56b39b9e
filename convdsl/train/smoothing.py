"""Label smoothing (Szegedy et al., 2015) from outside the program: its heads are given it."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from convdsl.compiler import Network
from convdsl.train.problem import TrainingError

N = TypeVar("N")


def smoothed(network: N, amount: float) -> N:
    """The network with ``amount`` in every head that can smooth its labels.

    Raises TrainingError if none can.
    """
    if not isinstance(network, Network):
        raise TrainingError(
            "E416", "label smoothing is compiled in", "pass the .cnn file instead of a module"
        )
    graph, changed = network.graph, False
    outputs = []
    for output in graph.outputs:
        head = output.head
        if is_dataclass(head) and any(f.name == "label_smoothing" for f in fields(head)):
            smooth: Any = head
            output = replace(output, head=replace(smooth, label_smoothing=amount))
            changed = True
        outputs.append(output)
    if not changed:
        raise TrainingError("E416", "no head of this network smooths labels", "leave it out")
    lowered = replace(network.lowered, graph=replace(graph, outputs=tuple(outputs)))
    return replace(network, lowered=lowered)
