"""FC and the two gradients of a dense layer."""

from dataclasses import dataclass, replace

from convdsl.ir.arguments import field, flag, whole
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Launch, Nest, Product, Schedule, Size, Tail
from convdsl.ir.op import Op, ParameterSpec, ShapeError, Window, op
from convdsl.ir.tile import Tile
from convdsl.ir.types import DType, TensorType
from convdsl.ops._boxed import Operands, persistent
from convdsl.ops._tiles import TYPICAL_BATCH, depth_block, product_tile
from convdsl.ops._weights import Weighted


@op("FC")
class Fc(Weighted):
    """Every output sees every input: y = W x + b. On a map it flattens first, in C,H,W order."""

    units: int = field(letter="K", convert=whole(1), doc="number of outputs (neurons)")
    bias: bool = field(True, convert=flag, doc="add a learned number per output")

    has_epilogue = True
    output_is_free = True
    flattens = True
    aliases = ("DENSE", "LINEAR", "FULLYCONNECTED", "INNERPRODUCT")
    examples = (("12", "FC(6)"), ("7", "FC(3, bias=false)"))

    def shape(self, *inputs: TensorType) -> TensorType:
        if not inputs[0].is_vector:
            raise ShapeError(
                "E214", "needs a vector, got {x}", help="put FLATTEN before it", x=inputs[0]
            )
        return inputs[0].with_shape(self.units)

    def window(self, *inputs: TensorType) -> Window:
        return Window(everything=True)

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        features = inputs[0].elements
        specs = {"weight": self.weight_spec((self.units, features), features, self.units)}
        if self.bias:
            specs["bias"] = self.bias_spec((self.units,), features)
        return specs

    def macs(self, *inputs: TensorType) -> int:
        return inputs[0].elements * self.units

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        features, units = inputs[0].elements, self.units
        count = (features + self.bias) * units
        formula, text = (
            ("(N1 + 1)*K", f"({features} + 1)") if self.bias else ("N1*K", f"{features}")
        )
        return (
            f"parameters = {formula} = {text}*{units} = {count:,}",
            f"MACs = N1*K = {features}*{units} = {self.macs(*inputs):,}",
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"F.linear({', '.join(operands)})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, *bias) = node.inputs[0], node.parameters
        features = x.type.elements
        of = Operands(x, weight, bias[0] if bias else None, False, 1, features, self.units)
        if (launch := persistent(of, tail)) is not None:
            return Schedule((launch,))
        return _product(
            {
                "a_ptr": x,
                "b_ptr": weight,
                "bias_ptr": bias[0] if bias else None,
                "y_ptr": tail.output,
                "row_sum_ptr": None,
            },
            (None, self.units, features),
            {"A_ROW": features, "A_DEPTH": 1, "B_DEPTH": 1, "B_COLUMN": features},
            tail,
            of.variants,
        )

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, *bias) = node.inputs[0], node.parameters
        to_input = FcGradInput(x.type.elements)
        (dx,) = build.add(to_input, dy, parameters=(weight,), names=(f"d_{x.name}",))
        names = tuple(f"d_{parameter.name}" for parameter in node.parameters)
        gradients = build.add(FcGradWeight(self.bias), x, dy, names=names)
        return {x: dx, **dict(zip((weight, *bias), gradients, strict=True))}


@dataclass(frozen=True)
class FcGradInput(Op):
    """dx = dy W, from (dy, weight)."""

    features: int
    has_epilogue = True

    @property
    def title(self) -> str:
        return "fc_grad_input"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0].with_shape(self.features),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, weight = operands
        return (f"{dy} @ {weight}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, weight = node.operands
        units = dy.type.elements
        of = Operands(dy, weight, None, True, 1, units, self.features)
        if (launch := persistent(of, tail)) is not None:
            return Schedule((launch,))
        return _product(
            {
                "a_ptr": dy,
                "b_ptr": weight,
                "bias_ptr": None,
                "y_ptr": tail.output,
                "row_sum_ptr": None,
            },
            (None, self.features, units),
            {"A_ROW": units, "A_DEPTH": 1, "B_DEPTH": self.features, "B_COLUMN": 1},
            tail,
            of.variants,
        )


@dataclass(frozen=True)
class FcGradWeight(Op):
    """dW = dy^T x, and db = the sum of dy over the batch if ``bias``, from (x, dy)."""

    bias: bool

    @property
    def title(self) -> str:
        return "fc_grad_weight"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        x, dy = operands
        shapes = ((dy.elements, x.elements), (dy.elements,))[: 1 + self.bias]
        return tuple(TensorType(shape, DType.FLOAT32, batched=False) for shape in shapes)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, dy = operands
        return (f"{dy}.mT @ {x}", f"{dy}.sum(0)")[: 1 + self.bias]

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (x, dy), (dw, *db) = node.inputs, node.outputs
        units, features = dw.type.shape
        return _product(
            {
                "a_ptr": dy,
                "b_ptr": x,
                "bias_ptr": None,
                "y_ptr": dw,
                "row_sum_ptr": db[0] if db else None,
            },
            (units, features, None),
            {"A_ROW": 1, "A_DEPTH": units, "B_DEPTH": features, "B_COLUMN": 1},
            tail,
        )


def _product(
    tensors: dict[str, Argument],
    sizes: tuple[int | None, int, int | None],
    strides: dict[str, Argument],
    tail: Tail,
    variants: tuple[str, ...] = (),
) -> Schedule:
    """One launch of the matrix product of rows x columns x depth, where None is the batch."""
    rows, columns, depth = sizes
    few = 1 if tail.alone else TYPICAL_BATCH
    tile = tail.tile or _product_tile(rows or few, columns, depth or TYPICAL_BATCH)
    row_count, depth_count = ("n" if size is None else str(size) for size in (rows, depth))
    launch = Launch(
        Nest("matmul", "matmul"),
        {
            **tensors,
            "rows": Size(row_count),
            "depth": Size(depth_count),
            "COLUMNS": columns,
            **strides,
            "PRECISION": "ieee",
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
        },
        (f"triton.cdiv({row_count}, {tile.m}) * {-(-columns // tile.n)}",),
        tile.warps,
        tile.stages,
        product=Product(row_count, f"{columns}", depth_count, variants=variants),
    )
    return Schedule((launch,))


def _product_tile(rows: int, columns: int, depth: int) -> Tile:
    tile = product_tile(rows, columns, depth_block(depth))
    # four warps are one warp group of 64 rows; eight spill on sm_100 behind 64x128
    return replace(tile, warps=4) if tile.m <= 64 else tile
