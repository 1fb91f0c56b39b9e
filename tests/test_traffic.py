"""The count of `convdsl compile --traffic` is what the interpreter sees the kernels touch.

In half precision, so that what is kept in float32 shows in the bytes.
"""

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import convdsl
from convdsl.cli import main
from convdsl.codegen.launches import Part
from convdsl.codegen.pointers import accesses, functions_of
from convdsl.codegen.traffic import STEP, Move, launch_moves
from convdsl.compiler import Network, compile_text
from convdsl.ir.op import LAYERS
from convdsl.report.traffic import size
from tests.empty_cache import empty_cache
from tests.memory_driver import Touched, watched
from tests.test_train_step import target

BATCH, HALF = 3, 2  # samples, and bytes of an element of the computing type


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    """Generated files go to a folder of their own."""
    with empty_cache():
        yield


def program(shape: str, text: str) -> Network:
    return compile_text(f"input {shape}\nnet Example = {text}\n")


def step(network: Network, *, to_inputs: bool = False, batch: int = BATCH) -> list[Touched]:
    """The launches of one training step; ``to_inputs``: it asks for the inputs' gradients too.

    Without the copy of the weights, which an optimiser of ours would have written.
    """
    model = network.module(device="cpu", target="triton", dtype=torch.float16)
    inputs = [
        torch.randn(batch, *v.type.shape, requires_grad=to_inputs) for v in network.graph.inputs
    ]
    generator = torch.Generator().manual_seed(0)
    labels = tuple(target(o, batch, generator) for o in network.graph.outputs if o.head)
    with watched() as seen:
        loss = model(*inputs, labels) if labels else total(model(*inputs))
        loss.backward()
    return [launch for launch in seen if launch.kernel != "cast"]


def total(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return torch.stack([y.float().sum() for y in tensors]).sum()


def agree(seen: list[Touched], counted: list[Move]) -> None:
    """Launch by launch, to the byte."""
    touched = [(launch.kernel, launch.read, launch.written) for launch in seen]
    moves = [(move.kernel, move.read, move.written) for move in counted]
    wrong = [
        f"{move.of}: {theirs} counted as {ours}"
        for move, theirs, ours in zip(counted, touched, moves, strict=True)
        if theirs != ours
    ]
    assert not wrong, "\n".join(wrong)


NETWORKS = {
    "as LeNet": (
        "13x12x1",
        "[CONV(k, F=3, P=0) - RELU - POOL]*(k in 4, 6) - FC(9) - RELU - DROPOUT - FC(5), SOFTMAX",
    ),
    "as ResNet, with a 1x1 of stride 2 that sees a quarter of the pixels": (
        "3@9x9",
        "CONV(8, bias=false) - BN - RELU - POOL(3, S=2, P=1)"
        " - ADD{ CONV(4, F=1, S=2, bias=false) - BN - RELU - CONV(16, bias=false) - BN"
        " | CONV(16, F=1, S=2, bias=false) - BN } - RELU"
        " - ADD{ CONV(16, bias=false) - BN | ID } - RELU - GAP - FC(5), SOFTMAX",
    ),
    "with more rows than a tile has": (
        "4@10x10",
        "CONV(34, bias=false) - BN - RELU - CONV(9, S=2) - BN - RELU - GAP - FC(3), MSE",
    ),
    "as Xception": (
        "4@8x8",
        "ADD{ RELU - SEPCONV(6, F=3) - BN - POOL(3, S=2, P=1) | CONV(6, F=1, S=2) - BN }"
        " - GAP - FC(4), SOFTMAX",
    ),
    "as GoogLeNet": (
        "3@12x12",
        "CONV(8, F=3) - RELU - LRN - POOL(3, S=2) - CONCAT{ CONV(4, F=1) - RELU"
        " | CONV(3, F=1) - RELU - CONV(5, F=3) - RELU | POOL(3, S=1, P=1) - CONV(2, F=1) - RELU }"
        " - FC(4), SOFTMAX",
    ),
    "as U-Net": (
        "1@16x16",
        "CONV(4) - RELU - CONCAT{ CROP(8) | POOL - CONV(8) - RELU - CROP(4) - UPCONV(4) }"
        " - CONV(4, P=0) - RELU - CONV(2, F=1), SOFTMAX",
    ),
    "as AlphaGo": ("5@7x7", "CONV(8, F=5) - RELU - CONV(1, F=1, bias=position) - FLATTEN, SOFTMAX"),
    "with overlapping pools that leave the rim out": (
        "3@12x13",
        "CONV(6, F=3, S=3) - RELU - POOL(3, S=2) - POOL(1, S=3) - FC(3), SVM",
    ),
    "with all that SOFTMAX can be told": (
        "6",
        "FC(3), SOFTMAX(label_smoothing=0.1, class_weights=(1, 2, 3))",
    ),
    "with a map of yes and no": ("2@4x5", "CONV(2, F=1), SIGMOID"),
    "with numbers": ("5", "FC(2), MSE"),
}


@pytest.mark.parametrize(("shape", "text"), NETWORKS.values(), ids=NETWORKS)
def test_a_training_step_is_counted_to_the_byte(shape: str, text: str) -> None:
    network = program(shape, text)
    agree(step(network), list(launch_moves(network.fused, network.triton, BATCH, HALF)))
    if network.at_once:
        plain = Network(network.source, network.program, network.lowered, ("step_at_once",))
        agree(step(plain), list(launch_moves(plain.fused, plain.triton, BATCH, HALF)))


@pytest.mark.parametrize("batch", [1, 17])
def test_the_count_follows_the_batch(batch: int) -> None:
    network = program("2@6x6", "CONV(33, F=3) - BN - RELU - CONV(4, F=1, S=2) - GAP - FC(3), MSE")
    counted = list(launch_moves(network.fused, network.triton, batch, HALF))
    agree(step(network, batch=batch), counted)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_counted_to_the_byte(name: str) -> None:
    for shape, text in LAYERS[name].examples:
        network = program(shape, text)
        parts = (*STEP, Part.TO_INPUTS)
        counted = list(launch_moves(network.fused, network.triton, BATCH, HALF, parts))
        agree(step(network, to_inputs=True), counted)


def test_passes_that_are_off_show() -> None:
    network = program("3@8x8", "CONV(8) - RELU - POOL - FC(4), SOFTMAX")
    unfused = Network(network.source, network.program, network.lowered, ("fuse_epilogues",))
    counted = list(launch_moves(unfused.fused, unfused.triton, BATCH, HALF))
    agree(step(unfused), counted)
    assert sum(move.total for move in counted) > sum(
        move.total for move in network.traffic(BATCH, "fp16").moves if move.part != "optimiser"
    )


@pytest.mark.parametrize("bound", ["", ", max_norm=1"])
@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_what_happens_to_the_weights_is_counted_to_the_byte(
    name: str, dtype: torch.dtype, bound: str
) -> None:
    """The step behind the first: SGD's own launch, and the copy it cannot be made in."""
    network = program("3@6x6", f"CONV(6, F=3{bound}) - DWCONV - FILTER(sharpen) - FC(5), SOFTMAX")
    model = network.module(device="cpu", target="triton", dtype=dtype)
    optimizer = convdsl.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(2, 3, 6, 6), torch.tensor([0, 4])
    for _ in range(2):
        with watched() as seen:
            model(x, y).backward()
            optimizer.step()
    counted = [m for m in network.traffic(2, name).moves if m.kernel in ("cast", "sgd")]
    found = [launch for launch in seen if launch.kernel in ("cast", "sgd")]
    assert [m.kernel for m in counted] == [launch.kernel for launch in found]
    assert (len(found) == 2) == bool(bound and dtype == torch.float16)
    tables = 80 * len(model.state_dict())  # addresses, rows and numbers, of which little is read
    for move, launch in zip(counted, found, strict=True):
        assert move.written == launch.written
        assert 0 < launch.read - move.read < tables


def test_the_optimiser_reads_three_tensors_and_writes_two_and_the_copy() -> None:
    network = convdsl.compile("networks/lenet5.cnn")
    for name, copied in (("fp32", 0), ("bf16", 2 * 61_470)):  # the weights
        *_, last = network.traffic(1, name).moves
        assert (last.part, last.read, last.written) == (
            "optimiser",
            12 * 61_706,
            8 * 61_706 + copied,
        )


def test_sums_are_those_of_the_kernels() -> None:
    counted = convdsl.compile("networks/lenet5.cnn").traffic(8, "bf16")
    assert list(counted.parts) == ["step", "optimiser"]
    assert counted.total == sum(counted.parts.values()) == counted.read + counted.written
    assert list(convdsl.compile("networks/allconv.cnn").traffic(8).parts) == [
        "forward",
        "loss",
        "backward",
        "optimiser",
    ]
    with pytest.raises(ValueError, match="batch must be at least 1"):
        convdsl.compile("networks/lenet5.cnn").traffic(0)
    with pytest.raises(ValueError, match="dtype must be one of"):
        convdsl.compile("networks/lenet5.cnn").traffic(1, "fp8")


POINTERS = """
def helper(p, q, offsets):
    tl.store(q + offsets, tl.load(p + offsets))

def nest(a_ptr, b_ptr, c_ptr, d_ptr, e_ptr, aux, EPILOGUE):
    moving = a_ptr + 4 * tl.program_id(0)
    rows = moving[:, None]
    for _ in range(3):
        x = tl.load(rows + 1, mask=None).to(tl.float32)
        moving += 2
        rows = moving
    either = b_ptr if x is not None else c_ptr
    tl.store(either + x, EPILOGUE(x, aux, 0))
    helper(q=d_ptr, p=tl.multiple_of(b_ptr, 16), offsets=x)

def hole(acc, aux, seed):
    place = aux[1] + acc
    tl.store(place, acc + tl.load(aux[0] + acc))
    return acc
"""


def test_pointers_are_followed_through_names_helpers_and_epilogues() -> None:
    found = accesses(functions_of(POINTERS), "nest", {"EPILOGUE": "hole"})
    assert found.loads == {"a_ptr", "b_ptr", "aux[0]"}
    assert found.stores == {"b_ptr", "c_ptr", "d_ptr", "aux[1]"}


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(["compile", "networks/lenet5.cnn", *arguments])
    assert isinstance(exit.value.code, int)
    return exit.value.code, *capsys.readouterr()


def test_the_command_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--batch", "8", "--dtype", "bf16", "--traffic")
    counted = convdsl.compile("networks/lenet5.cnn").traffic(8, "bf16")
    code, text, _ = command(capsys, *given)
    assert code == 0 and text.count("samples_pass") == 1
    assert f" {size(counted.total)} = {size(counted.read)} read + " in text
    _, text, _ = command(capsys, *given, "--format", "json")
    document = json.loads(text)["traffic"]
    assert (document["read_bytes"], document["written_bytes"]) == (counted.read, counted.written)
    assert len(document["kernels"]) == len(counted.moves)
    _, text, _ = command(capsys, *given[:-1], "--format", "json")
    assert json.loads(text)["traffic"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--traffic needs the size of a batch: --batch N."),
        (("--batch", "2", "--emit", "ir"), "--traffic goes with neither --emit nor --explain."),
        (("--batch", "2", "--explain", "1"), "--traffic goes with neither --emit nor --explain."),
    ],
)
def test_wrong_use_is_told(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = command(capsys, "--traffic", *options)
    assert code == 2 and message in errors
