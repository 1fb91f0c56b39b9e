"""Kernel -> a line that people can read and that no other kernel of the table shares.

``conv_forward 3x3/1 256->256 @56x56 pad 1x1 relu+pool2x2 bf16/fp32/i8 128x128x64 w8 s3``: loop
nest, what it is specialised on, epilogue, kinds of its pointers, tile, warps, pipeline stages.
Of sizes known only at run time it says which are multiples of 16: ``rows%16``. Knows how to shorten
the constants that loop nests have in common; all others it writes in full.
"""

from collections.abc import Callable, Iterable

from convdsl.tuning.plan import Constant, Kernel

Constants = dict[str, Constant]
#: constants that follow from others
IMPLIED = frozenset({"PERIOD_H", "PERIOD_W", "REACH_H", "REACH_W"})
#: values that are not written
USUAL: frozenset[tuple[str, Constant]] = frozenset(
    {
        ("PRECISION", "ieee"),
        ("PB", 0),
        ("PR", 0),
        ("VALUE", 0.0),
        ("GROUPS", 1),
        ("MULTIPLIER", 1),
        ("EXCHANGED", False),
    }
)
#: how a tile is written: by the first of these constants that are all there
TILES = (("BLOCK_M", "BLOCK_N", "BLOCK_K"), ("BLOCK_M", "BLOCK_N"), ("ROWS", "COLS"), ("BLOCK",))


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
    left = {n: v for n, v in left.items() if not _is_whole(n, v, constants)}
    parts = [kernel.nest]
    for needs, write in SHORT:
        if needs <= left.keys():
            parts.append(write(left))
            left = {name: value for name, value in left.items() if name not in needs}
    tail = next((text for names in TILES if (text := _take(left, names))), "")
    pool = _take(left, ("POOL_H", "POOL_W"))
    if pool and pool != "1x1":
        parts.append(f"{kernel.title or 'no epilogue'}+pool{pool}")
    elif kernel.title:
        parts.append(kernel.title)
    parts += [_constant(n.lower(), v) for n, v in left.items() if (n, v) not in USUAL]
    parts += [f"no {name.removesuffix('_ptr')}" for name in absent]
    parts += [f"{a.name}%16" for a in kernel.arguments if a.kind == "i32" and a.divisible]
    parts += [_kinds(kernel), tail]
    return " ".join([*filter(None, parts), f"w{kernel.warps}", f"s{kernel.stages}"])


def _is_whole(name: str, value: Constant, constants: Constants) -> bool:
    """The stride of a tensor that is no slice of a wider one: the number of its channels."""
    of_output = name in ("Y_STRIDE", "DY_STRIDE") and "K" in constants
    return name.endswith("_STRIDE") and value == constants.get("K" if of_output else "C")


def _constant(name: str, value: Constant) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name}={value}"


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


def _window(c: Constants) -> str:
    """Of convolutions and locally connected layers; depthwise ones have K alone."""
    channels = f"{c['C']}->{c['K']}" if "C" in c else str(c["K"])
    stride, pad = _pair(c, "STRIDE_H", "STRIDE_W"), f"{c['PAD_H']}x{c['PAD_W']}"
    text = f"{c['R']}x{c['S']}/{stride} {channels} {_map(c, 'P', 'Q')}"
    return text if pad == "0x0" else f"{text} pad {pad}"


def _dilation(c: Constants) -> str:
    dilation = _pair(c, "DILATION_H", "DILATION_W")
    return "" if dilation == "1" else f"dilation {dilation}"


def _pooling(c: Constants) -> str:
    text = f"{c['KH']}x{c['KW']}/{_pair(c, 'SH', 'SW')} {c['C']} {_map(c, 'OH', 'OW')}"
    return text if (c["PT"], c["PL"]) == (0, 0) else f"{text} pad {c['PT']}x{c['PL']}"


def _place(c: Constants) -> str:
    """Where a row and a column of an upsampled map lie in the input."""
    return f"(p*{c['AH']}{c['BH']:+}, q*{c['AW']}{c['BW']:+})/{_pair(c, 'DH', 'DW')}"


def _product(c: Constants) -> str:
    a, b = (c["A_ROW"], c["A_DEPTH"]), (c["B_DEPTH"], c["B_COLUMN"])
    return f"a[i*{a[0]}+k*{a[1]}] b[k*{b[0]}+j*{b[1]}] j<{c['COLUMNS']}"


def _map(c: Constants, height: str, width: str) -> str:
    """``@28x28``, with ``->14x14`` where the output's size differs."""
    before, after = f"{c['H']}x{c['W']}", f"{c[height]}x{c[width]}"
    return f"@{before}" if before == after else f"@{before}->{after}"


def _pair(c: Constants, first: str, second: str) -> str:
    return str(c[first]) if c[first] == c[second] else f"{c[first]}x{c[second]}"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MAP = "H W K P Q R S STRIDE_H STRIDE_W PAD_H PAD_W"

#: constants that are written together, and how; the first that are all there take theirs away
SHORT: tuple[tuple[frozenset[str], Callable[[Constants], str]], ...] = (
    (_names(f"{_MAP} C"), _window),
    (_names(_MAP), _window),
    (_names("DILATION_H DILATION_W"), _dilation),
    (_names("H W C OH OW KH KW SH SW PT PL"), _pooling),
    (_names("H W C OH OW"), lambda c: f"{c['C']} {_map(c, 'OH', 'OW')}"),
    (_names("AH BH DH AW BW DW"), _place),
    (_names("TOP LEFT"), lambda c: f"from {c['TOP']},{c['LEFT']}"),
    (_names("COLUMNS A_ROW A_DEPTH B_DEPTH B_COLUMN"), _product),
    (
        _names("DEPTH COLUMNS W_DEPTH W_COLUMN"),
        lambda c: f"{c['DEPTH']}->{c['COLUMNS']} w[k*{c['W_DEPTH']}+j*{c['W_COLUMN']}]",
    ),
    (_names("ROWS COLUMNS"), lambda c: f"{c['ROWS']}x{c['COLUMNS']}"),
    (_names("PIXELS C"), lambda c: f"{c['PIXELS']}x{c['C']}"),
)
