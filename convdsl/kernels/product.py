"""One step of a matrix product, with its operands as they are or exchanged."""

import triton
import triton.language as tl


@triton.jit
def add_product(acc, a, b, EXCHANGED: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a @ b; transposed if EXCHANGED, acc too.

    The numbers of a column then lie in few threads, so that sums over the rows need few exchanges
    between threads, but those of a row lie in many.
    """
    if EXCHANGED:
        acc = tl.dot(tl.trans(b), tl.trans(a), acc, input_precision=PRECISION)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc
