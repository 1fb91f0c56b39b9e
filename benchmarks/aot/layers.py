"""The registry -> small programs with every layer and head, at sizes that real networks have.

Takes the layers' own examples, with their input made larger, each layer once more between two
convolutions whose kernels it may be fused into, and the heads behind an output they accept. So no
layer is without compiled kernels because no network uses it.
"""

from collections.abc import Iterator

from convdsl.compiler import Network, compile_text
from convdsl.diagnostics import CompileError
from convdsl.ir.op import HEADS, LAYERS

#: by the axes of an example's input: what takes its place; the first that the layer fits
SIZES = {
    0: ("512", "600"),
    1: ("64@512", "60@512"),
    2: ("64@28x28", "60@28x28"),
}
#: between products with wide tiles, where registers are short
BETWEEN = "CONV(128) - {} - CONV(128)"
#: what heads stand behind: scores, a map of scores, a distance
OUTPUTS = (
    ("512", "FC(10)"),
    ("64@28x28", "CONV(21, F=1)"),
    ("512", "DISTANCE{FC(64) | TANH - FC(64)}"),
)
#: arguments that make other kernels of heads
ARGUMENTS = {
    "SOFTMAX": "label_smoothing=0.1, class_weights=(1, 1, 1, 1, 1, 2, 2, 2, 2, 2)",
    "SVM": "p=2",
}


def layer_programs() -> list[tuple[str, Network]]:
    """Compiled programs by the layer or head they are for; some have several."""
    return [*_layers(), *_heads()]


def _layers() -> Iterator[tuple[str, Network]]:
    for name, layer in LAYERS.items():
        for shape, text in layer.examples:
            axes = shape.count("@") + shape.count("x")
            candidates = [_compiled(size, text) for size in (*SIZES[axes], shape)]
            yield name, next(network for network in candidates if network is not None)
        spatial = next((text for shape, text in layer.examples if "x" in shape), None)
        between = _compiled("128@28x28", BETWEEN.format(spatial)) if spatial else None
        if between is not None:
            yield name, between


def _heads() -> Iterator[tuple[str, Network]]:
    for name in HEADS:
        made = [_compiled(shape, f"{text}, {name}") for shape, text in OUTPUTS]
        accepted = [network for network in made if network is not None]
        assert accepted, f"no output of {__name__} suits the head {name}"
        yield from ((name, network) for network in accepted)
    for name, arguments in ARGUMENTS.items():
        yield name, compile_text(f"input 512\nnet Example = FC(10), {name}({arguments})\n")


def _compiled(shape: str, text: str) -> Network | None:
    """None if the program has an error."""
    try:
        return compile_text(f"input {shape}\nnet Example = {text}\n")
    except CompileError:
        return None
