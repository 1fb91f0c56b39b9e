"""One picture file -> a uint8 tensor in the channels and the size that a network reads."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from convdsl.report.terminal import counted
from convdsl.train.data.parts import Shape
from convdsl.train.problem import TrainingError

#: endings of files that count as pictures
ENDINGS = frozenset(
    ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
MODES = {1: "L", 3: "RGB"}
#: pictures left out that are named one by one
NAMED = 5
PictureFile = Path | IO[bytes] | Image.Image
#: modes of 16 and more bits a pixel, which Pillow would cut off at 255
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BadPictureError(ValueError):
    """A file that cannot be decoded; the text says why."""


def mode_for(shape: Shape) -> str:
    """Pillow's mode for an input shape (C, H, W). Raises TrainingError where there is none."""
    if len(shape) != 3 or shape[0] not in MODES:
        raise TrainingError(
            "E412",
            f"the network reads {'x'.join(map(str, shape))}, pictures have 1 or 3 channels",
            "give the network an input such as 3@64x64, or arrays in an npz: file",
        )
    return MODES[shape[0]]


def decode(file: PictureFile, shape: Shape, fit: bool = True) -> Tensor:
    """uint8 (C, H, W): turned upright as EXIF says, scaled to cover the size, cut in the middle.

    fit: False leaves it in its own size. Of animations the first frame. Raises BadPictureError
    for what cannot be decoded whole, Pillow's limit on pixels included.
    """
    mode, size = mode_for(shape), (shape[2], shape[1])
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise BadPictureError("it is no file")  # of a pipe, opening might never end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with file if isinstance(file, Image.Image) else Image.open(file) as image:
                if fit and image.format == "JPEG" and image.width > 2 * size[0]:
                    image.draft(mode, (2 * size[0], 2 * size[1]))
                made = _eight_bits(ImageOps.exif_transpose(image), mode)
        if fit:
            made = ImageOps.fit(made, size, Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise BadPictureError(_why(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPictureError("it has more pixels than is safe to unpack") from error
    pixels = np.array(made, dtype=np.uint8).reshape(made.height, made.width, shape[0])
    return torch.from_numpy(pixels).movedim(2, 0).contiguous()


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in _DEEP:
        numbers = np.array(image, dtype=np.int64)
        deep = 1 if numbers.max(initial=0) < 256 else 257  # 65535 / 255
        image = Image.fromarray((numbers.clip(0, 65535) // deep).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def left_out(bad: Mapping[str, str]) -> tuple[str, ...]:
    """The note on pictures that could not be decoded, name -> why; () if there are none."""
    if not bad:
        return ()
    shown = "; ".join(f"{name}: {why}" for name, why in sorted(bad.items())[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return (f"{counted(len(bad), 'picture')} left out: {shown}{more}",)


def _why(error: BaseException) -> str:
    text = str(error)
    if "cannot identify" in text:
        return "it is no picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return text.splitlines()[0] if text else type(error).__name__


# a picture cut off half-way is an error, never a grey lower half
ImageFile.LOAD_TRUNCATED_IMAGES = False
