"""Ahead-of-time builds of every kernel of every network and layer, against the committed tables.

A table's row names what was compiled by a digest, so a kernel that has changed since is noticed
without compiling. The default run compiles two small networks for one target, `pytest -m slow` a
sample for all.
Where a difference is wanted, --update-golden or ``python -m benchmarks.aot --update`` writes it.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import convdsl.kernels
from benchmarks.aot.describe import describe
from benchmarks.aot.table import (
    OLDER,
    TRITON,
    WIDE,
    Planned,
    Row,
    Rows,
    all_programs,
    differences,
    planned,
    read,
    table_path,
    targets_of,
    violations,
    write,
)
from convdsl.ir.graph import Value
from convdsl.ir.launch import Size
from convdsl.ir.op import HEADS, LAYERS
from convdsl.tuning.build import TARGETS, Facts, Target, build_all, triton_version
from convdsl.tuning.plan import IMPORTS, Argument, Kernel, cut_out, definitions, plan

PROGRAMS = all_programs()
NETWORKS = dict(PROGRAMS)  # of a layer's programs the last
SM_90 = TARGETS["sm_90"]
HINT = "python -m benchmarks.aot --update  rewrites the tables of the Triton that is installed"


@cache
def plans() -> list[Planned]:
    return planned(PROGRAMS)


#: every committed table: its target and its Triton
COMMITTED = [(t, v) for v in (TRITON, *OLDER) for t in targets_of(v)]
TABLES = pytest.mark.parametrize(
    ("target", "triton"), COMMITTED, ids=[f"{t.name}-{v}" for t, v in COMMITTED]
)


def committed(target: Target, triton: str = TRITON) -> Rows:
    path = table_path(target, triton)
    assert path.exists(), f"{path.name} is missing; {HINT}"
    return read(path)


@cache
def nests() -> dict[str, Any]:
    """Every jit function of the kernels by name."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(convdsl.kernels.__path__, "convdsl.kernels."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if hasattr(value, "fn") and value.fn.__module__ == module.name:
                assert name not in found, f"two kernels are called {name}"
                found[name] = value.fn
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_launches_name_real_kernels_and_fill_their_parameters(name: str) -> None:
    launches = [x for n, network in PROGRAMS if n == name for x in network.triton.launches]
    for launch in (inner for x in launches for inner in x.inner or (x,)):
        assert launch.nest in nests(), f"{launch.comment}: no kernel {launch.nest}"
        parameters = inspect.signature(nests()[launch.nest]).parameters
        given = [*launch.arguments, *launch.prologues]
        given += ["EPILOGUE"] if "EPILOGUE" in parameters else []
        assert sorted(given) == sorted(parameters), launch.comment
        for parameter, argument in launch.arguments.items():
            at_run_time = isinstance(argument, Value | Size | tuple)
            constant = "constexpr" in str(parameters[parameter].annotation)
            assert not (at_run_time and constant), f"{launch.comment}: {parameter} is a constant"
            if not constant:
                assert at_run_time or argument is None, f"{launch.comment}: {parameter}"


def test_every_layer_and_head_has_kernels() -> None:
    """Also those that no network uses, and those that only show in others' kernels."""
    seen = {name for plan in plans() for name in plan.networks}
    assert seen >= LAYERS.keys() | HEADS.keys()


def test_networks_share_equal_kernels() -> None:
    users = plan([("a", NETWORKS["lenet5"]), ("b", NETWORKS["lenet5"]), ("a", NETWORKS["lenet5"])])
    assert all(networks == ["a", "b"] for networks in users.values())
    launches = NETWORKS["lenet5"].triton.launches
    # inference and training share those that keep nothing for the backward pass
    assert len(users) < len(launches)


def test_parameters_of_rank_one_are_masters() -> None:
    types = {
        argument.name: argument.kind
        for plan in plans()
        if plan.kernel.nest == "matmul" and "lenet5" in plan.networks
        for argument in plan.kernel.arguments
        if argument.kind != "constexpr"
    }
    assert types["bias_ptr"] == types["row_sum_ptr"] == "*fp32"
    assert types["b_ptr"] == "*bf16"


def test_only_what_always_holds_is_known_of_sizes() -> None:
    known = {
        argument.name: argument
        for plan in plans()
        if plan.kernel.nest == "matmul" and "a[i*25088+k*1] b[k*1" in plan.description
        for argument in plan.kernel.arguments
    }
    assert known["depth"].divisible  # 25088
    assert not known["rows"].divisible  # the batch


def test_a_kernel_is_cut_out_with_all_it_uses_and_nothing_else() -> None:
    text = "A = 1\nB = 2\n\n\ndef f(x):\n    return g(x) + A\n\n\ndef g(x):\n    return x\n"
    cut = cut_out(text, "f")
    assert cut.startswith(IMPORTS)
    assert "A = 1" in cut and "def g" in cut and "B" not in cut


def test_definitions_are_found_whatever_stands_between_them() -> None:
    text = "# head\nA = 1\n\n\nclass C:\n    def f(self):\n        pass\n\n\n# g\ndef g():\n    A\n"
    found = definitions(text)
    assert list(found) == ["A", "g"]
    assert found["g"].uses == {"A"}
    assert definitions(text) is found


def kernel(nest: str, constants: dict[str, Any], **more: Any) -> Kernel:
    """One that is there to be described."""
    arguments = [Argument(name, "constexpr", value) for name, value in constants.items()]
    integers = [Argument("rows", "i32", divisible=True), Argument("x_ptr", "*bf16", divisible=True)]
    return Kernel("", nest, (*arguments, *integers), None, 4, 2, **more)


SQUARE = {"H": 8, "W": 8, "P": 4, "Q": 4, "R": 3, "S": 3, "STRIDE_H": 2, "STRIDE_W": 2}
POOL = {"H": 8, "W": 8, "C": 6, "OH": 4, "OW": 3, "KH": 2, "KW": 2, "SH": 2, "SW": 3}


@pytest.mark.parametrize(
    ("nest", "constants", "text"),
    [
        (
            "depthwise_forward",
            {**SQUARE, "K": 12, "PAD_H": 1, "PAD_W": 1, "DILATION_H": 1, "DILATION_W": 2}
            | {"MULTIPLIER": 2, "bias_ptr": None, "ROWS": 8, "COLS": 16},
            "3x3/2 12 @8x8->4x4 pad 1x1 dilation 1x2 multiplier=2 no bias rows%16 bf16 8x16",
        ),
        (
            "local_forward",
            {**SQUARE, "K": 5, "C": 7, "PAD_H": 0, "PAD_W": 0, "PRECISION": "ieee"}
            | {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 64},
            "3x3/2 7->5 @8x8->4x4 rows%16 bf16 16x32x64",
        ),
        (
            "sum_pool",
            {**POOL, "PT": 0, "PL": 1, "PB": 0, "PR": 2, "COUNT": "map", "NORM": True, "BLOCK": 64},
            "2x2/2x3 6 @8x8->4x3 pad 0x1 pr=2 count=map norm rows%16 bf16 64",
        ),
        (
            "copy_window",
            {"H": 8, "W": 8, "C": 6, "OH": 9, "OW": 4, "TOP": -1, "LEFT": 2, "VALUE": 0.0},
            "6 @8x8->9x4 from -1,2 rows%16 bf16",
        ),
        (
            "bilinear",
            {"H": 2, "W": 2, "C": 6, "OH": 4, "OW": 8, "AH": 2, "BH": -1, "DH": 4}
            | {"AW": 1, "BW": 0, "DW": 7, "ROWS": 4, "COLS": 8},
            "6 @2x2->4x8 (p*2-1, q*1+0)/4x7 rows%16 bf16 4x8",
        ),
        ("channel_sum", {"NEGATIVE": False, "C": 6}, "no negative c=6 rows%16 bf16"),
    ],
)
def test_a_kernel_is_described_by_its_sizes(
    nest: str, constants: dict[str, Any], text: str
) -> None:
    one = kernel(nest, constants)
    assert describe([one]) == {one: f"{nest} {text} w4 s2"}


def test_kernels_that_would_be_described_alike_are_numbered() -> None:
    one, other = kernel("pointwise", {"a": 1}), replace(kernel("pointwise", {"a": 1}), source="x")
    assert sorted(describe([one, other]).values()) == [
        "pointwise a=1 rows%16 bf16 w4 s2 (1)",
        "pointwise a=1 rows%16 bf16 w4 s2 (2)",
    ]


def test_a_difference_is_told_in_words() -> None:
    one = Facts(1, 0, 0)
    before = {"k": Row(Facts(64, 0, 1024), ("a",), "0"), "gone": Row(one, ("a",), "1")}
    before["other"] = Row(one, ("a",), "2")
    after = {"k": Row(Facts(72, 8, 1024), ("a", "b"), "0"), "new": Row(one, ("a",), "1")}
    after["other"] = Row(one, ("a",), "3")
    assert differences(before, after) == [
        "gone: is in the table, but nothing launches it",
        "k: registers from 64 to 72; spills from 0 to 8; networks from a to a, b",
        "new: is launched, but not in the table",
        "other: the kernel is another than the one that was built",
    ]
    assert differences(after, after) == []


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = {'k "1"': Row(Facts(64, 0, 1024, mma_sync=3), ("a", "b"), "0f")}
    path = tmp_path / "table.json"
    path.write_text(write(rows, "3.7.1"), encoding="utf-8")
    assert read(path) == rows


GREEDY = f"""{IMPORTS}
@triton.jit
def greedy(x_ptr, y_ptr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK_M)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :])
    y = tl.dot(x, tl.trans(x)) * tl.dot(x, x)
    tl.store(y_ptr + tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :], y)
"""


def greedy(block: int, kind: str, warps: int) -> Planned:
    """Two products of block x block at once, of operands of this kind."""
    sizes = [Argument(f"BLOCK_{axis}", "constexpr", block) for axis in "MNK"]
    pointers = (Argument("x_ptr", kind), Argument("y_ptr", "*fp32"))
    kernel = Kernel(GREEDY, "greedy", (*pointers, *sizes), None, warps, 1)
    return Planned(kernel, "greedy", ("none",))


@pytest.mark.parametrize(
    ("block", "warps", "target", "complaints"),
    [
        (256, 4, "sm_90", ["spills"]),
        (256, 8, "gfx942", ["spills", "shared memory"]),
        (64, 2, "sm_90", ["does not use wgmma", "uses mma_sync"]),  # a warp group is four warps
        (64, 4, "sm_90", []),
    ],
)
def test_a_kernel_that_wants_too_much_is_noticed(
    block: int, warps: int, target: str, complaints: list[str]
) -> None:
    plan, to = greedy(block, "*bf16", warps), TARGETS[target]
    facts = build_all([(plan.kernel, to)], workers=1)[plan.kernel, to]
    found = violations(plan, to, facts)
    assert len(found) == len(complaints)
    for sentence, complaint in zip(found, complaints, strict=True):
        assert complaint in sentence


def test_what_does_not_compile_is_said() -> None:
    source = GREEDY.replace("tl.trans(x)", "no_such_function(x)")
    kernel = Kernel(source, "greedy", greedy(64, "*bf16", 4).kernel.arguments, None, 4, 1)
    with pytest.raises(RuntimeError, match=r"greedy does not compile for sm_90: .*"):
        build_all([(kernel, SM_90)], workers=1)


@TABLES
def test_the_tables_list_the_kernels_that_are_launched(target: Target, triton: str) -> None:
    table = committed(target, triton)
    # what the facts are is the business of the builds
    launched = {
        p.description: Row(
            table[p.description].facts if p.description in table else Facts(0, 0, 0),
            p.networks,
            p.kernel.digest,
        )
        for p in plans()
    }
    found = differences(table, launched)
    assert not found, "\n".join([*found, HINT])


@TABLES
def test_no_kernel_of_the_tables_wants_too_much(target: Target, triton: str) -> None:
    table = committed(target, triton)
    known = [p for p in plans() if p.description in table]
    assert known
    wrong = [t for p in known for t in violations(p, target, table[p.description].facts)]
    assert not wrong, "\n".join(wrong)


def sides(kernel: Kernel) -> tuple[int, ...]:
    """Sizes of the matrix that a product makes, where they do not depend on the batch."""
    sizes = {a.name: a.value for a in kernel.arguments if isinstance(a.value, int)}
    filters, channels, columns = (sizes.get(name, 0) for name in ("K", "C", "COLUMNS"))
    groups, taps = sizes.get("GROUPS", 1), sizes.get("R", 1) * sizes.get("S", 1)
    known = {
        "conv_forward": (filters // groups,),
        "conv_grad_input": (channels // groups,),
        "conv_grad_weight": (filters // groups, taps * channels // groups),
        "rows_product": (columns,),
        "rows_product_gradient": (filters, channels),
    }
    return known.get(kernel.nest, (0,))


@pytest.mark.parametrize("triton", [TRITON, *OLDER])
def test_large_layers_multiply_by_warp_groups_on_hopper(triton: str) -> None:
    table = committed(SM_90, triton)
    large = [p for p in plans() if min(sides(p.kernel)) >= WIDE and p.description in table]
    assert {p.kernel.nest for p in large} >= {"conv_forward", "conv_grad_weight", "rows_product"}
    facts = {p.description: table[p.description].facts for p in large}
    assert [text for text, made in facts.items() if not made.wgmma or made.mma_sync] == []


def compare(target: Target, chosen: list[Planned], golden: Callable[[Path, str], None]) -> None:
    """Build the chosen kernels; their rows are those of the table and break no limit."""
    version = triton_version()
    if (target, version) not in COMMITTED:
        pytest.skip(f"there is no table of Triton {version} for {target.name}")
    path = table_path(target, version)
    facts = build_all((p.kernel, target) for p in chosen)
    made = {
        p.description: Row(facts[p.kernel, target], p.networks, p.kernel.digest) for p in chosen
    }
    table = read(path) if path.exists() else {}
    others = {p.description for p in plans()} - made.keys()
    merged = {**{d: row for d, row in table.items() if d in others}, **made}
    changed = differences(table, merged)
    try:
        golden(path, write(merged, version))
        changed = []
    except AssertionError:
        changed = changed or ["the table is not written as its rows are"]
    # in words, which the two texts side by side are not
    assert not changed, "\n".join([*changed, HINT])
    wrong = [t for p in chosen for t in violations(p, target, facts[p.kernel, target])]
    assert not wrong, "\n".join(wrong)


def test_small_networks_compile_to_what_the_table_says(
    golden: Callable[[Path, str], None],
) -> None:
    compare(SM_90, [p for p in plans() if {"lenet5", "digits"} & set(p.networks)], golden)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_sample_compiles_to_what_the_table_says(
    target: Target, golden: Callable[[Path, str], None]
) -> None:
    """A sixteenth of all kernels; ``python -m benchmarks.aot --afresh --update`` does them all."""
    compare(target, [p for p in plans() if p.kernel.digest.startswith("0")], golden)


def test_a_digest_sees_what_is_compiled_and_nothing_else() -> None:
    kernel = greedy(64, "*bf16", 4).kernel
    same = GREEDY.replace("    x = ", '    """Twice."""\n    # a product\n    x = ', 1)
    assert Kernel(same, *_rest(kernel)).digest == kernel.digest
    other = GREEDY.replace("tl.dot(x, x)", "tl.dot(x, x) * 2")
    assert Kernel(other, *_rest(kernel)).digest != kernel.digest
    assert greedy(32, "*bf16", 4).kernel.digest != kernel.digest


def _rest(kernel: Kernel) -> tuple[Any, ...]:
    return kernel.nest, kernel.arguments, kernel.epilogue, kernel.warps, kernel.stages
