"""Label smoothing (Szegedy et al., 2015) from outside the program: its heads are given it."""

from dataclasses import replace
from typing import Any

from convdsl.compiler import Network
from convdsl.train.problem import TrainingError

#: where the user names no amount
DEFAULT = 0.1


def smoothed(network: Network, amount: float | None) -> Network:
    """The network with ``amount`` in every head that can smooth its labels.

    None: `DEFAULT` in heads that can and have none of their own. Raises TrainingError if an amount
    was given and no head can smooth.
    """
    graph, able = network.graph, False
    outputs = []
    for output in graph.outputs:
        head: Any = output.head
        if hasattr(head, "label_smoothing"):
            able = True
            own = head.label_smoothing
            share = (own or DEFAULT) if amount is None else amount
            output = replace(output, head=replace(head, label_smoothing=share))
        outputs.append(output)
    if not able and amount:
        raise TrainingError("E416", "no head of this network smooths labels", "leave it out")
    lowered = replace(network.lowered, graph=replace(graph, outputs=tuple(outputs)))
    return replace(network, lowered=lowered)
