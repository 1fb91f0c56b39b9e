"""Data sets of the Hugging Face hub, whole and as streams, from files that the tests write."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from convdsl.train.batches import Batches
from convdsl.train.data.parts import Request
from convdsl.train.data.read import read
from convdsl.train.data.stream import Sample, Stream
from convdsl.train.keeper import InterruptedRun
from convdsl.train.problem import TrainingError
from tests.test_train_fit import stop_at
from tests.train_cases import arrays, fit, same, state

pytestmark = pytest.mark.usefixtures("quick_training")

CLASSES = ("classes", (), 4.0, -100.0)
SMALL = Request({"x": (1, 4, 4)}, CLASSES)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the hub has them: 40 pictures in four files to train on, 12 to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        datasets: Any = pytest.importorskip("datasets", exc_type=ImportError)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
        datasets.disable_progress_bars()
        folder = tmp_path_factory.mktemp("hub")
        names = datasets.ClassLabel(names=["a", "b", "c", "d"])
        features = datasets.Features({"image": datasets.Image(), "label": names})
        for part, files, count in (("train", 4, 40), ("test", 1, 12)):
            x, y = arrays(count)
            pictures = [Image.fromarray((one[0] * 255).byte().numpy()) for one in x]
            whole = datasets.Dataset.from_dict({"image": pictures, "label": y.tolist()}, features)
            for i in range(files):
                name = f"{part}-{i:05}-of-{files:05}.parquet"
                whole.shard(files, i).to_parquet(folder / name)
        yield folder


def test_it_is_read_whole_and_as_a_stream(hub: Path) -> None:
    whole = read(f"hf:{hub}", SMALL)
    stream = read(f"hf:{hub}", Request(SMALL.inputs, CLASSES, stream=True))
    assert whole.classes == stream.classes == ("a", "b", "c", "d")
    for mine, theirs in ((whole.train, stream.train), (whole.test, stream.test)):
        assert isinstance(theirs, Stream)
        for a, b in zip(Batches(mine, 9), Batches(theirs, 9), strict=True):
            assert same(a, b)
    x, y = arrays(40)
    assert torch.equal(whole.train.labels, y)
    assert torch.equal(whole.train.take(torch.arange(40))[0], (x * 255).byte())


def test_a_streams_order_is_given_by_seed_and_epoch(hub: Path) -> None:
    stream = read(f"hf:{hub}", Request(SMALL.inputs, CLASSES, stream=True)).train

    def epoch(number: int, **place: int) -> list[Any]:
        loader = Batches(stream, 9, seed=1, shuffle=True, **place)
        loader.set_epoch(number)
        return list(loader)

    first, second = epoch(0), epoch(1)
    assert same(first, epoch(0)) and not same(first, second)
    for batches in (first, second):  # every sample once
        seen = torch.cat([b.inputs[0] for b in batches]).flatten(1).unique(dim=0)
        assert len(seen) == 40 and [len(b.rows) for b in batches] == [9, 9, 9, 9, 4]
    for whole, *shares in zip(first, *(epoch(0, rank=r, world=2) for r in (0, 1)), strict=True):
        rows = torch.cat([share.rows for share in shares])
        assert torch.equal(
            torch.cat([s.labels for s in shares]), whole.labels[rows - whole.rows[0]]
        )
    loader = Batches(stream, 9, seed=1, shuffle=True)
    loader.load_state_dict({"done": 3})
    assert same(list(loader), first[3:])


@pytest.mark.parametrize("step", [2, 4, 7])
def test_a_streamed_run_goes_on_to_the_bit(
    hub: Path, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"data": f"hf:{hub}", "stream": True, "batch": 11, "epochs": 2}
    whole = fit(tmp_path / "whole", **options)
    assert whole.last["step"] == 8 and whole.last["val_accuracy"] > 0.5
    with monkeypatch.context() as patch, pytest.raises(InterruptedRun):
        stop_at(patch, step)
        fit(tmp_path / "run", **options)
    fit(tmp_path / "run", resume=True, **options)
    assert same(state(tmp_path / "run"), state(tmp_path / "whole"))


def png(size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size), 50).save(file, "PNG")
    return file.getvalue()


def stream_of(pictures: list[bytes], request: Request = SMALL, count: int = 0) -> Stream:
    def samples(seed: int | None) -> Iterator[Sample]:
        for i, data in enumerate(pictures):
            yield Sample(f"{i}.png", lambda data=data: io.BytesIO(data), i % 6)  # type: ignore[misc]

    return Stream(samples, count or len(pictures), request, "train")


def test_few_pictures_of_a_stream_are_open_at_a_time() -> None:
    taken = []

    def samples(seed: int | None) -> Iterator[Sample]:
        for i in range(10_000):
            taken.append(i)
            yield Sample(str(i), lambda: io.BytesIO(png()), 0)

    loader = iter(Batches(Stream(samples, 10_000, SMALL, "train"), 10))
    for _ in range(5):
        next(loader)
    assert len(taken) <= (5 + 4) * 10


def test_a_picture_that_cannot_be_decoded_is_named_and_stood_in_for() -> None:
    stream = stream_of([png(), b"torn", png(), png()])
    (batch,) = Batches(stream, 4)
    assert batch.labels.tolist() == [0, 2, 2, 3]
    assert stream.bad == {"1.png": "it is no picture"}


@pytest.mark.parametrize(
    ("stream", "code", "word"),
    [
        (stream_of([b"torn"] * 3), "E411", "no picture of a whole batch"),
        (stream_of([png()] * 3, count=4), "E411", "said to have 4 samples, but 3 came"),
        (stream_of([png()] * 6), "E413", "label 5"),
        (stream_of([png(), png(5)]), "E412", "--resize"),
    ],
)
def test_what_is_wrong_in_a_stream_is_said_when_it_comes(
    stream: Stream, code: str, word: str
) -> None:
    with pytest.raises(TrainingError, match=word) as caught:
        list(Batches(stream, 6))
    assert caught.value.diagnostic.code == code


def test_a_streams_pictures_are_resized_and_padded_when_asked() -> None:
    for choice in ("resize", "pad"):
        request = Request({"x": (1, 6, 6)}, CLASSES, **{choice: True})
        (batch,) = Batches(stream_of([png(5), png(4)], request), 2)
        assert batch.inputs[0].shape == (2, 1, 6, 6)
        assert bool(batch.inputs[0][1, 0, 0, 0]) == (choice == "resize")


def test_what_cannot_be_read_is_said(hub: Path, tmp_path: Path) -> None:
    streamed = Request(SMALL.inputs, CLASSES, stream=True)
    for text, request, word in (
        ("hf:/nowhere/at/all", SMALL, "no data set '/nowhere"),
        ("digits", streamed, "cannot be streamed"),
        (f"hf:{hub}", Request({"x": (1, 5, 5)}, CLASSES), "--resize or --pad"),
        (f"hf:{hub}", Request(SMALL.inputs, ("classes", (), 3.0, -100.0)), "label 3"),
        (
            f"hf:{hub}",
            Request(SMALL.inputs, ("classes", (), 3.0, -100.0), stream=True),
            "4 classes",
        ),
    ):
        with pytest.raises(TrainingError, match=word):
            read(text, request)
    part = tmp_path / "only"
    part.mkdir()
    (part / "train.parquet").write_bytes((hub / "test-00000-of-00001.parquet").read_bytes())
    assert len(read(f"hf:{part}", SMALL).test) == 3
    with pytest.raises(TrainingError, match="a stream cannot be split"):
        read(f"hf:{part}", streamed)


def test_without_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(TrainingError, match="pip install datasets"):
        read("hf:someone/some", SMALL)
