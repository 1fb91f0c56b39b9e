"""FC and FLATTEN: figures, meaning against torch, kernels against float64 autograd."""

import pytest
import torch
import triton
import triton.language as tl

from convdsl.ir.builder import Builder
from convdsl.ir.op import ShapeError
from convdsl.ir.types import DType, TensorType
from convdsl.ops.fc import Fc, FcGradInput, FcGradWeight
from convdsl.ops.flatten import Flatten, FlattenGradient
from tests.conv_driver import assert_close, oracle
from tests.kernel_driver import meaning, run

# units, bias, features, batch
GRID = [
    (6, True, 12, 3),
    (3, False, 7, 1),
    (1, True, 1, 1),
    (10, True, 84, 5),
    (130, True, 70, 2),  # columns beyond one tile
    (5, True, 20, 70),  # rows beyond one tile
    (4, True, 9, 0),
]


def operands(units, bias, features, n, dtype):
    generator = torch.Generator().manual_seed(3)

    def random(*sizes):
        return torch.randn(sizes, generator=generator)

    weight = random(units, features).to(dtype)
    parameters = (weight, random(units)) if bias else (weight,)
    return random(n, features).to(dtype), parameters, random(n, units).to(dtype)


def test_figures():
    x = TensorType((400,))
    layer = Fc(120)
    shapes = {name: spec.shape for name, spec in layer.parameters(x).items()}
    assert shapes == {"weight": (120, 400), "bias": (120,)}
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 48_120
    assert (layer.shape(x).shape, layer.macs(x)) == ((120,), 48_000)
    assert layer.window(x).everything
    # twelve inputs, six outputs: 72 weights
    assert Fc(6, bias=False).parameters(TensorType((12,)))["weight"].shape == (6, 12)
    assert Fc(4096).macs(TensorType((25_088,))) == 102_760_448
    bound = Fc(6).parameters(TensorType((12,)))["weight"].initializer.arguments[1]
    assert bound == pytest.approx((6 / 18) ** 0.5)


def test_vectors_only():
    with pytest.raises(ShapeError) as caught:
        Fc(6).shape(TensorType((3, 4, 4)))
    assert caught.value.code == "E214"


@pytest.mark.parametrize(("units", "bias", "features", "n"), GRID)
def test_meaning(units, bias, features, n):
    layer = Fc(units, bias)
    x, parameters, dy = operands(units, bias, features, n, torch.float64)
    y, gradients = oracle(layer, x, parameters, dy)
    assert_close(y, x @ parameters[0].double().T + sum(p.double() for p in parameters[1:]), 1e-12)
    (dx,) = meaning(FcGradInput(features), dy, parameters[0])
    for actual, expected in zip((dx, *meaning(FcGradWeight(bias), x, dy)), gradients, strict=True):
        assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("units", "bias", "features", "n"), GRID)
def test_kernels(units, bias, features, n, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    layer = Fc(units, bias)
    x, parameters, dy = operands(units, bias, features, n, dtype)
    y, gradients = oracle(layer, x, parameters, dy)
    assert_close(run(layer, x, parameters=parameters)[0], y, tolerance)
    (dx,) = run(FcGradInput(features), dy, parameters=parameters[:1])
    to_weight = run(FcGradWeight(bias), x, dy)
    assert dx.dtype == dtype
    assert {t.dtype for t in to_weight} == {torch.float32}
    for actual, expected in zip((dx, *to_weight), gradients, strict=True):
        assert_close(actual, expected, tolerance)


def test_nan_stays_in_its_row():
    x, parameters, dy = operands(6, True, 12, 3, torch.float32)
    x[1, 4] = dy[1, 2] = float("nan")
    (y,) = run(Fc(6), x, parameters=parameters)
    assert y.isnan().all(1).tolist() == y.isnan().any(1).tolist() == [False, True, False]
    (dx,) = run(FcGradInput(12), dy, parameters=parameters[:1])
    assert dx.isnan().all(1).tolist() == dx.isnan().any(1).tolist() == [False, True, False]
    dw, db = run(FcGradWeight(True), x.nan_to_num(), dy)
    rows = [k == 2 for k in range(6)]
    assert dw.isnan().all(1).tolist() == dw.isnan().any(1).tolist() == rows
    assert db.isnan().tolist() == rows


@triton.jit
def scaled_residual(acc, offsets, column, mask, aux, seed):
    other = tl.load(aux[0] + offsets, mask=mask, other=0.0)
    return acc * tl.load(seed) + other


def test_epilogues():
    x, parameters, dy = operands(6, True, 12, 3, torch.float32)
    (y,) = run(Fc(6), x, parameters=parameters)
    found = run(Fc(6), x, parameters=parameters, epilogue=scaled_residual, aux=(dy,), seed=3)
    torch.testing.assert_close(found[0], y * 3 + dy)
    op = FcGradInput(12)
    (dx,) = run(op, dy, parameters=parameters[:1])
    found = run(op, dy, parameters=parameters[:1], epilogue=scaled_residual, aux=(x,), seed=2)
    torch.testing.assert_close(found[0], dx * 2 + x)


def test_gradient_nodes():
    build = Builder()
    x = build.value("x", TensorType((12,)))
    weight = build.value("weight", TensorType((6, 12), batched=False))
    layer = Fc(6, bias=False)
    (y,) = build.add(layer, x, parameters=(weight,), names=("y",))
    dy = build.value("d_y", y.type)
    found = layer.gradient(build.nodes[0], dy, build)
    assert {v.name: g.name for v, g in found.items()} == {"x": "d_x", "weight": "d_weight"}
    assert found[x].type == x.type
    assert found[weight].type == TensorType((6, 12), DType.FLOAT32, batched=False)


FLATTENED = [(3, 4, 5), (1, 4, 5), (6, 1, 1), (40, 5, 7), (33, 1, 34)]


@pytest.mark.parametrize("shape", FLATTENED)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_flatten_is_in_torch_s_order_and_its_gradient_the_reverse(shape, n):
    x = torch.randn(n, *shape)
    layer = Flatten()
    assert layer.shape(TensorType(shape)).shape == (_size(shape),)
    (y,) = run(layer, x)
    assert torch.equal(y, x.flatten(1))
    assert torch.equal(meaning(layer, x)[0], y)
    back = FlattenGradient(TensorType(shape))
    (dx,) = run(back, y)
    assert torch.equal(dx, x)
    assert torch.equal(meaning(back, y)[0], x)


def _size(shape):
    return torch.Size(shape).numel()


@pytest.mark.parametrize("shape", FLATTENED)
def test_gradient_of_flatten_is_a_view_only_where_both_orders_agree(shape):
    x = torch.arange(_size(shape)).reshape(1, *shape)
    stored = x.movedim(1, -1).flatten()
    view = FlattenGradient(TensorType(shape)).is_view(TensorType((_size(shape),)))
    assert view == Flatten().is_view(TensorType(shape))
    assert view == torch.equal(stored, x.flatten())


def test_flatten_of_a_vector():
    assert Flatten().shape(TensorType((6,))).shape == (6,)
    x = torch.randn(2, 6)
    assert torch.equal(run(Flatten(), x)[0], x)
    assert torch.equal(run(FlattenGradient(TensorType((6,))), x)[0], x)
