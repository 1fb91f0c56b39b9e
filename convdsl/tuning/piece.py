"""Some nodes of a graph -> a file that runs just these: what is built, checked and timed.

The same text as in the network's own file, in a function of the tensors that the nodes take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convdsl.codegen.launches import (
    SEED,
    EmittedLaunch,
    FunctionBody,
    Kernels,
    local_names,
    orders_of_gradients,
)
from convdsl.codegen.triton_module import DESCRIPTOR
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import updated

IMPORTS = """\
import torch
import triton
import triton.language as tl
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """``run(n, seed, training, *given)`` of the text returns the tensors ``made``, all in memory
    as kernels have them. slices: of what is given, where each value lies that nodes read.
    """

    text: str
    launches: tuple[EmittedLaunch, ...]
    given: tuple[Value, ...]
    made: tuple[Value, ...]

    @property
    def is_random(self) -> bool:
        """A kernel draws random numbers, where the seed is not below 0."""
        return any(launch.arguments.get("seed") is SEED for launch in self.launches)


def piece_of(graph: Graph, nodes: Sequence[Node]) -> Piece:
    """The file of ``nodes``, which stand in the graph in this order."""
    places = graph.places
    inside = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.operands if v not in inside)
    # a wider tensor whose parts others make is given, even if a node here puts it together
    given = tuple(dict.fromkeys(places.root(value) for value in read))
    kept = {new for node in nodes for new in updated(node)} | set(given)
    made = tuple(v for node in nodes for v in node.outputs if v not in kept)
    needed = inside | {v for node in graph.all_nodes for v in node.operands} | graph.results()
    names, kernels, out = local_names(graph), Kernels(), Writer()
    out.call("def run(", ["n", "seed", "training", *(names[v] for v in given)], "):")
    with out.indent():
        out.line(f"new = {names[given[0]]}.new_empty")
        body = FunctionBody(out, kernels, names, needed, orders_of_gradients(graph), places)
        for value in read:
            if places.root(value) != value:
                body.slice(value, places.root(value), places.start(value))
        body.nodes(nodes, set(made))
        out.call("return [", [names[v] for v in made], "]")
    kernels.copier.add("kernels.pointwise", "keep")
    imports = IMPORTS
    if kernels.boxes:
        kernels.copier.add("runtime.triton_support", "boxes")
        imports += f"from collections.abc import Sequence\nfrom torch import Tensor\n{DESCRIPTOR}\n"
    parts = [imports, kernels.epilogue_text, kernels.copier.text, out.text]
    text = "\n\n\n".join(part.strip("\n") for part in parts if part) + "\n"
    return Piece(text, tuple(kernels.launches), given, made)
