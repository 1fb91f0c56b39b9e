"""Another number of classes: the last layer's size is rewritten in the program's own text."""

import re
from dataclasses import replace

from convdsl.compiler import Network, compile_source
from convdsl.source import Source
from convdsl.train.data.parts import Request
from convdsl.train.data.read import read_unchecked
from convdsl.train.data.stream import Stream
from convdsl.train.problem import TrainingError


def replace_head(network: Network, classes: int) -> Network:
    """The program with ``classes`` instead of the scores of its last layer with weights.

    Raises TrainingError if the number does not stand there as such, and CompileError.
    """
    last = next((node for node in reversed(network.graph.nodes) if node.parameters), None)
    span = None if last is None else last.origin.span
    if span is None or span.source.text != network.source.text:
        raise TrainingError("E416", "the last layer stands in no line of this program", _HELP)
    text = span.source.text[span.start : span.end]
    number = re.search(r"\(\s*(?:K\s*=\s*|filters\s*=\s*|[a-z_]+\s*=\s*)?(\d+)", text)
    if number is None:
        raise TrainingError(
            "E416", f"the size of the last layer, {text}, is no plain number", _HELP
        )
    start, end = (span.start + place for place in number.span(1))
    changed = span.source.text[:start] + str(classes) + span.source.text[end:]
    options = network.options
    made = compile_source(Source(network.source.name, changed), options)
    return replace(made, without=network.without)


def class_count(network: Network, data: str, holdout: float, stream: bool = False) -> int:
    """How many classes ``data`` has, whatever the network is made for. Raises TrainingError."""
    inputs = {value.name: value.type.shape for value in network.graph.inputs}
    request = Request(inputs, ("classes", (), None, None), holdout, resize=True, stream=stream)
    found = read_unchecked(data, request)
    if found.classes:
        return len(found.classes)
    if isinstance(found.train, Stream) or isinstance(found.test, Stream):
        raise TrainingError("E413", f"{data} does not name its classes", "leave --stream out")
    labels = found.train.labels
    if labels.is_floating_point() or labels.dim() > 1:
        raise TrainingError("E413", f"the labels of {data} are no classes")
    return int(max(labels.max(), found.test.labels.max())) + 1


_HELP = "make the number of classes a let of the program and set it with -D"
