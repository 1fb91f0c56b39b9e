"""Kernel -> a line that people can read and that no other kernel of the table shares.

``conv_forward 3x3/1 256->256 @56x56 pad 1x1 relu+pool2x2 bf16/fp32/i8 128x128x64 w8 s3``: loop
nest, what it is specialised on, epilogue, kinds of its pointers, tile, warps, pipeline stages.
Knows how to shorten the constants that loop nests have in common; all others it writes in full.
"""

from collections.abc import Callable, Iterable

from benchmarks.aot.plan import Constant, Kernel

Constants = dict[str, Constant]
#: constants that follow from others
IMPLIED = frozenset({"PERIOD_H", "PERIOD_W"})


def describe(kernels: Iterable[Kernel]) -> dict[Kernel, str]:
    """A description of each; those that would share one are numbered, in the order of sources."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(_describe(kernel), []).append(kernel)
    named: dict[Kernel, str] = {}
    for text, same in groups.items():
        for number, kernel in enumerate(sorted(same, key=repr), start=1):
            named[kernel] = text if len(same) == 1 else f"{text} ({number})"
    return named


def _describe(kernel: Kernel) -> str:
    constants: Constants = {a.name: a.value for a in kernel.arguments if a.kind == "constexpr"}
    absent = [name for name, value in constants.items() if value is None]
    left: Constants = {n: v for n, v in constants.items() if v is not None and n not in IMPLIED}
    parts = [kernel.nest]
    for needs, write in SHORT:
        if needs <= left.keys():
            parts.append(write(left))
            left = {name: value for name, value in left.items() if name not in needs}
    tail = _take(left, ("BLOCK_M", "BLOCK_N", "BLOCK_K")) or _take(left, ("BLOCK_M", "BLOCK_N"))
    tail = tail or _take(left, ("ROWS", "COLS")) or _take(left, ("BLOCK",))
    pool = _take(left, ("POOL_H", "POOL_W"))
    if pool and pool != "1x1":
        parts.append(f"{kernel.title or 'no epilogue'}+pool{pool}")
    elif kernel.title:
        parts.append(kernel.title)
    parts += [f"{n.lower()}={v}" for n, v in left.items() if (n, v) != ("PRECISION", "ieee")]
    parts += [f"no {name.removesuffix('_ptr')}" for name in absent]
    parts += [f"{a.name}%16" for a in kernel.arguments if a.kind == "i32" and a.divisible]
    parts.append(_kinds(kernel))
    return " ".join([*parts, tail, f"w{kernel.warps}", f"s{kernel.stages}"])


def _kinds(kernel: Kernel) -> str:
    """The element types of the pointers, each once: ``bf16/fp32``."""
    kinds: list[str] = []
    for argument in kernel.arguments:
        kinds += argument.kind if isinstance(argument.kind, tuple) else [argument.kind]
    return "/".join(dict.fromkeys(kind[1:] for kind in kinds if kind.startswith("*")))


def _take(left: Constants, names: tuple[str, ...]) -> str:
    """``128x64`` of the named constants, which leave ``left``; nothing if one is missing."""
    if not left.keys() >= set(names):
        return ""
    return "x".join(str(left.pop(name)) for name in names)


def _convolution(c: Constants) -> str:
    parts = [f"{c['R']}x{c['S']}/{_pair(c, 'STRIDE_H', 'STRIDE_W')} {c['C']}->{c['K']}"]
    parts.append(_map(c, "P", "Q"))
    optional = (("pad", "PAD", 0), ("dilation", "DILATION", 1))
    for word, name, usual in optional:
        if (c[f"{name}_H"], c[f"{name}_W"]) != (usual, usual):
            parts.append(f"{word} {c[f'{name}_H']}x{c[f'{name}_W']}")
    if c["GROUPS"] != 1:
        parts.append(f"groups {c['GROUPS']}")
    return " ".join(parts)


def _pooling(c: Constants) -> str:
    text = f"{c['KH']}x{c['KW']}/{_pair(c, 'SH', 'SW')} {c['C']} {_map(c, 'OH', 'OW')}"
    return text if (c["PT"], c["PL"]) == (0, 0) else f"{text} pad {c['PT']}x{c['PL']}"


def _product(c: Constants) -> str:
    a, b = (c["A_ROW"], c["A_DEPTH"]), (c["B_DEPTH"], c["B_COLUMN"])
    return f"a[i*{a[0]}+k*{a[1]}] b[k*{b[0]}+j*{b[1]}] j<{c['COLUMNS']}"


def _map(c: Constants, height: str, width: str) -> str:
    """``@28x28``, with ``->14x14`` where the output's size differs."""
    before, after = f"{c['H']}x{c['W']}", f"{c[height]}x{c[width]}"
    return f"@{before}" if before == after else f"@{before}->{after}"


def _pair(c: Constants, first: str, second: str) -> str:
    return str(c[first]) if c[first] == c[second] else f"{c[first]}x{c[second]}"


#: constants that are written together, and how
SHORT: tuple[tuple[frozenset[str], Callable[[Constants], str]], ...] = (
    (
        frozenset(
            "H W C K P Q R S STRIDE_H STRIDE_W PAD_H PAD_W DILATION_H DILATION_W GROUPS".split()  # noqa: SIM905
        ),
        _convolution,
    ),
    (frozenset("H W C OH OW KH KW SH SW PT PL".split()), _pooling),  # noqa: SIM905
    (frozenset("COLUMNS A_ROW A_DEPTH B_DEPTH B_COLUMN".split()), _product),  # noqa: SIM905
)
