"""Static expansion: what a program becomes, what it is called, and where its shapes flow."""

from pathlib import Path
from types import MappingProxyType

import pytest

from convdsl.diagnostics import CompileError
from convdsl.ir.types import Notation
from convdsl.lower import Lowered, Options, lower
from convdsl.source import Source
from convdsl.syntax.parser import parse, parse_default, parse_shape


def lowered(text: str, **options: object) -> Lowered:
    return lower(parse(Source("net.cnn", text)), Options(**options))  # type: ignore[arg-type]


def layers(text: str, **options: object) -> list[str]:
    return [node.origin.text for node in lowered(text, **options).graph.nodes]


def paths(text: str) -> list[str]:
    """Paths of the layers that have parameters."""
    keys = [parameter.path for parameter in lowered(text).graph.parameters]
    return [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]


def codes(text: str, **options: object) -> list[str]:
    with pytest.raises(CompileError) as caught:
        lowered(text, **options)
    return [d.code for d in caught.value.diagnostics if d.is_error]


def warnings(text: str, **options: object) -> list[str]:
    return [d.code for d in lowered(text, **options).warnings]


def output(text: str, **options: object) -> str:
    graph = lowered(text, **options).graph
    return graph.notation.show(graph.outputs[0].value.type)


PATTERN = "[(CONV-RELU)*N-POOL]*M-(FC-RELU)*K, SOFTMAX"


def test_the_bare_pattern() -> None:
    found = lowered(
        PATTERN,
        lets={"N": 2, "M": 2, "K": 1},
        inputs=parse_shape("32x32x3"),
        defaults=(parse_default("CONV(K=16)"), parse_default("FC(10)")),
    )
    texts = [node.origin.text for node in found.graph.nodes]
    assert texts == [*["CONV", "RELU", "CONV", "RELU", "POOL"] * 2, "FC", "FC", "RELU"]
    assert found.graph.outputs[0].value.type.shape == (10,)
    assert found.graph.outputs[0].head is not None
    assert [d.code for d in found.warnings] == ["W305"]
    assert found.uses.lets == {"N": 2, "M": 2, "K": 1}


def test_the_bare_pattern_says_what_it_lacks() -> None:
    shape = parse_shape("8x8x3")
    assert codes("(CONV-RELU)*N") == ["E221", "E202", "E205"]
    assert codes("RELU*N", lets={"M": 2, "N": 1}, inputs=shape) == ["E227"]
    assert codes("net a = RELU", lets={"N": 1}, inputs=shape) == ["E227"]
    assert layers("RELU*N", lets={"N": 2}, inputs=shape) == ["RELU", "RELU"]


def test_values_are_shown_where_names_were_written() -> None:
    text = "input 9x9x3\nlet k = 6\nnet a = CONV(k, F = 5,P=half) - POOL(3x3, round=ceil) - RELU"
    assert layers(text) == ["CONV(6, F=5, P=half)", "POOL(3x3, round=ceil)", "RELU"]


def test_lets_are_overridden() -> None:
    text = "input 8x8x3\nlet a = 2\nlet b = a * 3\nnet n = CONV(b)"
    assert output(text) == "8x8x6"
    assert output(text, lets=MappingProxyType({"a": 4})) == "8x8x12"
    assert output(text, lets={"b": 5}) == "8x8x5"


def test_defaults_hold_from_their_line_on_and_only_in_part() -> None:
    text = """
    input 8x8x3
    block before = CONV(2)
    default CONV(5, P=0)
    default CONV(K=7)
    block after = CONV - CONV(3, P=1)
    net a = before - after
    """
    shapes = [node.output.type.shape for node in lowered(text).graph.nodes]
    assert shapes == [(2, 8, 8), (7, 6, 6), (3, 6, 6)]


def test_loops_zip_and_count() -> None:
    assert layers("input 9x9x1\nnet a = CONV(k, F=f)*(k, f in (4, 3), (8, 1))") == [
        "CONV(4, F=3)",
        "CONV(8, F=1)",
    ]
    assert layers("input 9x9x1\nnet a = CONV(k)*(k in 2, 4 .. 6)") == [
        f"CONV({k})" for k in (2, 4, 5, 6)
    ]
    assert layers("input 9x9x1\nnet a = CONV(4, P=p)*(p in same, half, (0, 1))")[1:] == [
        "CONV(4, P=half)",
        "CONV(4, P=0x1)",
    ]


def test_conditions_keep_leave_out_and_choose() -> None:
    text = "input 8x8x3\nlet deep = {}\nnet a = CONV(4) - RELU?(deep) - (POOL)?(not deep) else GAP"
    assert layers(text.format("true")) == ["CONV(4)", "RELU", "GAP"]
    assert layers(text.format("false")) == ["CONV(4)", "POOL"]
    per_turn = "input 8x8x3\nnet a = (CONV(k) - POOL?(k > 4))*(k in 4, 8)"
    assert layers(per_turn) == ["CONV(4)", "CONV(8)", "POOL"]


def test_shapes_flow_into_expressions() -> None:
    text = """
    input 3@8x6
    net a = CONV(2 * @.C) as first - POOL - FC(@.H * @.W) - FC(@first.C + @first.H // 3)
    """
    assert layers(text)[0] == "CONV(6)"
    assert [n.output.type.shape for n in lowered(text).graph.nodes][-2:] == [(12,), (8,)]


def test_residual_block_projects_only_where_needed() -> None:
    text = """
    input 4@8x8
    block unit(w, s=1) = ADD{
        CONV(w, S=s, P=same) - RELU - CONV(w)
      | CONV(w, 1, S=s, P=same)?(s != 1 or @.C != w)
    } - RELU
    net a = unit(4) - unit(8, s=2) - unit(w=8)
    """
    found = paths(text)
    assert found == [
        "unit.add.0.conv",
        "unit.add.0.conv2",
        "unit2.add.0.conv",
        "unit2.add.0.conv2",
        "unit2.add.1.conv",
        "unit3.add.0.conv",
        "unit3.add.0.conv2",
    ]
    assert output(text) == "8@4x4"


def test_choosing_between_two_bodies() -> None:
    text = """
    input 4@8x8
    block body(c, s) = CONV(c, S=s, P=same)
    block unit(c, s) = ADD{ body(c, s) | ID }?(s == 1 and @.C == c) else body(c, s)
    net a = unit(4, 1) - unit(8, 2)
    """
    assert paths(text) == ["unit.add.0.body.conv", "unit2.body.conv"]


def test_two_inputs_share_a_module() -> None:
    text = """
    input left: 1@9x9
    input right: 1@9x9
    module tower = (CONV(4) - RELU)*2 - GAP
    block twice = ADD{ @left - tower | @right - tower }
    net a = twice - FC(2)
    """
    graph = lowered(text).graph
    assert [p.path for p in graph.parameters] == [
        "tower.stack.0.conv.weight",
        "tower.stack.0.conv.bias",
        "tower.stack.1.conv.weight",
        "tower.stack.1.conv.bias",
        "fc.weight",
        "fc.bias",
    ]
    assert [value.name for value in graph.inputs] == ["left", "right"]
    convolutions = [node for node in graph.nodes if node.origin.text == "CONV(4)"]
    assert len(convolutions) == 4
    assert convolutions[0].parameters == convolutions[2].parameters
    assert convolutions[0].output != convolutions[2].output


def test_outputs_may_stand_before_the_net_and_use_its_tags() -> None:
    text = """
    input 8x8x3
    output aux = @mid - FC(5), SOFTMAX
    net a = CONV(4) as mid - POOL - FC(10), SOFTMAX
    """
    graph = lowered(text).graph
    assert [(o.name, o.value.type.shape) for o in graph.outputs] == [
        ("output", (10,)),
        ("aux", (5,)),
    ]
    assert "aux.fc.weight" in [p.path for p in graph.parameters]


def test_flattening_shows_as_the_layer_that_asked_for_it() -> None:
    nodes = lowered("input 4x4x2\nnet a = FC(5) - FC(6)").graph.nodes
    assert [node.output.type.shape for node in nodes] == [(32,), (5,), (6,)]
    assert nodes[0].origin == nodes[1].origin
    assert nodes[0].output.name == "fc_flatten"


def test_the_notation_is_that_of_the_input() -> None:
    assert lowered("input 3@4x5\nnet a = RELU").graph.notation is Notation.CHW
    assert lowered("input 4x5x3\nnet a = RELU").graph.notation is Notation.HWC
    assert output("input 7x7x3\nnet a = RELU", inputs=parse_shape("3@8x9")) == "3@8x9"
    assert output("input 12\nnet a = FC(3)") == "3"


# Names


def test_paths_count_from_two_within_a_scope() -> None:
    text = """
    input 8x8x2
    block cr(k) = CONV(k) - RELU
    net a = CONV(2) - CONV(2) as first - CONV(2) - cr(2) - cr(2)*2 - (CONV(2) - RELU)*2 - CONV(2)*1
        - (CONV(2) - CONV(2)) as pair - cr(3) as last - [cr(2)]*2
    """
    assert paths(text) == [
        "conv",
        "first",
        "conv2",
        "cr.conv",
        "cr2.0.conv",
        "cr2.1.conv",
        "stack.0.conv",
        "stack.1.conv",
        "stack2.0.conv",
        "pair.conv",
        "pair.conv2",
        "last.conv",
        "cr3.0.conv",
        "cr3.1.conv",
    ]


@pytest.mark.parametrize(
    "extra", ["RELU", "POOL(1)", "CONV(2) as extra", "(RELU)*3", "ID", "POOL(1)*2"]
)
def test_inserting_another_kind_renames_nothing(extra: str) -> None:
    text = "input 8x8x2\nnet a = CONV(2) - {}(CONV(2) as deep - CONV(2) - FC(4)) - FC(2)"
    before = [p.path for p in lowered(text.format("")).graph.parameters]
    after = [p.path for p in lowered(text.format(f"{extra} - ")).graph.parameters]
    assert [path for path in after if not path.startswith("extra")] == before


def test_values_have_identifiers_of_their_own() -> None:
    text = """
    input 8x8x2
    block lambda(k) = CONV(k)
    net class = CONV(2) as if - lambda(2) - CONV(2) as tl - CONV(2) as seed - CONV(2) as lambda_conv
    """
    try:
        graph = lowered(text).graph
    except CompileError as error:  # the grammar may keep some of these words for itself
        pytest.fail(str(error))
    names = [v.name for n in graph.nodes for v in n.outputs] + [
        p.value.name for p in graph.parameters
    ]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    assert not {"if", "lambda", "tl", "seed"} & set(names)


def test_a_tag_does_not_take_a_name_in_use() -> None:
    assert codes("input 8x8x2\nnet a = CONV(2) - CONV(2) - CONV(2) as conv2") == ["E207"]
    assert paths("input 8x8x2\nnet a = CONV(2) as conv2 - CONV(2) - CONV(2)") == [
        "conv2",
        "conv",
        "conv3",
    ]


def test_frames_come_from_the_outside_in() -> None:
    text = "input 8x8x2\nblock cr(k, f=3) = CONV(k, f)\nnet a = (cr(2) - RELU)*2"
    frames = lowered(text).graph.nodes[2].origin.frames
    assert [frame.text for frame in frames] == ["repetition 2 of 2", "cr(k=2, f=3)"]
    assert frames[0].repetition == (2, 2)
    assert frames[0].span.text == "(cr(2) - RELU)*2"
    assert frames[1].span.text == "cr(2)"


# Findings


def test_every_error_is_found_in_one_run() -> None:
    text = """
    input 8x8x3
    block unused(k) = CONV(k, strid=2) - POOLL
    net a = CONV(4, F=11, P=0) - CONV(8, F=99, P=0) :: 3x3x3
    output b = FC(3) - CONV(4)
    output c = ADD{ CONV(4, F=9, P=0) | CONV(5, Q=1) | POOL(99) }, SOFTMX
    """
    found = codes(text)
    assert found == ["E201", "E200", "E212", "E214", "E212", "E201", "E212", "E215"]


def test_nothing_is_said_of_what_follows_from_an_error() -> None:
    text = """
    input 8x8x3
    net a = CONV(4, F=9, P=0) as e - POOL(@.H) - CONCAT{ @e | CONV(@e.C) } - FC(3) :: 4, SOFTMAX
    output b = @e - FC(2)
    """
    assert codes(text) == ["E212"]


def test_a_repeated_error_is_said_once() -> None:
    text = "input 8x8x3\nblock b = CONV(2, F=9, P=0)\nnet a = CONCAT{ b | b | b*3 }"
    assert codes(text) == ["E212"]


def test_tags_are_seen_in_their_own_repetition_only() -> None:
    inside = "input 8x8x3\nnet a = (CONV(3) as t - ADD{ ID | @t })*2"
    assert [n.origin.path for n in lowered(inside).graph.nodes][3:] == [
        "stack.1.t",
        "stack.1.add.0.id",
        "stack.1.add",
    ]
    assert codes("input 8x8x3\nnet a = CONV(3) as t*2 - ADD{ ID | @t }") == ["E206"]
    assert codes("input 8x8x3\nnet a = ADD{ ID | @t } - CONV(3) as t") == ["E206"]
    block = "input 8x8x3\nblock b = ADD{ ID | @t }\nnet a = CONV(3) as t - b"
    assert codes(block) == ["E206"]


def test_strict_refuses_what_is_warned_of_otherwise() -> None:
    text = "input 7x7x3\nnet a = CONV(2, F=3, S=3, P=0)"
    (warning,) = lowered(text).warnings
    assert warning.code == "W301"
    assert warning.message == "(7-3+0)/3+1 = 2.33: drops 1 column and 1 row"
    assert codes(text, strict=True) == ["E224"]
    assert warnings("input 7x7x3\nnet a = POOL(2, round=ceil)") == []


def test_softmax_under_its_head() -> None:
    assert codes("input 8\nnet a = FC(3) - SOFTMAX, SOFTMAX") == ["E216"]
    assert warnings("input 8\nnet a = FC(3) - SOFTMAX") == []


def test_imports_need_a_root(tmp_path: Path) -> None:
    assert codes('import "b.cnn" (b)\ninput 8\nnet a = b') == ["E301"]


def test_dropouts_draw_different_numbers() -> None:
    graph = lowered("input 8\nnet a = FC(4) - [DROPOUT]*2 - FC(4) - DROPOUT - FC(2)").graph
    salts = [node.op.salt for node in graph.nodes if hasattr(node.op, "salt")]
    assert len(set(salts)) == 3


def test_names_of_module_attributes_are_kept_free() -> None:
    import torch

    from convdsl.lower.scope import MODULE_ATTRIBUTES
    from convdsl.runtime.support import Network

    taken = {*dir(torch.nn.Module()), *dir(Network), "dtype", "layout"}
    assert {name for name in taken if not name.startswith("_")} <= MODULE_ATTRIBUTES
    assert paths("input 8\nblock train(n) = FC(n)\nnet a = train(3) - FC(2) as half") == [
        "train_.fc",
        "half_",
    ]


@pytest.mark.parametrize(
    ("layer", "side", "remarks"),
    [
        ("CONV(2, F=7, S=2, P=3)", 224, 0),  # only a column of zeros is left out
        ("CONV(2, F=1, S=2, P=0)", 32, 0),  # every second column is left out anyway
        ("CONV(2, F=3, S=3, P=0)", 7, 1),  # the lectures' "doesn't fit"
        ("POOL", 7, 1),
        ("POOL(2, round=ceil)", 7, 0),
        ("CONV(2, F=1, S=3, P=0)", 33, 0),
    ],
)
def test_only_a_loss_of_pixels_is_remarked_upon(layer: str, side: int, remarks: int) -> None:
    text = f"input {side}x{side}x1\nnet a = {layer}"
    assert warnings(text).count("W301") == remarks
    if layer == "CONV(2, F=7, S=2, P=3)":
        assert codes(text, strict=True) == ["E224"]


def test_a_note_that_fails_for_another_input_says_so() -> None:
    program = parse(Source("net.cnn", "input 8x8x3\nnet a = POOL :: 4x4x3"))
    with pytest.raises(CompileError) as caught:
        lower(program, Options(inputs=parse_shape("16x16x1")))
    (found,) = caught.value.diagnostics
    assert found.code == "E211" and "own input" in (found.help or "")


NOTES = """input 3@8x8
net a = CONV(4) :: 4@8x8 - POOL :: 4@4x4 as map
  - FLATTEN :: 64 - RELU :: 64 - FC(10) :: 10 - CONCAT{ ID | RELU } :: 20
output b = @map - CONCAT{ GAP :: 4 | GMP } :: 8 - RELU :: 8
output c = @map - CONCAT{ GAP | FLATTEN } :: 68
"""


@pytest.mark.parametrize("other", ["3@8x12", "3@3x2", "30x28x3"])
def test_sizes_in_notes_are_those_of_the_files_own_input(other: str) -> None:
    assert output(NOTES) == "20"
    assert output(NOTES, inputs=parse_shape(other)) == "20"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (":: 4@8x8", ":: 5@8x8"),
        (":: 4@8x8", ":: 4@8"),
        (":: 4@4x4", ":: 4"),
        ("FLATTEN :: 64", "FLATTEN :: 64@1x1"),
        (":: 10", ":: 11"),
        (":: 20", ":: 10"),
        (":: 4 |", ":: 5 |"),
        (":: 8 -", ":: 9 -"),
        ("RELU :: 8\n", "RELU :: 9\n"),
    ],
)
def test_channels_and_axes_in_notes_hold_for_every_input(right: str, wrong: str) -> None:
    assert right in NOTES
    text = NOTES.replace(right, wrong)
    assert codes(text) == codes(text, inputs=parse_shape("3@10x8")) == ["E211"]


def test_the_files_own_input_given_again_is_no_other_one() -> None:
    text = NOTES.replace(":: 4@8x8", ":: 4@9x9")
    assert codes(text, inputs=parse_shape("8x8x3")) == codes(text) == ["E211"]
    assert output(text, inputs=parse_shape("9x9x3")) == "20"


def test_notes_of_a_file_without_input_are_held_to_all_sizes() -> None:
    text = "net a = CONV(4) :: 4@8x8"
    assert output(text, inputs=parse_shape("3@8x8")) == "4@8x8"
    assert codes(text, inputs=parse_shape("3@9x9")) == ["E211"]


def test_the_length_of_an_input_vector_is_a_size() -> None:
    text = "input 12 net a = RELU :: 12 - FC(3) :: 3 - BN :: 3"
    assert output(text, inputs=parse_shape("7")) == "3"
    assert codes(text.replace("BN :: 3", "BN :: 4"), inputs=parse_shape("7")) == ["E211"]
