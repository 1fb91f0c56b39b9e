"""The order of the passes, and which of them may be left out.

The graph is verified after every one.
"""

from collections.abc import Callable, Iterable
from functools import partial

from convdsl.ir.graph import Graph
from convdsl.ir.verify import verify
from convdsl.passes.choose_tiles import choose_tiles
from convdsl.passes.differentiate import differentiate
from convdsl.passes.drop_dead import drop_dead
from convdsl.passes.drop_identity import drop_identity
from convdsl.passes.drop_training_outputs import drop_training_outputs
from convdsl.passes.fuse_epilogues import fuse_epilogues
from convdsl.passes.fuse_prologues import fuse_prologues
from convdsl.passes.hoist_pool_gradient import hoist_pool_gradient
from convdsl.passes.lay_out import lay_out
from convdsl.passes.merge_gradients import merge_gradients
from convdsl.passes.merge_siblings import merge_siblings
from convdsl.passes.normalize_in_pool import normalize_in_pool
from convdsl.passes.pack_masks import pack_masks
from convdsl.passes.place_slices import place_slices
from convdsl.passes.pool_first import pool_first
from convdsl.passes.recompute_masks import recompute_masks
from convdsl.passes.repeat_gradients import repeat_gradients
from convdsl.passes.split_layers import split_layers
from convdsl.passes.unpool_beside import unpool_beside
from convdsl.passes.use_library import use_library
from convdsl.passes.use_running_statistics import use_running_statistics

Pass = tuple[str, Callable[[Graph], Graph]]

PIPELINE: tuple[Pass, ...] = (
    ("drop_identity", drop_identity),
    ("differentiate", differentiate),
    ("split_layers", split_layers),
    # before drop_dead: it is what makes the un-pooled activation dead
    ("hoist_pool_gradient", hoist_pool_gradient),
    ("unpool_beside", unpool_beside),
    ("recompute_masks", recompute_masks),
    ("pack_masks", pack_masks),
    ("drop_dead", drop_dead),
    ("normalize_in_pool", normalize_in_pool),
    ("use_library", use_library),
    ("merge_siblings", merge_siblings),
    ("merge_gradients", merge_gradients),
    ("repeat_gradients", repeat_gradients),
    ("fuse_epilogues", fuse_epilogues),
    ("fuse_prologues", fuse_prologues),
    ("place_slices", place_slices),
    ("choose_tiles", choose_tiles),
)
INFERENCE_PIPELINE: tuple[Pass, ...] = (
    ("drop_identity", partial(drop_identity, training=False)),
    ("drop_training_outputs", drop_training_outputs),
    ("use_running_statistics", use_running_statistics),
    ("drop_dead", drop_dead),
    ("normalize_in_pool", normalize_in_pool),
    ("use_library", use_library),
    ("merge_siblings", merge_siblings),
    ("fuse_epilogues", fuse_epilogues),
    ("place_slices", place_slices),
    ("choose_tiles", choose_tiles),
)
TORCH_PIPELINE: tuple[Pass, ...] = (("pool_first", pool_first), ("lay_out", lay_out))
#: passes that may be left out (`Network.without`); the others give the graph its meaning
OPTIONAL = frozenset(
    {
        "drop_identity",
        "hoist_pool_gradient",
        "recompute_masks",
        "pack_masks",
        "drop_dead",
        "merge_gradients",
        "merge_siblings",
        "normalize_in_pool",
        "fuse_epilogues",
        "fuse_prologues",
        "place_slices",
        "choose_tiles",
        "use_library",
        "lay_out",
        "pool_first",
        "step_at_once",
        "repeat_gradients",
        "unpool_beside",
    }
)


def run_passes(graph: Graph, pipeline: tuple[Pass, ...], without: Iterable[str] = ()) -> Graph:
    """The graph after every pass of the pipeline but those named, verified after each."""
    skipped = optional(without)
    for name, run in pipeline:
        if name not in skipped:
            graph = run(graph)
            verify(graph, name)
    return graph


def optional(names: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises ValueError for one that is no optional pass."""
    given = frozenset([names] if isinstance(names, str) else names)
    if unknown := given - OPTIONAL:
        name = min(unknown)
        why = "always runs" if any(name == other for other, _ in PIPELINE) else "is no pass"
        others = ", ".join(sorted(OPTIONAL))
        raise ValueError(f"{name} {why}; those that may be left out: {others}")
    return given
