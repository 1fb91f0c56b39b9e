"""Costs, table, explanations and the JSON report, on graphs made by hand and by the compiler."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from convdsl.compiler import Network, compile_text
from convdsl.ir.graph import Node, Value
from convdsl.ops.add import Add
from convdsl.ops.conv import Conv
from convdsl.ops.identity import Identity
from convdsl.ops.maxpool import MaxPool
from convdsl.ops.relu import Relu
from convdsl.passes.plan_memory import plan
from convdsl.report.costs import Costs, measure
from convdsl.report.document import report
from convdsl.report.explain import explain, select
from convdsl.report.quantities import bytes_of, kib, magnitude, pads
from convdsl.report.table import table
from convdsl.report.terminal import Style
from tests.graphs import GraphMaker

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))

LENET = """\
input 32x32x1
net LeNet5 =
    [CONV(k, F=5, P=0) - RELU - POOL]*(k in 6, 16)  :: 5x5x16
  - [FC(n) - RELU]*(n in 120, 84)
  - FC(10), SOFTMAX
"""
VGG16 = """\
input 224x224x3
net VGG16 =
    [(CONV(k)-RELU)*2-POOL]*(k in 64, 128)
  - [(CONV(k)-RELU)*3-POOL]*(k in 256, 512, 512)  :: 7x7x512
  - (FC(4096)-RELU-DROPOUT(0.5))*2 - FC(1000), SOFTMAX
"""


def costs_of(network: Network) -> Costs:
    return measure(network.graph, network.fused)


def shown(network: Network, **options: object) -> str:
    return table(costs_of(network), Style(), file=network.source.name, **options)  # type: ignore[arg-type]


def document(network: Network, **options: object) -> str:
    return report(
        costs_of(network),
        version="0",
        file=network.source.name,
        dtype="fp32",
        warnings=network.warnings,
        **options,  # type: ignore[arg-type]
    )


def test_lenet_has_the_numbers_of_the_lecture() -> None:
    costs = costs_of(compile_text(LENET))
    assert (costs.parameters, costs.macs) == (61_706, 416_520)
    assert [(row.weights, row.biases) for row in costs.rows if row.count] == [
        (150, 6),
        (2400, 16),
        (48000, 120),
        (10080, 84),
        (840, 10),
    ]


def test_vgg16_has_the_numbers_of_the_lecture() -> None:
    costs = costs_of(compile_text(VGG16))
    assert costs.parameters == 138_357_544
    assert costs.macs == 15_470_264_320
    maps = [row for row in costs.rows if row.output.spatial]
    assert maps[-1].field.size == (212, 212)
    assert costs.rows[-1].field.size is None


def test_three_small_windows_see_as_much_as_one_large() -> None:
    costs = costs_of(compile_text("input 9x9x1\nnet a = CONV(1)*3"))
    assert [row.field.size for row in costs.rows] == [(3, 3), (5, 5), (7, 7)]


def test_receptive_field_counts_dilation_stride_and_each_axis() -> None:
    text = "input 64x64x1\nnet a = CONV(1, F=3x5, S=2x1) - CONV(1, F=3, dilation=2)"
    costs = costs_of(compile_text(text))
    assert [(row.field.size, row.field.jump) for row in costs.rows] == [
        ((3, 5), (2, 1)),
        ((11, 9), (2, 1)),
    ]


def test_where_branches_meet_the_larger_receptive_field_counts() -> None:
    make = GraphMaker((2, 8, 8))
    x = make.inputs[0]
    wide = make(Conv(2, (5, 5)), make(Conv(2), x))
    costs = measure(make.graph(make(Add(), make(Relu(), x), wide)))
    assert costs.rows[-1].field.size == (7, 7)


def shared_twice() -> Costs:
    """The same convolution used for a second time."""
    make = GraphMaker((2, 8, 8))
    make(Conv(2), make.inputs[0])
    first = make.build.nodes[0]
    again = Value("again", first.output.type)
    make.build.nodes.append(
        Node(first.op, (first.output,), first.parameters, (again,), first.origin)
    )
    return measure(make.graph(again))


def test_shared_parameters_count_once_and_macs_at_every_use() -> None:
    costs = shared_twice()
    assert [row.shared for row in costs.rows] == [None, 1]
    assert costs.parameters == costs.rows[0].count == 2 * 2 * 9 + 2
    assert costs.parameters == sum(p.value.type.elements for p in costs.graph.parameters)
    assert costs.macs == 2 * costs.rows[0].macs
    assert "shared with #1" in table(costs, Style())


def test_views_store_nothing() -> None:
    make = GraphMaker((2, 4, 4))
    costs = measure(make.graph(make(Relu(), make(Identity(), make.inputs[0]))))
    assert [row.stored for row in costs.rows] == [0, 32]


def test_the_automatic_flattening_is_shown() -> None:
    text = shown(compile_text("input 2@4x4\nnet a = FC(3)"))
    assert "FLATTEN for FC(3)" in text
    assert "2@4x4 -> 32" in text


def test_kernels_are_those_of_the_fused_graph() -> None:
    network = compile_text(LENET)
    kernels = [row.kernel for row in costs_of(network).rows]
    assert kernels[0] is not None
    assert kernels[0][0] == 1
    assert kernels[0] == kernels[1]
    numbers = [kernel[0] for kernel in kernels if kernel]
    assert numbers == sorted(numbers)
    assert costs_of(network).kernels == max(numbers)


def test_table_of_lenet(golden: object) -> None:
    network = compile_text(LENET, name="lenet5.cnn")
    golden(ROOT / "tests" / "golden" / "lenet5.table.txt", shown(network))  # type: ignore[operator]


def test_table_of_vgg16(golden: object) -> None:
    network = compile_text(VGG16, name="vgg16.cnn")
    memory = plan(network.fused, 32)
    golden(  # type: ignore[operator]
        ROOT / "tests" / "golden" / "vgg16.table.txt", shown(network, plan=memory)
    )


def rows_of(text: str) -> list[list[str]]:
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("-----"))
    end = lines.index("", start)
    return [line.split() for line in lines[start + 1 : end]]


def test_equal_repetitions_are_folded_and_flat_unrolls_them() -> None:
    network = compile_text("input 8x8x4\nnet a = (CONV(4) - RELU)*5 - GAP")
    folded, flat = rows_of(shown(network)), rows_of(shown(network, flat=True))
    assert [row[0] for row in folded] == ["1", "2", "11"]
    assert folded[0][1] == "x5" and "3..11" in folded[0]
    assert [row[0] for row in flat] == [str(i) for i in range(1, 12)]


def test_repetitions_that_differ_are_not_folded() -> None:
    network = compile_text("input 8x8x3\nnet a = (CONV(4) - RELU)*3")
    rows = rows_of(shown(network))
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[1] == "x2" for row in rows] == [False, False, True, False]


def test_folds_nest() -> None:
    network = compile_text("input 8x8x4\nnet a = [(CONV(4) - RELU)*3 - CONV(4, F=1)]*2")
    rows = rows_of(shown(network))
    assert [row[0] for row in rows] == ["1", "2", "7"]
    assert rows[0][1:3] == ["x2", "x3"]


def test_folding_loses_no_cost() -> None:
    network = compile_text("input 16x16x4\nnet a = [(CONV(4) - RELU)*3 - POOL]*3")
    costs = costs_of(network)
    from convdsl.report.fold import folded

    lines = folded(costs.rows)
    assert sum(line.times for line in lines) == len(costs.rows)
    assert sum(line.times * line.row.macs for line in lines) > 0
    assert {line.last.number for line in lines} <= {row.number for row in costs.rows}


def test_a_pipe_gets_every_column_and_a_narrow_terminal_what_fits() -> None:
    costs = costs_of(compile_text(VGG16))
    plain = table(costs, Style(width=40), file="<text>")
    assert "= 102,760,448+4,096" in plain
    narrow = table(costs, Style(width=100, terminal=True), file="<text>")
    assert "weights+bias" not in narrow
    assert max(len(line) for line in narrow.split("\n\n")[1].splitlines()) <= 100
    assert "138,357,544" in narrow


def table_part(text: str) -> list[str]:
    return text.split("\n\n")[1].splitlines()


@pytest.mark.parametrize("width", [80, 90, 100, 120, 140, 160])
def test_deep_nets_fit_the_terminal_and_lose_the_least_needed_columns_first(width: int) -> None:
    costs = costs_of(compile_text(VGG16))
    lines = table_part(table(costs, Style(width=width, terminal=True), file="<text>"))
    assert max(map(len, lines)) <= width
    heading = lines[0]
    order = ["line", "KiB", "= fused", "= weights+bias"]
    kept = [word in heading for word in order]
    assert kept == sorted(kept, reverse=True)
    assert all(
        word in heading for word in ("layer", "output", "parameters", "MACs", "RF", "kernel")
    )
    assert any(line.endswith("k10") or " k10 " in line for line in lines)  # a kernel is never cut


def test_several_inputs_and_outputs_are_named_in_the_headline() -> None:
    text = """
input left: 8x8x3
input right: 8x8x3
net both = ADD{ @left | @right } as sum - GAP - FC(2), SOFTMAX
output map = @sum
"""
    first = shown(compile_text(text)).splitlines()[0]
    assert first == "both (<text>): left 8x8x3; right 8x8x3 -> output 2, SOFTMAX; map 8x8x3"


def explained(network: Network, wanted: str) -> str:
    costs = costs_of(network)
    return "\n".join(explain(row, costs.graph.notation) for row in select(costs, wanted))


def test_explanation_as_the_lectures_write_it() -> None:
    text = explained(compile_text(LENET), "1")
    assert "W2 = (W1 - F + 2P)/S + 1 = (32 - 5 + 0)/1 + 1 = 28, H2 likewise" in text
    assert "parameters = (F*F*C1 + 1)*K = (5*5*1 + 1)*6 = 156" in text
    assert "5*5*1 * 28*28*6 = 117,600" in text
    assert "= 1 + 1*(5 - 1)*1 = 5" in text


def test_explanation_of_a_dense_layer() -> None:
    text = explained(compile_text(LENET), "FC(10)")
    assert "parameters = (N1 + 1)*K = (84 + 1)*10 = 850" in text
    assert "MACs = N1*K = 84*10 = 840" in text
    assert "all of the input" in text


def test_explanation_of_uneven_sizes() -> None:
    text = explained(compile_text("input 7x9x1\nnet a = POOL(3, S=3)"), "1")
    assert "W2 = (W1 - F + 2P)/S + 1 = (9 - 3 + 0)/3 + 1 = 3\n" in text
    assert "H2 = (H1 - F + 2P)/S + 1 = (7 - 3 + 0)/3 + 1 = 2.33, rounded down to 2" in text
    text = explained(compile_text("input 8x8x1\nnet a = CONV(1, S=2, P=same, bias=false)"), "1")
    assert "W2 = (W1 - F + P)/S + 1 = (8 - 3 + (0+1))/2 + 1 = 4" in text
    assert "parameters = F*F*C1*K = 3*3*1*1 = 9" in text
    text = explained(compile_text("input 9x9x1\nnet a = CONV(1, P=0, dilation=2)"), "1")
    assert "(9 - (2*(3-1)+1) + 0)/1 + 1 = 5" in text


def test_explanation_of_rounding() -> None:
    text = explained(compile_text("input 1000x8x1\nnet a = POOL(1, S=1000x3, round=ceil)"), "1")
    assert "W2 = (W1 - F + 2P)/S + 1 = (8 - 1 + 0)/3 + 1 = 3.33, rounded down to 3" in text
    assert "one more window would see padding only" in text
    assert "H2 = (H1 - F + 2P)/S + 1 = (1000 - 1 + 0)/1000 + 1 = 1.99, rounded down to 1" in text


def test_layers_are_found_by_number_name_and_text() -> None:
    costs = costs_of(compile_text(LENET))
    assert [row.number for row in select(costs, "3")] == [3]
    assert len(select(costs, "conv")) == 2
    assert len(select(costs, "FC(120)")) == 1
    assert select(costs, "0") == select(costs, "99") == select(costs, "nothing") == []
    path = costs.rows[0].origin.path
    assert path and costs.rows[0] in select(costs, path)


@pytest.mark.parametrize("text", [LENET, VGG16], ids=["lenet", "vgg16"])
def test_json_follows_its_schema_says_the_same_and_is_stable(text: str) -> None:
    network = compile_text(text)
    memory = plan(network.fused, 4)
    first = document(network, plan=memory)
    assert first == document(compile_text(text), plan=memory)
    parsed = json.loads(first)
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(parsed)
    costs = costs_of(network)
    assert f"{parsed['totals']['parameters']:,}" in shown(network)
    assert f"{parsed['totals']['macs']:,}" in shown(network)
    assert parsed["totals"]["parameters"] == sum(
        sum(layer["parameters"].values()) for layer in parsed["layers"]
    )
    assert len(parsed["layers"]) == len(costs.rows)
    assert parsed["training"]["batch"] == 4


def test_json_without_a_batch_has_no_training_plan_and_carries_warnings() -> None:
    network = compile_text("input 7x7x1\nnet a = POOL(3, S=3)")
    parsed = json.loads(document(network))
    Draft202012Validator(SCHEMA).validate(parsed)
    assert parsed["training"] is None
    assert [warning["code"] for warning in parsed["warnings"]] == ["W301"]
    assert parsed["layers"][0]["window"]["padding"] == [[0, 0], [0, 0]]


def test_the_schema_refuses_what_it_should() -> None:
    parsed = json.loads(document(compile_text(LENET)))
    parsed["totals"]["macs"] = -1
    assert not Draft202012Validator(SCHEMA).is_valid(parsed)


def test_branching_graph_by_hand_is_measured_without_fusion() -> None:
    make = GraphMaker((1, 8, 8))
    costs = measure(make.graph(make(MaxPool(), make(Relu(), make.inputs[0]))))
    assert [row.kernel for row in costs.rows] == [None, None]
    assert "kernel" not in table(costs, Style())


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999_999, "999,999"), (1_000_000, "1.00 M"), (86_704_128, "86.7 M"),
     (924_844_032, "925 M"), (1_849_688_064, "1.85 G"), (10**15, "1,000 T")],
)  # fmt: skip
def test_magnitude(number: int, text: str) -> None:
    assert magnitude(number) == text


def test_bytes_and_padding() -> None:
    assert [bytes_of(n) for n in (1, 1000, 1536, 2**20, 2**41)] == [
        "1 byte",
        "1,000 bytes",
        "1.5 KiB",
        "1.0 MiB",
        "2.0 TiB",
    ]
    assert [kib(n) for n in (40, 18_816, 12_845_056)] == ["0.04", "18.4", "12,544"]
    assert [pads(p) for p in (((1, 1), (1, 1)), ((0, 1), (0, 1)), ((1, 1), (2, 3)))] == [
        "1",
        "0+1",
        "1x2+3",
    ]
