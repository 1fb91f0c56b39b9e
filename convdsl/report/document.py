"""Costs to the JSON report of `convdsl compile --format json`; docs/report.schema.json is its law.

Says the same as the table, unrounded and unfolded. Byte-stable: the same program gives the same
text. Sizes are in torch's order (channels first), bytes are for one sample unless a batch is
named.
"""

from collections.abc import Sequence
from typing import Any

from convdsl.codegen.traffic import Traffic
from convdsl.diagnostics import Diagnostic
from convdsl.ir.graph import Graph
from convdsl.passes.plan_memory import MemoryPlan
from convdsl.report.costs import Costs, Field, Row
from convdsl.report.findings import dump, finding, place
from convdsl.report.quantities import COMPUTE_BYTES

SCHEMA_VERSION = 1


def report(
    costs: Costs,
    *,
    version: str,
    file: str,
    dtype: str,
    warnings: Sequence[Diagnostic] = (),
    plan: MemoryPlan | None = None,
    traffic: Traffic | None = None,
) -> str:
    """The document as JSON text. ``version`` is convdsl's own."""
    graph = costs.graph
    size = COMPUTE_BYTES[dtype]
    return dump(
        {
            "schema": "convdsl.report",
            "version": SCHEMA_VERSION,
            "convdsl": version,
            "file": file,
            "network": graph.name,
            "dtype": dtype,
            "inputs": [
                {"name": value.name, "shape": list(value.type.shape)} for value in graph.inputs
            ],
            "outputs": _outputs(graph),
            "layers": [_layer(row, size) for row in costs.rows],
            "totals": {
                "parameters": costs.parameters,
                "weights": costs.weights,
                "biases": costs.biases,
                "parameter_bytes": 4 * costs.parameters,
                "macs": costs.macs,
                "flops": 2 * costs.macs,
                "inference": {
                    "parameters": costs.parameters_at_inference,
                    "macs": costs.macs_at_inference,
                    "flops": 2 * costs.macs_at_inference,
                },
                "activation_bytes": size * costs.stored,
                "kernels": costs.kernels,
            },
            "training": _training(plan),
            "traffic": _traffic(traffic),
            "warnings": [finding(warning) for warning in warnings],
        }
    )


def _outputs(graph: Graph) -> list[dict[str, Any]]:
    return [
        {
            "name": out.name,
            "shape": list(out.value.type.shape),
            "head": out.head.name if out.head else None,
            "weight": out.head.weight if out.head else None,
            "training_only": out.training_only,
        }
        for out in graph.results_shown
    ]


def _layer(row: Row, size: int) -> dict[str, Any]:
    origin = row.origin
    return {
        "number": row.number,
        "layer": row.op.name,
        "text": origin.text,
        "path": origin.path,
        "place": place(origin.span) if origin.span else None,
        "expansion": [frame.text for frame in origin.frames],
        "inputs": [list(kind.shape) for kind in row.inputs],
        "output": list(row.output.shape),
        "window": _window(row),
        "parameters": dict(row.parameters),
        "shared_with": row.shared,
        "macs": row.macs,
        "training_only": row.training_only,
        "receptive_field": _field(row.field),
        "activation_bytes": row.stored * size,
        "kernel": {"number": row.kernel[0], "layers": row.kernel[1]} if row.kernel else None,
    }


def _window(row: Row) -> dict[str, Any] | None:
    window = row.window
    if window is None or window.everything:
        return None
    return {
        "kernel": list(window.kernel),
        "stride": list(window.stride),
        "padding": [list(ends) for ends in window.padding],
        "dilation": list(window.dilation),
        "rounding": "uneven" if window.uneven else "ceil" if window.ceil else "floor",
    }


def _field(field: Field) -> list[int] | str:
    return "all" if field.size is None else list(field.size)


def _training(plan: MemoryPlan | None) -> dict[str, int] | None:
    if plan is None:
        return None
    return {
        "batch": plan.batch,
        "total_bytes": plan.total,
        "arena_bytes": plan.arena,
        "live_peak_bytes": plan.live_peak,
        "saved_bytes": plan.saved,
        "parameter_bytes": plan.parameters,
        "gradient_bytes": plan.gradients,
        "stored_weight_bytes": plan.stored_weights,
    }


def _traffic(traffic: Traffic | None) -> dict[str, Any] | None:
    if traffic is None:
        return None
    return {
        "batch": traffic.batch,
        "read_bytes": traffic.read,
        "written_bytes": traffic.written,
        "kernels": [
            {
                "part": move.part,
                "kernel": move.kernel,
                "of": move.of,
                "read_bytes": move.read,
                "written_bytes": move.written,
            }
            for move in traffic.moves
        ],
    }
