"""What a call of the benchmark leaves behind: the JSON file, and its tables.

The file is written whenever something is added, so a call that is stopped leaves what there was.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from convdsl import __version__
from convdsl.tuning.device import Device

ROOT = Path(__file__).parent.parent.parent


class Record:
    """path: of the JSON file, None for none."""

    def __init__(self, head: dict[str, Any], path: Path | None) -> None:
        self.content, self.path = head, path
        self._write()

    def add(self, part: str, made: Any, network: str | None = None) -> None:
        """Set what a part found, on a network where it has networks."""
        if network is None:
            self.content[part] = made
        else:
            self.content.setdefault(part, {})[network] = made
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            self.path.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")


def head(device: Device) -> dict[str, Any]:
    """Where, when and with what."""
    try:
        triton: str | None = version("triton")
    except PackageNotFoundError:
        triton = None
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.facts(),
        "versions": {
            "convdsl": __version__,
            "torch": torch.__version__,
            "triton": triton,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        },
        "commit": commit(),
    }


def commit() -> str | None:
    """Of the checkout, with ``-dirty`` where files differ; None where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def ceilings(made: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Lines of the measured ceilings."""
    for name, found in made.items():
        rate = found.get("bytes_per_s", found.get("flop_per_s"))
        assert rate is not None
        unit = "TB/s" if "bytes_per_s" in found else "TFLOP/s"
        yield f"{name:20} {rate / 1e12:10.3g} {unit:8} spread {found['spread']:.1%}"


def training(name: str, made: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a network's training steps."""
    title = f"{name}, batch {made['batch']}, {made['dtype']}"
    if "ours" in made:
        ours = made["ours"]
        yield f"{title}: {_ms(ours)} a step, {ours['samples_per_s']:,.0f} samples/s"
    else:
        yield f"{title}: not timed: {made.get('skipped', 'stopped')}"
    if "fraction" in made.get("roofline", {}):
        roof = made["roofline"]
        least = roof["least_s"] * 1e3
        yield f"  {roof['fraction']:.0%} of the roofline, which is at {least:.3g} ms"
    for peer, found in made["peers"].items():
        if "skipped" in found:
            yield f"  {peer:20} skipped: {found['skipped']}"
        else:
            yield (
                f"  {peer:20} {_ms(found['peer']):>10}  ours {_ms(found['ours']):>10}  "
                f"ratio {found['ratio']:.2f}"
            )
    if made.get("best_peer"):
        best = made["best_peer"]
        yield f"  beside the best peer, {best['name']}: {best['ratio']:.2f}"


def convolution(name: str, made: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a network's convolutions: milliseconds ours / cuDNN's, ratio."""
    yield f"{name}, batch {made['batch']}, {made['dtype']}: ours, cuDNN, ratio"
    for title, layer in made["layers"].items():
        yield f"  {title}  ({layer['count']} of them)"
        if "skipped" in layer:
            yield f"    skipped: {layer['skipped']}"
            continue
        for part, found in layer.items():
            if part == "count":
                continue
            if "skipped" in found:
                yield f"    {part:12} skipped: {found['skipped']}"
            else:
                both = f"{_ms(found['ours']):>10} {_ms(found['cudnn']):>10}"
                rate = f"{found['rate'] / 1e12:.3g} TFLOP/s"
                yield f"    {part:12} {both}  {found['ratio']:.2f}  {rate:>12}"


def curves(name: str, made: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a network's loss curves."""
    if "skipped" in made:
        yield f"{name}: no curves: {made['skipped']}"
        return
    last = ", ".join(f"{title} {loss:.4g}" for title, loss in made["last"].items())
    yield f"{name}, {made['steps']} steps of {made['batch']}: loss {made['first']:.4g} to {last}"
    yield (
        f"  mean distance from float32: ours {made['gap_ours']:.2g}, autocast {made['gap_amp']:.2g}"
    )


def _ms(found: Mapping[str, float]) -> str:
    return f"{found['median_s'] * 1e3:.3g} ms"
