"""Train networks/digits.cnn on scikit-learn's 1,797 handwritten digits and report test accuracy.

    python examples/digits.py                       # a few seconds a seed on two CPU cores
    TRITON_INTERPRET=1 python examples/digits.py --target triton --steps 3

The second line runs the very Triton kernels, interpreted on the CPU, for three steps.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import convdsl

NETWORK = Path(__file__).parent.parent / "networks" / "digits.cnn"
BATCH = 64


def read_digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test pictures (N, 1, 8, 8) in [0, 1] and labels; 25 % stratified test split."""
    pictures, labels = load_digits(return_X_y=True)
    x = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, dtype=torch.int64)
    train, test = train_test_split(
        range(len(y)), test_size=0.25, stratify=labels, random_state=seed
    )
    return x[train], y[train], x[test], y[test]


def shifted(x: Tensor) -> Tensor:
    """Every picture moved by -1, 0 or 1 pixel along each axis (the lecture's translation)."""
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(x)))
    rows = down[:, None] + torch.arange(8)
    columns = right[:, None] + torch.arange(8)
    picked = torch.arange(len(x))[:, None, None]
    return padded[picked, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def batches(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order."""
    for rows in torch.randperm(len(x)).split(BATCH):
        yield shifted(x[rows]), y[rows]


def progress(quiet: bool) -> Callable[[str], None]:
    """A line that is rewritten in place on a terminal, and silent elsewhere."""
    if quiet or not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def train(seed: int, options: argparse.Namespace) -> float:
    """Train one network; returns its test accuracy (NaN when stopped early by --steps)."""
    torch.manual_seed(seed)
    x, y, test_x, test_y = read_digits(seed)
    model = convdsl.load(NETWORK, target=options.target)
    device = next(model.parameters()).device
    steps = options.epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    show = progress(options.quiet)
    step, start = 0, time.perf_counter()
    for epoch in range(options.epochs):
        for inputs, labels in batches(x, y):
            loss = model(inputs.to(device), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if options.steps:
                print(f"step {step}: loss {loss.item():.6f}")
                if step == options.steps:
                    return float("nan")
        done = round(30 * (epoch + 1) / options.epochs)
        rate = step * BATCH / (time.perf_counter() - start)
        show(
            f"seed {seed} [{'#' * done:<30}] epoch {epoch + 1}/{options.epochs} "
            f"loss {loss.item():.4f}  {rate:,.0f} images/s"
        )
    show("")
    guess = model.predict(test_x.to(device)).argmax(1).cpu()
    return (guess == test_y).double().mean().item()


def count(text: str) -> int:
    """An option that is a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number >= 1, not {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=count, default=3, help="networks to train (default 3)")
    parser.add_argument(
        "--epochs", type=count, default=30, help="passes over the data (default 30)"
    )
    parser.add_argument("--steps", type=count, help="stop after so many steps, printing each loss")
    parser.add_argument("--target", choices=("torch", "triton"), help="default: as the device has")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are too small to be shared out
    start = time.perf_counter()
    scores = []
    for seed in range(1 if options.steps else options.seeds):
        scores.append(train(seed, options))
        if not options.steps:
            print(f"seed {seed}: test accuracy {scores[-1]:.4f}")
    if not options.steps:
        mean = sum(scores) / len(scores)
        seconds = time.perf_counter() - start
        print(f"mean test accuracy {mean:.4f} over {len(scores)} seeds in {seconds:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
