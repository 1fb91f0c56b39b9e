"""Kernel and target -> what the compiled code costs: registers, spills, shared memory, products.

Compiles with Triton's own compiler for a named architecture, so no device is needed, in worker
processes of their own: the caller may run Triton's interpreter, and interpreted kernels cannot be
compiled. Results are kept in the user's cache under a hash of all they depend on. Says nothing
about time.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from convdsl.runtime.cache import cache_dir, write_atomically
from convdsl.tuning.plan import Argument, Kernel


@dataclass(frozen=True, slots=True)
class Target:
    """An architecture in Triton's words.

    shared_limit: bytes of shared memory one program may take. product: the fact that counts its
    own matrix-product instructions.
    """

    name: str
    backend: str
    architecture: int | str
    lanes: int
    shared_limit: int
    product: str


#: largest shared memory of a thread block: CUDA C++ Programming Guide, table of technical
#: specifications per compute capability; AMD CDNA 3 ISA reference, local data share
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 163 * 1024, "mma_sync"),
        Target("sm_90", "cuda", 90, 32, 227 * 1024, "wgmma"),
        Target("sm_100", "cuda", 100, 32, 227 * 1024, "tcgen05"),
        Target("gfx942", "hip", "gfx942", 64, 64 * 1024, "mfma"),
    )
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one compiled kernel.

    registers: per thread (on AMD, vector registers). spills: bytes of stack per thread, where
    nothing but spilled registers lies on it; scalar registers of AMD that find room in lanes of
    vector registers go to no memory. shared: bytes per program. The others count matrix-product
    instructions in the text: wgmma of sm_90, mma_sync of sm_80, tcgen05 of sm_100, mfma of AMD.
    """

    registers: int
    spills: int
    shared: int
    wgmma: int = 0
    mma_sync: int = 0
    tcgen05: int = 0
    mfma: int = 0


@cache
def triton_version() -> str:
    return importlib.metadata.version("triton")


def build_all(
    builds: Iterable[tuple[Kernel, Target]],
    workers: int = 2,
    progress: Callable[[], None] = lambda: None,
    *,
    failing: bool = False,
) -> dict[tuple[Kernel, Target], Facts]:
    """Facts of every build, from the cache where it has them. ``progress`` is called after each.

    failing: leave out what does not compile, instead of raising RuntimeError that names the
    kernel's nest and the target.
    """
    facts: dict[tuple[Kernel, Target], Facts] = {}
    missing = []
    for kernel, target in dict.fromkeys(builds):
        place = _cache_path(kernel, target)
        if place.exists():
            facts[kernel, target] = Facts(**json.loads(place.read_text(encoding="utf-8")))
            progress()
        else:
            missing.append((kernel, target))
    if not missing:
        return facts
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        futures = {pool.submit(compile_kernel, *build): build for build in missing}
        try:
            for future in as_completed(futures):
                kernel, target = futures[future]
                if failing and isinstance(future.exception(), RuntimeError):
                    progress()
                    continue
                facts[kernel, target] = future.result()
                text = json.dumps(asdict(facts[kernel, target]))
                write_atomically(_cache_path(kernel, target), text)
                progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return facts


def _start_worker() -> None:
    """Runs before a worker imports Triton."""
    os.environ.pop("TRITON_INTERPRET", None)


def _cache_path(kernel: Kernel, target: Target) -> Path:
    folder = cache_dir() / "aot"
    folder.mkdir(exist_ok=True)
    here = Path(__file__).read_bytes()  # another way of reading off the facts is another result
    key = repr((kernel.digest, target, triton_version(), sys.version_info[:2])).encode() + here
    return folder / f"{hashlib.sha256(key).hexdigest()}.json"


def compile_kernel(kernel: Kernel, target: Target) -> Facts:
    """Compile in this process, which must not have imported Triton as an interpreter."""
    with tempfile.TemporaryDirectory(prefix="convdsl-aot-") as folder:
        # Triton's own cache would keep every binary for good
        os.environ["TRITON_CACHE_DIR"] = folder
        path = Path(folder, "kernel.py")
        path.write_text(kernel.source, encoding="utf-8")
        try:
            compiled = _compile(path, kernel, target)
        except Exception as error:
            # Triton's errors may not survive the way back from a worker process
            root = error
            while isinstance(root.__cause__, Exception):
                root = root.__cause__
            text = str(error) if root is error else f"{error}\n{root}"
            raise RuntimeError(
                f"{kernel.nest} does not compile for {target.name}: {text}"
            ) from None
        if target.backend == "hip":
            return _amd_facts(compiled.asm["amdgcn"], compiled.metadata.shared)
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        return _nvidia_facts(compiled.asm["ptx"], cubin, compiled.metadata.shared)


def _compile(path: Path, kernel: Kernel, target: Target) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    spec = importlib.util.spec_from_file_location("kernel", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    nest = getattr(module, kernel.nest)
    signature: dict[str, Any] = {a.name: a.kind for a in kernel.arguments}
    constants: dict[str, Any] = {a.name: a.value for a in kernel.arguments if a.kind == "constexpr"}
    if kernel.epilogue is not None:
        signature["EPILOGUE"] = "constexpr"
        constants["EPILOGUE"] = getattr(module, kernel.epilogue)
    for hole, function in kernel.prologues:
        signature[hole] = "constexpr"
        constants[hole] = getattr(module, function)
    attributes = {
        place: [["tt.divisibility", 16]]
        for argument in kernel.arguments
        if argument.divisible
        for place in _places(argument, nest.arg_names.index(argument.name))
    }
    source = ASTSource(
        nest, {name: signature[name] for name in nest.arg_names}, constants, attributes
    )
    return triton.compile(
        source,
        target=GPUTarget(target.backend, target.architecture, target.lanes),
        options={"num_warps": kernel.warps, "num_stages": kernel.stages},
    )


def _places(argument: Argument, index: int) -> list[tuple[int, ...]]:
    """Where Triton looks for an argument's attributes: a tuple has a place for each element."""
    if isinstance(argument.kind, tuple):
        return [(index, inner) for inner in range(len(argument.kind))]
    return [(index,)]


def _nvidia_facts(ptx: str, cubin: Path, shared: int) -> Facts:
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    usage = subprocess.run(
        [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    return Facts(
        registers=_number(r"\bREG:(\d+)", usage),
        spills=_number(r"\bSTACK:(\d+)", usage) + _number(r"\bLOCAL:(\d+)", usage),
        shared=shared,
        wgmma=len(re.findall(r"\bwgmma\.mma_async", ptx)),
        mma_sync=len(re.findall(r"\bmma\.sync", ptx)),
        tcgen05=len(re.findall(r"\btcgen05\.mma", ptx)),
    )


def _amd_facts(assembly: str, shared: int) -> Facts:
    return Facts(
        registers=_number(r"\.vgpr_count:\s*(\d+)", assembly),
        spills=_number(r"\.private_segment_fixed_size:\s*(\d+)", assembly),
        shared=shared,
        mfma=len(re.findall(r"\bv_mfma", assembly)),
    )


def _number(pattern: str, text: str) -> int:
    """The one number of a tool's report; AssertionError if the report has another form."""
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{pattern} occurs {len(found)} times in: {text[:400]}"
    return int(found[0])
