"""Source text -> `Network`: every stage of one program, each worked out when first asked for.

Imports neither torch nor triton: only `Network.module` and `Network.fold` do.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convdsl._version import __version__
from convdsl.codegen.header import class_name
from convdsl.codegen.torch_module import emit_torch
from convdsl.codegen.traffic import Traffic, traffic
from convdsl.codegen.triton_module import TritonText, emit_triton
from convdsl.diagnostics import Diagnostic
from convdsl.ir.choices import Choices
from convdsl.ir.graph import Graph
from convdsl.ir.printer import print_graph
from convdsl.ir.verify import verify
from convdsl.lower import Lowered, Options, lower
from convdsl.passes.fold_norms import fold_norms
from convdsl.passes.plan_memory import MemoryPlan, plan
from convdsl.passes.step_at_once import AtOnce, step_at_once
from convdsl.pipeline import (
    INFERENCE_PIPELINE,
    OPTIONAL,
    PIPELINE,
    TORCH_PIPELINE,
    optional,
    run_passes,
)
from convdsl.report.costs import Costs, measure
from convdsl.report.document import report
from convdsl.report.quantities import COMPUTE_BYTES
from convdsl.report.render import PLAIN
from convdsl.report.table import table
from convdsl.source import Source
from convdsl.syntax.ast import Program
from convdsl.syntax.dump import dump
from convdsl.syntax.listing import is_listing, parse_listing
from convdsl.syntax.parser import parse, parse_default, parse_shape
from convdsl.syntax.reader import read_source

if TYPE_CHECKING:
    import torch
    from torch import nn

STAGES = ("ast", "ir", "fused", "triton", "torch")


@dataclass(frozen=True)
class Network:
    """One compiled program.

    source, program, graph: the text, its syntax tree, the typed graph as lowered. warnings: lints
    and remarks of the compilation. without: passes left out, for tests and for comparing. options:
    what it was compiled with, `-D` and the like. choices: what was measured on the device that
    code is for.
    """

    source: Source
    program: Program
    lowered: Lowered
    without: tuple[str, ...] = field(default=())
    options: Options = field(default_factory=Options)
    choices: Choices = field(default_factory=Choices)

    @property
    def graph(self) -> Graph:
        return self.lowered.graph

    @property
    def name(self) -> str:
        """The class name of the generated module."""
        return class_name(self.graph)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return self.lowered.warnings

    @cached_property
    def fused(self) -> Graph:
        """The training graph after all passes: differentiated and fused."""
        return run_passes(self._chosen, PIPELINE, self.without)

    @cached_property
    def inference(self) -> Graph:
        """The graph that runs when no gradient is asked for."""
        return run_passes(self._chosen, INFERENCE_PIPELINE, self.without)

    @property
    def _chosen(self) -> Graph:
        return replace(self.graph, choices=self.choices)

    def chosen(self, choices: Choices) -> "Network":
        """The same program with what was measured on a device."""
        return replace(self, choices=choices)

    @cached_property
    def at_once(self) -> AtOnce | None:
        """What a training step in a handful of launches is made of, if the network is for one."""
        return None if "step_at_once" in self.without else step_at_once(self.fused)

    @cached_property
    def triton(self) -> TritonText:
        """The generated Triton module and its launches."""
        return emit_triton(self.fused, self.inference, self.source.name, self.at_once)

    @property
    def parameters_count(self) -> int:
        """Learned numbers, shared ones counted once: sum of p.numel() over model.parameters()."""
        return sum(p.value.type.elements for p in self.graph.learned)

    @property
    def parameters_at_inference(self) -> int:
        """The same without layers that only outputs with ``only=training`` need."""
        return self.costs.parameters_at_inference

    @cached_property
    def costs(self) -> Costs:
        """Shapes, parameters, MACs, receptive fields and kernels, layer by layer."""
        return measure(self.graph, self.fused)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass at inference for one sample."""
        return self.costs.macs_at_inference

    def plan(self, batch: int, dtype: str = "fp32") -> MemoryPlan:
        """Memory of a training step on the fused kernels; dtype: ``fp32``, ``bf16``, ``fp16``."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        return plan(self.fused, batch, COMPUTE_BYTES[_known(dtype)], self.at_once)

    def traffic(self, batch: int, dtype: str = "fp32") -> Traffic:
        """Bytes that a training step on the fused kernels reads and writes, kernel by kernel.

        dtype: ``fp32``, ``bf16`` or ``fp16``. What counts: see `convdsl.codegen.traffic`. Raises
        ValueError for a batch below 1 or another dtype.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        size = COMPUTE_BYTES[_known(dtype)]
        return traffic(self.fused, self.triton, batch, dtype, size)

    def table(self, batch: int | None = None, dtype: str = "fp32", flat: bool = False) -> str:
        """The table of `convdsl compile` as plain text.

        batch: adds the training-memory plan. flat: every repetition in rows of its own.
        """
        memory = None if batch is None else self.plan(batch, dtype)
        return table(
            self.costs, PLAIN, file=self.source.name, dtype=_known(dtype), flat=flat, plan=memory
        )

    def to_json(self, batch: int | None = None, dtype: str = "fp32", traffic: bool = False) -> str:
        """The report as JSON text (schema: docs/report.schema.json); byte-stable.

        batch: adds the training-memory plan. traffic: adds `Network.traffic`, if there is a batch.
        """
        moved = self.traffic(batch, dtype) if traffic and batch is not None else None
        return report(
            self.costs,
            version=__version__,
            file=self.source.name,
            dtype=_known(dtype),
            warnings=self.warnings,
            plan=None if batch is None else self.plan(batch, dtype),
            traffic=moved,
        )

    def to_dict(self, batch: int | None = None, dtype: str = "fp32") -> dict[str, Any]:
        """`to_json` as a dictionary."""
        document: dict[str, Any] = json.loads(self.to_json(batch, dtype))
        return document

    def emit(self, stage: str) -> str:
        """The text of a stage: ``ast``, ``ir``, ``fused``, ``triton`` or ``torch``."""
        emitters: dict[str, Callable[[], str]] = {
            "ast": lambda: dump(self.program),
            "ir": lambda: print_graph(self.graph),
            "fused": lambda: print_graph(self.fused),
            "triton": lambda: self.triton.text,
            "torch": lambda: emit_torch(
                run_passes(self.graph, TORCH_PIPELINE, self.without), self.source.name
            ),
        }
        if stage not in emitters:
            raise ValueError(f"no stage {stage!r}; stages: {', '.join(STAGES)}")
        return emitters[stage]()

    def module(
        self,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | None" = None,
        target: str | None = None,
        layout: str = "NCHW",
        kernels: str = "triton",
    ) -> "nn.Module":
        """A fresh, randomly initialised ``nn.Module``.

        device: default a CUDA or ROCm device if there is one, else the CPU. dtype: what it
        computes in, float32 by default; parameters are float32 masters. A CPU that would have to
        emulate a 16-bit type computes in float32 between rounded inputs and outputs. target:
        ``triton`` (the default on such devices) or ``torch``. layout: axis order of input maps,
        NCHW or NHWC.
        kernels: ``triton``, ours alone, or ``auto``: the library does the convolutions that it was
        seen to do faster. What `convdsl.tune` found on such a device is used for both. Raises
        ValueError for a target the device cannot run.
        """
        from convdsl.runtime.module import make_module

        return make_module(self, device, dtype, target, layout, kernels)

    def fold(self, trained: "nn.Module") -> "nn.Module":
        """A module for inference with the weights that ``trained``, a module of this one, has now.

        Batch normalisation goes into the convolution or dense layer before it, which then has a
        bias (Jacob et al., 2018, section 3.2): the same numbers up to rounding by fewer operations.
        In target, device, dtype and layout as ``trained``; its loss is that of the heads alone.
        Raises ValueError for a module of another network.
        """
        from convdsl.runtime.fold import folded_module

        graph, folds = fold_norms(self.graph)
        network = replace(self, lowered=replace(self.lowered, graph=graph))
        return folded_module(network, folds, trained)

    def __repr__(self) -> str:
        show = self.graph.notation.show
        ends = ", ".join(show(v.type) for v in self.graph.inputs)
        outs = ", ".join(show(o.value.type) for o in self.graph.results_shown)
        count = f"{self.parameters_count:,} parameters"
        if self.costs.training_outputs:
            count += f", {self.parameters_at_inference:,} at inference"
        return f"<Network {self.name}: {ends} -> {outs}, {count}>"


def _known(dtype: str) -> str:
    if dtype not in COMPUTE_BYTES:
        raise ValueError(f"dtype must be one of {', '.join(COMPUTE_BYTES)}, got {dtype!r}")
    return dtype


def compile_source(
    source: Source, options: Options | None = None, passes: Iterable[str] | None = None
) -> Network:
    """Parse and lower one source, a program or a lecture's listing.

    passes: of the optional ones those that run, all by default. Raises CompileError with every
    diagnostic found, ValueError for an unknown pass.
    """
    without = () if passes is None else tuple(sorted(OPTIONAL - optional(passes)))
    program = parse_listing(source) if is_listing(source) else parse(source)
    options = options or Options()
    lowered = lower(program, options)
    verify(lowered.graph, "lower")
    return Network(source, program, lowered, without, options)


def make_options(
    lets: dict[str, Any],
    input: str | None = None,
    defaults: Iterable[str] | str = (),
    strict: bool = False,
    root: Path | None = None,
) -> Options:
    """Options from the texts people write: ``input="3@512x512"``, ``defaults=["CONV(K=64)"]``."""
    defaults = [defaults] if isinstance(defaults, str) else defaults
    return Options(
        lets=lets,
        inputs=parse_shape(input) if input is not None else None,
        defaults=tuple(parse_default(text) for text in defaults),
        strict=strict,
        root=root,
    )


def compile(
    path: str | Path,
    *,
    input: str | None = None,
    defaults: Iterable[str] | str = (),
    strict: bool = False,
    passes: Iterable[str] | None = None,
    **lets: Any,
) -> Network:
    """Compile a ``.cnn`` file.

    input: replaces the file's input shape, ``"3@512x512"``. defaults: more ``default`` lines,
    ``["CONV(K=64)"]``. strict: inexact output sizes are errors. passes: of the optional passes
    those that run, all by default; any give the same numbers up to rounding. lets: values for the
    file's lets. Raises CompileError, and ValueError for an unknown pass.
    """
    source = read_source(path)
    root = Path(path).parent
    return compile_source(source, make_options(lets, input, defaults, strict, root), passes)


def compile_text(
    text: str,
    *,
    name: str = "<text>",
    input: str | None = None,
    defaults: Iterable[str] | str = (),
    strict: bool = False,
    passes: Iterable[str] | None = None,
    **lets: Any,
) -> Network:
    """Compile a program given as a string; otherwise as `compile`."""
    options = make_options(lets, input, defaults, strict)
    return compile_source(Source(name, text), options, passes)


def load(
    path: str | Path,
    *,
    device: "torch.device | str | None" = None,
    dtype: "torch.dtype | None" = None,
    target: str | None = None,
    layout: str = "NCHW",
    kernels: str = "triton",
    **options: Any,
) -> "nn.Module":
    """``compile(path, **options).module(device, dtype, target, layout, kernels)`` in one call."""
    return compile(path, **options).module(device, dtype, target, layout, kernels)
