"""`convdsl.tune`: measure on the current device, keep what was found for every network after."""

from collections.abc import Callable
from dataclasses import replace

import torch

from convdsl.compiler import Network
from convdsl.runtime.tuned import NAMES, choices_for, own_folder, subject_of, write
from convdsl.tuning.search import Found, Tuned, search


def tune(
    network: Network,
    *,
    batch: int,
    dtype: torch.dtype = torch.bfloat16,
    kernels: str = "triton",
    tell: Callable[[Found], None] = lambda found: None,
) -> Tuned:
    """Find the fastest tiles and fusions for a training step, on the current device.

    batch: samples of a step, as the network will be trained. kernels: ``triton``, or ``auto`` to
    let a library win convolutions. tell: is called with every answer. What was found is kept in the
    user's cache, by device, versions and dtype, and `convdsl.load` and `Network.module` use it from
    then on; what is known already is not measured again. Raises ValueError without a CUDA or ROCm
    device, for a batch below 1 or too large for the device, and for another dtype or kernels.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if kernels not in ("triton", "auto"):
        raise ValueError(f"kernels must be 'triton' or 'auto', got {kernels!r}")
    if dtype not in NAMES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, NAMES))}, got {dtype}")
    if not torch.cuda.is_available():
        raise ValueError(
            "tuning measures on a CUDA or ROCm device, and there is none: without it networks "
            "run with the choices that shapes alone suggest"
        )
    from convdsl.tuning.bench import DeviceBench

    subject = subject_of(torch.device("cuda", torch.cuda.current_device()), dtype)
    library = kernels == "auto"
    known = choices_for(subject, library=True)
    start = known if library else replace(known, library=frozenset())
    bench = DeviceBench(batch, dtype, NAMES[dtype])
    tuned = search(network.chosen(start), bench, library=library, tell=tell)
    write(own_folder() / subject.file_name, subject, known | tuned.choices)
    return tuned
