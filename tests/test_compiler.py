"""The Python face of the compiler: `compile_text`, `Network` and their argument checks."""

import json

import pytest

import convdsl
from convdsl.pipeline import OPTIONAL

TEXT = "input 8x8x1\nlet n = 10\nnet Small = CONV(4) - RELU - POOL - FC(n), SOFTMAX"


def test_a_network_tells_its_figures() -> None:
    net = convdsl.compile_text(TEXT)
    assert net.name == "Small"
    assert net.parameters_count == 40 + 64 * 10 + 10
    assert net.macs == 8 * 8 * 4 * 9 + 64 * 10
    assert repr(net) == "<Network Small: 8x8x1 -> 10, 690 parameters>"
    assert net.to_dict()["totals"]["parameters"] == net.parameters_count
    assert json.loads(net.to_json(batch=4))["training"]["batch"] == 4
    assert "690" in net.table(batch=4, dtype="bf16", flat=True)


def test_lets_input_and_defaults_are_taken_from_python() -> None:
    assert convdsl.compile_text(TEXT, n=3).graph.outputs[0].value.type.shape == (3,)
    wide = convdsl.compile_text(TEXT, input="1@16x16")
    assert wide.graph.inputs[0].type.shape == (1, 16, 16)
    bare = "[(CONV-RELU)*2-POOL]*2-FC(10), SOFTMAX"
    for defaults in ("CONV(K=4)", ["CONV(K=4)"]):
        net = convdsl.compile_text(bare, input="8x8x1", defaults=defaults)
        assert net.graph.parameters[0].value.type.shape == (4, 1, 3, 3)


def test_a_failed_compilation_carries_its_diagnostics() -> None:
    with pytest.raises(convdsl.CompileError, match=r"<text>:1:23: E200: no layer") as caught:
        convdsl.compile_text("input 8x8x1 net Bad = CONVV(4)")
    (finding,) = caught.value.diagnostics
    assert finding.help == "did you mean CONV?"


def test_wrong_arguments_are_value_errors() -> None:
    net = convdsl.compile_text(TEXT)
    with pytest.raises(ValueError, match="one of fp32, bf16, fp16, got 'fp64'"):
        net.table(dtype="fp64")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        net.plan(0)
    with pytest.raises(ValueError, match="no stage 'ptx'"):
        net.emit("ptx")


def test_every_stage_has_a_text() -> None:
    net = convdsl.compile_text(TEXT)
    assert "Net keyword='net' name='Small'" in net.emit("ast")
    assert net.emit("ir").startswith("graph Small")
    assert "conv_relu_maxpool" in net.emit("fused")
    assert "@triton.jit" in net.emit("triton")
    assert "F.conv2d" in net.emit("torch")


def test_passes_can_be_chosen() -> None:
    text = "input 8@4x4 net A = CONV(8) - BN - RELU - CONV(8, 1)"
    assert convdsl.compile_text(text).without == ()
    assert convdsl.compile_text(text, passes=sorted(OPTIONAL)).without == ()
    one = convdsl.compile_text(text, passes=["fuse_epilogues"])
    assert set(one.without) == OPTIONAL - {"fuse_epilogues"}
    assert len(one.fused.all_nodes) > len(convdsl.compile_text(text).fused.all_nodes)


@pytest.mark.parametrize(
    ("name", "why"), [("fuse", "is no pass"), ("differentiate", "always runs")]
)
def test_a_pass_that_cannot_be_chosen_is_named(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{name} {why}; those that may be left out: choose_tiles"):
        convdsl.compile_text("input 8@4x4 net A = RELU", passes=[name])
