"""Readers of data sets: what they give, and what they say of bad files. Faults as in research:
damaged files, pickle, labels that do not fit, pictures of every odd kind."""

import gzip
import os
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from convdsl.train.data.digits import read_digits
from convdsl.train.data.normalise import Normalisation, as_float, measure
from convdsl.train.data.parts import Arrays, Request
from convdsl.train.data.pictures import BadPictureError, decode
from convdsl.train.data.read import read
from convdsl.train.problem import TrainingError

CLASSES = ("classes", (), 10.0, -100.0)
SMALL = Request({"x": (1, 4, 4)}, CLASSES)
COLOUR = Request({"x": (3, 8, 6)}, CLASSES)


def refused(text: str, request: Request, code: str, *words: str) -> None:
    """Reading ``text`` is refused with this code, and the words are in what is said."""
    with pytest.raises(TrainingError) as caught:
        read(text, request)
    assert caught.value.diagnostic.code == code
    for word in words:
        assert word in str(caught.value)


# IDX


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return (
        bytes([0, 0, kind, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def mnist(folder: Path, packed: bool = False, **changes: bytes) -> str:
    """The four files of ten pictures each, some with other bytes."""
    numbers = np.random.default_rng(0)
    for start in ("train", "t10k"):
        files = {
            f"{start}-images-idx3-ubyte": idx(numbers.integers(0, 256, (10, 4, 4), dtype=np.uint8)),
            f"{start}-labels-idx1-ubyte": idx(np.arange(10, dtype=np.uint8)),
        }
        for name, data in files.items():
            key = name.replace("-", "_")
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(changes.get(key, data)))
            else:
                (folder / name).write_bytes(changes.get(key, data))
    return f"mnist:{folder}"


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_plain_and_packed(tmp_path: Path, packed: bool) -> None:
    data = read(mnist(tmp_path, packed), SMALL)
    expected = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
    (x,) = data.train.take(torch.arange(10))
    assert x.dtype == torch.uint8 and np.array_equal(x[:, 0].numpy(), expected)
    assert data.train.labels.tolist() == list(range(10)) and data.classes[9] == "9"


HEAD = b"\0\0\x08\x03"
BAD_IDX = {
    "empty": (b"", "no IDX file"),
    "bad magic": (b"\x01\0\x08\x03" + bytes(12), "no IDX file"),
    "wrong type": (b"\0\0\x0d\x03" + bytes(12), "0x0d"),
    "labels in place of pictures": (idx(np.arange(10, dtype=np.uint8)), "axes"),
    "header cut off": (HEAD + bytes(3), "too early"),
    "cut off": (HEAD + struct.pack(">3I", 10, 4, 4) + bytes(99), "does not fit its length"),
    "goes on": (HEAD + struct.pack(">3I", 10, 4, 4) + bytes(161), "does not fit its length"),
    "2^31 each way": (
        HEAD + struct.pack(">3I", *[2**31] * 3) + bytes(9),
        "does not fit its length",
    ),
    "other count": (idx(np.zeros((9, 4, 4), dtype=np.uint8)), "9 pictures"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_files_are_refused(tmp_path: Path, case: str, packed: bool) -> None:
    content, word = BAD_IDX[case]
    if packed and case in ("cut off", "goes on"):
        word = {"cut off": "too early", "goes on": "after its last"}[case]
    refused(mnist(tmp_path, packed, train_images_idx3_ubyte=content), SMALL, "E411", word)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    text = mnist(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:60])
    refused(text, SMALL, "E411", "damaged")


def test_a_gzip_bomb_unpacks_no_more_than_its_header_says(tmp_path: Path) -> None:
    bomb = HEAD + struct.pack(">3I", 1, 4, 4) + bytes(1 << 26)
    refused(
        mnist(tmp_path, packed=True, train_images_idx3_ubyte=bomb), SMALL, "E411", "after its last"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused(f"mnist:{tmp_path}", SMALL, "E411", "t10k-labels")
    refused("mnist:/nowhere", SMALL, "E411", "no folder")


# CIFAR


def cifar(folder: Path, records: int = 3) -> None:
    numbers = np.random.default_rng(1)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        rows = numbers.integers(0, 256, (records, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(records)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def test_cifar10_is_read_in_its_binary_form(tmp_path: Path) -> None:
    cifar(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    data = read(f"cifar10:{tmp_path}", Request({"x": (3, 32, 32)}, CLASSES))
    assert len(data.train) == 15 and len(data.test) == 3 and data.classes[:2] == ("a", "b")
    first = np.frombuffer((tmp_path / "data_batch_1.bin").read_bytes()[1:3073], dtype=np.uint8)
    (x,) = data.train.take(torch.tensor([0]))
    assert np.array_equal(x.numpy().ravel(), first)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = np.zeros((2, 3074), dtype=np.uint8)
        rows[:, 1] = (7, 99)
        (tmp_path / f"{name}.bin").write_bytes(rows.tobytes())
    data = read(f"cifar100:{tmp_path}", Request({"x": (3, 32, 32)}, ("classes", (), 100.0, -100.0)))
    assert data.train.labels.tolist() == [7, 99]


def test_pickled_cifar_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = SimpleNamespace()
    evil = type("Evil", (), {"__reduce__": lambda self: (Path.touch, (canary,))})()
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(evil))
    refused(f"cifar10:{tmp_path}", COLOUR, "E411", "pickle", "binary version")
    assert not canary.exists()


def test_cut_off_cifar_is_refused(tmp_path: Path) -> None:
    cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    refused(
        f"cifar10:{tmp_path}", Request({"x": (3, 32, 32)}, CLASSES), "E411", "multiple of 3,073"
    )


# npz


def npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"npz:{path}"


X = np.random.default_rng(2).random((40, 1, 4, 4)).astype(np.float32)
Y = np.arange(40) % 10


@pytest.mark.parametrize(
    "x",
    [X, X[:, 0], np.moveaxis(X, 1, 3), (X * 255).astype(np.uint8), X.astype(np.float64)],
    ids=["NCHW", "NHW", "NHWC", "uint8", "float64"],
)
def test_npz_arrays_in_every_reading_that_fits(tmp_path: Path, x: np.ndarray) -> None:
    data = read(npz(tmp_path / "a.npz", x=x, y=Y), SMALL)
    assert len(data.train) == 30 and len(data.test) == 10
    (taken,) = data.train.take(torch.arange(30))
    assert taken.shape == (30, 1, 4, 4)
    assert sorted(data.train.labels.tolist()) == sorted(list(range(10)) * 3)  # stratified


def test_npz_with_two_parts(tmp_path: Path) -> None:
    text = npz(tmp_path / "a.npz", x_train=X, y_train=Y[:, None], x_test=X[:5], y_test=Y[:5])
    data = read(text, SMALL)
    assert len(data.train) == 40 and len(data.test) == 5


BAD_NPZ = {
    "objects": ({"x": np.array([{}, {}], dtype=object), "y": Y}, "E411", "Python objects"),
    "text": ({"x": np.array(["a", "b"]), "y": Y}, "E411", "not numbers"),
    "names": ({"a": X, "b": Y}, "E411", "names known: a, b"),
    "counts": ({"x": X, "y": Y[:39]}, "E411", "40 inputs and 39 labels"),
    "size": ({"x": X[:, :, :3], "y": Y}, "E412", "--resize or --pad", "1@3x4"),
    "channels": ({"x": np.repeat(X, 3, 1), "y": Y}, "E412", "--input 3@4x4"),
    "label above": (
        {"x": X, "y": Y + 1},
        "E413",
        "label 10",
        "scores: classes 0 to 9",
        "11 scores",
    ),
    "label below": ({"x": X, "y": Y - 1}, "E413", "label -1", "from 0"),
    "fractions": ({"x": X, "y": Y.astype(np.float32)}, "E413", "astype('int64')"),
    "one-hot": ({"x": X, "y": np.eye(10, dtype=int)[Y]}, "E413", "argmax"),
    "nan": ({"x": np.where(X[3, 0, 0, 0] == X, np.nan, X), "y": Y}, "E414", "not finite"),
    "not scaled": ({"x": X * 255, "y": Y}, "E414", "divide by 255"),
    "one sample": ({"x": X[:1], "y": Y[:1]}, "E410", "cannot be held out"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_arrays_are_refused(tmp_path: Path, case: str) -> None:
    arrays, code, *words = BAD_NPZ[case]
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    refused(f"npz:{path}", SMALL, code, *words)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04 torn", pickle.dumps([1])):
        path.write_bytes(content)
        refused(f"npz:{path}", SMALL, "E411", "no .npz file")
    refused(f"npz:{tmp_path / 'missing.npz'}", SMALL, "E300")


def test_pictures_are_padded_or_resized_when_asked(tmp_path: Path) -> None:
    text = npz(tmp_path / "a.npz", x=(X * 255).astype(np.uint8), y=Y)
    padded = read(text, Request({"x": (1, 7, 6)}, CLASSES, pad=True))
    (x,) = padded.train.take(torch.tensor([0]))
    assert x.shape == (1, 1, 7, 6) and not x[0, 0, 0].any() and x.dtype == torch.uint8
    resized = read(text, Request({"x": (1, 2, 2)}, CLASSES, resize=True))
    (x,) = resized.train.take(torch.tensor([0]))
    assert x.shape == (1, 1, 2, 2) and x.dtype == torch.uint8
    refused(text, Request({"x": (1, 3, 3)}, CLASSES, pad=True), "E412", "cannot be padded")


def test_several_inputs_stand_under_their_names(tmp_path: Path) -> None:
    request = Request({"left": (1, 4, 4), "right": (1, 4, 4)}, ("pairs", (1,), None, None))
    text = npz(tmp_path / "a.npz", left=X, right=X + 0, y=(Y > 4).astype(int))
    assert len(read(text, request).train.take(torch.arange(3))) == 2
    refused(npz(tmp_path / "b.npz", left=X, y=Y), request, "E411", "names known")


# folders of pictures


def picture(
    path: Path, size: tuple[int, int] = (6, 8), colour: int = 100, **options: object
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 50, 200)).save(path, **options)


def folder(root: Path, count: int = 8) -> None:
    for name in ("cat", "dog"):
        for i in range(count):
            picture(root / name / f"{i}.png", colour=10 * i)


def test_a_folder_of_classes_is_split(tmp_path: Path) -> None:
    folder(tmp_path)
    data = read(f"folder:{tmp_path}", COLOUR)
    assert data.classes == ("cat", "dog") and not data.notes
    assert (len(data.train), len(data.test)) == (12, 4)
    assert data.test.labels.tolist().count(1) == 2


def test_train_and_val_folders_are_kept_apart(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "val", 3)
    data = read(f"folder:{tmp_path}", COLOUR)
    assert (len(data.train), len(data.test)) == (16, 6)
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "fox")
    refused(f"folder:{tmp_path}", COLOUR, "E411", "lacks the classes dog", "not trained: fox")


def test_junk_is_passed_over_and_corrupt_pictures_are_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "dog" / "loop").symlink_to(tmp_path)
    (tmp_path / "cat" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    picture(tmp_path / "dog" / "half.jpg", (600, 800))
    half = tmp_path / "dog" / "half.jpg"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    data = read(f"folder:{tmp_path}", COLOUR)
    assert len(data.train) + len(data.test) == 16
    assert "2 pictures left out" in data.notes[0] and "torn.jpg" in data.notes[0]
    assert "half.jpg" in data.notes[0]


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    refused(f"folder:{tmp_path}", COLOUR, "E410", "no folders")
    folder(tmp_path)
    (tmp_path / "emu").mkdir()
    refused(f"folder:{tmp_path}", COLOUR, "E410", "'emu'")
    refused(f"folder:{tmp_path}", Request({"x": (5, 8, 8)}, CLASSES), "E412", "1 or 3 channels")


def test_pictures_that_stay_in_their_files_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path)
    within = read(f"folder:{tmp_path}", COLOUR)
    monkeypatch.setattr("convdsl.train.data.folder.MOST_BYTES", 0)
    outside = read(f"folder:{tmp_path}", COLOUR)
    rows = torch.tensor([3, 1, 7])
    assert not outside.train.in_memory
    assert torch.equal(outside.train.take(rows)[0], within.train.take(rows)[0])


def test_a_picture_that_breaks_later_stands_back_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "val", 2)
    monkeypatch.setattr("convdsl.train.data.folder.MOST_BYTES", 0)
    data = read(f"folder:{tmp_path}", COLOUR)
    expected = data.train.take(torch.tensor([3]))[0]
    (tmp_path / "train" / "cat" / "2.png").write_bytes(b"broken")
    assert torch.equal(data.train.take(torch.tensor([2]))[0], expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P", "LA", "1", "I;16", "I", "F"])
def test_every_mode_is_decoded(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.new(mode, (12, 16)).save(path)
    assert decode(path, (3, 8, 6)).shape == (3, 8, 6)
    assert decode(path, (1, 1, 1)).shape == (1, 1, 1)


def test_what_only_looks_like_a_picture_is_left_out_by_name(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in ("new\nline.png", "pipe.png", "nowhere.png"):
        path = tmp_path / "cat" / name
        if name == "pipe.png":
            os.mkfifo(path)  # opening it would wait for ever
        elif name == "nowhere.png":
            path.symlink_to(tmp_path / "gone")
        else:
            path.write_bytes(b"x")
    picture(tmp_path / "dog" / "dot.png", (1, 1))
    data = read(f"folder:{tmp_path}", COLOUR)
    assert len(data.train) + len(data.test) == 17
    assert "3 pictures left out" in data.notes[0] and "no such file" in data.notes[0]


def test_a_transparent_palette_and_a_single_class_are_read(tmp_path: Path) -> None:
    for i in range(4):
        path = tmp_path / "cat" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("P", (6, 8), i).save(path, transparency=0)
    data = read(f"folder:{tmp_path}", COLOUR)
    assert data.classes == ("cat",) and len(data.train) == 3


def test_16_bits_are_brought_to_8(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)).save(path)
    assert decode(path, (1, 4, 4)).unique().tolist() == [255]


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    x = decode(tmp_path / "a.png", (1, 8, 8))[0]
    assert x[:, 4:].min() == 255 and x[:, :4].max() == 0


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), colour) for colour in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert not decode(tmp_path / "a.gif", (1, 4, 4)).any()


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", (40, 40))
    for limit in (1000, 500):  # Pillow warns from the limit on and refuses from twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BadPictureError, match="more pixels"):
            decode(tmp_path / "a.png", (3, 4, 4))


# what is common to all


def test_unknown_data_gets_advice() -> None:
    refused("digit", SMALL, "E411", "did you mean digits?")
    refused("digits:8", Request({"x": (1, 8, 8)}, CLASSES), "E411", "no argument")


def test_the_split_is_stratified_and_given_by_its_seed() -> None:
    request = Request({"x": (1, 8, 8)}, CLASSES)
    a, b = read_digits("", request), read_digits("", request)
    assert torch.equal(a.train.labels, b.train.labels) and len(a.test) == 450
    assert torch.bincount(a.test.labels).min() >= 43
    c = read_digits("", Request({"x": (1, 8, 8)}, CLASSES, split_seed=1))
    assert not torch.equal(a.train.take(torch.arange(9))[0], c.train.take(torch.arange(9))[0])


def test_normalisation_is_that_of_the_training_pictures() -> None:
    x = torch.randint(0, 256, (700, 3, 5, 4), dtype=torch.uint8)
    (found,) = measure(Arrays((x,), torch.zeros(700)))
    y = as_float(x).double()
    assert found.mean == pytest.approx(y.mean((0, 2, 3)).tolist(), abs=1e-9)
    assert found.std == pytest.approx(y.std((0, 2, 3), unbiased=False).tolist(), abs=1e-9)
    flat = y.movedim(1, 0).flatten(1)
    values, axes = torch.linalg.eigh(torch.cov(flat, correction=0))
    ours = torch.tensor(found.colour, dtype=torch.float64)
    assert torch.allclose(ours.norm(dim=1), values, atol=1e-9)
    assert torch.allclose((ours @ axes).abs(), torch.diag(values), atol=1e-9)
    z = found(as_float(x))
    assert z.mean((0, 2, 3)).abs().max() < 1e-5 and (z.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert Normalisation.from_json(found.to_json()) == found


def test_a_channel_that_never_changes_stays_as_it_is() -> None:
    (found,) = measure(Arrays((torch.full((9, 1, 2, 2), 0.5),), torch.zeros(9)))
    assert found.std == (1.0,)
