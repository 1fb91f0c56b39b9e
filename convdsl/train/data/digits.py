"""scikit-learn's 1,797 handwritten digits, 8x8 pixels, which need no download."""

import torch
from sklearn.datasets import load_digits

from convdsl.train.data.parts import Data, Request
from convdsl.train.data.split import split_arrays
from convdsl.train.data.suit import suited
from convdsl.train.problem import TrainingError


def read_digits(argument: str, request: Request) -> Data:
    """The digits, 25 % held out by default. Raises TrainingError for an argument or sizes."""
    if argument:
        raise TrainingError("E411", f"digits takes no argument, got {argument!r}", "--data digits")
    pictures, numbers = load_digits(return_X_y=True)
    x = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(numbers, dtype=torch.int64)
    train, test = split_arrays((x,), y, request)
    classes = tuple(str(digit) for digit in range(10))
    return Data("digits", suited(train, request), suited(test, request), classes, ("shift",))
