"""Weights of torchvision and timm in generated networks: the same logits, or a refusal."""

import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import convdsl
from convdsl import weights
from convdsl.weights import MismatchError
from tests.published_models import PUBLISHED, pictures, published

ROOT = Path(__file__).parent.parent
NETWORKS, DOCS = ROOT / "networks", ROOT / "docs"
QUICK = ("resnet18", "googlenet")
EVERY = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]


def generated(name: str, *without: str) -> nn.Module:
    """The network of a file on the plain PyTorch target, perhaps without some of its layers."""
    text = (NETWORKS / f"{name}.cnn").read_text("utf-8")
    for layer in without:
        assert layer in text
        text = text.replace(layer, "")
    return convdsl.compile_text(text, name=f"{name}.cnn").module(device="cpu", target="torch")


def equal(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in theirs)


# ---- the published networks


@pytest.mark.parametrize("name", EVERY)
def test_a_published_network_and_ours_give_the_same_logits(name: str) -> None:
    """In either order of memory: from one to the other theirs differ from themselves."""
    theirs, ours, x = published(name), generated(name).eval(), pictures(name, 2)
    state = theirs.state_dict()
    with torch.no_grad():
        expected = theirs(x)
        apart = (expected[0] - expected[1]).abs().max()
        assert apart > 0.1 * expected.abs().max() and apart > 0.1
        assert (ours(x) - expected).abs().max() > 0.1
        weights.load(ours, state)
        for order in (torch.channels_last, torch.contiguous_format):  # ours as it starts, theirs
            for network in (ours, theirs):
                network.to(memory_format=order)  # type: ignore[call-overload]
            expected = theirs(x.to(memory_format=order))
            torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)
    assert equal(weights.to_torchvision(ours, state), state)


def test_the_documentation_lists_the_published_networks() -> None:
    table = re.findall(r"^\| (`.*?) \|", (DOCS / "weights.md").read_text("utf-8"), re.M)
    assert {name for cell in table for name in cell.replace("`", "").split()} == set(PUBLISHED)


def test_one_step_of_training_is_torchvisions() -> None:
    """In float64: batch statistics of four pictures make much of float32's last digits."""
    theirs, ours = (make("resnet18").double().train() for make in (published, generated))
    weights.load(ours, theirs.state_dict())
    x, y = pictures("resnet18", 4).double(), torch.tensor([3, 999, 0, 41])
    loss = F.cross_entropy(theirs(x), y)
    mine = ours(x, y)
    torch.testing.assert_close(mine, loss, rtol=1e-6, atol=1e-6)
    loss.backward()
    mine.backward()
    for network in (theirs, ours):
        torch.optim.SGD(network.parameters(), lr=0.01).step()
    after = weights.to_torchvision(ours, theirs.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(after[key], value, rtol=1e-7, atol=1e-8)


def test_the_auxiliary_logits_are_torchvisions() -> None:
    theirs = published("googlenet").train()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = generated("googlenet", "DROPOUT(0.2) - ", "DROPOUT(0.7) - ").train()
    weights.load(ours, theirs.state_dict())
    x, y = pictures("googlenet", 4), torch.tensor([3, 999, 0, 41])
    with torch.no_grad():
        expected, mine = theirs(x), ours(x)
        pairs = (
            (mine.output, expected.logits),
            (mine.aux1, expected.aux_logits1),
            (mine.aux2, expected.aux_logits2),
        )
        for logits, published_logits in pairs:
            assert (published_logits[0] - published_logits[1]).abs().max() > 0.1
            torch.testing.assert_close(logits, published_logits, rtol=1e-4, atol=1e-4)
        loss, aux1, aux2 = (F.cross_entropy(logits, y) for _, logits in pairs)
        total = loss + 0.3 * (aux1 + aux2)
        torch.testing.assert_close(ours(x, y), total, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_auxiliary_loss_is_torchvisions() -> None:
    theirs = published("inception_v3").train()
    theirs.dropout.p = 0.0  # type: ignore[union-attr]
    ours = generated("inception_v3", "DROPOUT(0.5) - ").train()
    weights.load(ours, theirs.state_dict())
    x, y = pictures("inception_v3", 4), torch.tensor([3, 999, 0, 41])
    theirs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits, aux = theirs(x.to(memory_format=torch.channels_last))
    expected = F.cross_entropy(logits, y) + 0.4 * F.cross_entropy(aux, y)
    torch.testing.assert_close(ours(x, y), expected, rtol=1e-4, atol=1e-4)
    after = weights.to_torchvision(ours, theirs.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-5)


# ---- matching


def sequence(**layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))


def conv(channels: int, filters: int, f: int = 3) -> nn.Module:
    return nn.Conv2d(channels, filters, f)


SMALL = "input 3@8x8 net Small = [CONV(k, bias=false) - BN - RELU]*(k in 4, 4) - FC(5)"


@pytest.fixture
def ours() -> nn.Module:
    return convdsl.compile_text(SMALL).module(device="cpu", target="torch")


def theirs(classes: int = 5) -> nn.Module:
    def unit(channels: int) -> nn.Module:
        return sequence(conv=nn.Conv2d(channels, 4, 3, bias=False), norm=nn.BatchNorm2d(4))

    return sequence(first=unit(3), second=unit(4), classifier=nn.Linear(4 * 8 * 8, classes))


def test_by_order(ours: nn.Module) -> None:
    state = theirs().state_dict()
    weights.load(ours, state)
    assert equal(weights.to_torchvision(ours, state), state)
    pairs = weights.match(ours, state)
    assert set(pairs) == set(ours.state_dict())
    assert pairs["stack.1.bn.running_var"] == "second.norm.running_var"
    assert pairs["fc.bias"] == "classifier.bias"


def test_both_targets_compute_with_them(ours: nn.Module) -> None:
    state = {
        k: torch.rand_like(v) if v.is_floating_point() else v
        for k, v in theirs().state_dict().items()
    }
    kernels = convdsl.compile_text(SMALL).module(device="cpu", target="triton")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for model in (ours, kernels):
        weights.load(model.eval(), state)
    torch.testing.assert_close(kernels(x), ours(x), rtol=1e-4, atol=1e-4)


def test_a_network_takes_its_own_weights_in_any_order(ours: nn.Module) -> None:
    state = {key: torch.randn_like(value) for key, value in ours.state_dict().items()}
    weights.load(ours, dict(reversed(state.items())))
    assert equal(ours.state_dict(), state)


def test_a_dense_layer_takes_the_convolution_that_covers_its_map(ours: nn.Module) -> None:
    state = theirs().state_dict()
    state["classifier.weight"] = state["classifier.weight"].reshape(5, 4, 8, 8)
    weights.load(ours, state)
    assert ours.state_dict()["fc.weight"].shape == (5, 256)
    assert equal(weights.to_torchvision(ours, state), state)


def test_numbers_are_cast_to_the_networks_type(ours: nn.Module) -> None:
    state = {
        k: v.double() if v.is_floating_point() else v for k, v in theirs().state_dict().items()
    }
    weights.load(ours, state)
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}


def test_counters_are_kept(ours: nn.Module) -> None:
    state = theirs().state_dict()
    state["second.norm.num_batches_tracked"].fill_(7)
    weights.load(ours, state)
    assert equal(weights.to_torchvision(ours, state), state)


def test_counters_are_0_where_only_shapes_are_known(ours: nn.Module) -> None:
    with torch.device("meta"):
        like = theirs().state_dict()
    back = weights.to_torchvision(ours, like)
    assert back["first.norm.num_batches_tracked"].item() == 0
    theirs().load_state_dict(back)


def test_what_comes_back_is_a_copy(ours: nn.Module) -> None:
    state = theirs().state_dict()
    before = ours.state_dict()["fc.bias"].clone()
    weights.to_torchvision(ours, state)["classifier.bias"].fill_(9.0)
    assert torch.equal(ours.state_dict()["fc.bias"], before)


def test_parts_of_one_name_may_stand_elsewhere() -> None:
    mine = sequence(a=conv(1, 2), b=conv(2, 2), aux=sequence(x=conv(2, 3), y=conv(3, 2)))
    other = sequence(a0=conv(1, 2), aux=sequence(p=conv(2, 3), q=conv(3, 2)), b0=conv(2, 2))
    found = {k.removesuffix(".bias"): v for k, v in weights.match(mine, other.state_dict()).items()}
    assert found["b"] == "b0.bias" and found["aux.x"] == "aux.p.bias"


def test_names_say_what_belongs_together() -> None:
    mine = sequence(a=conv(1, 2), b=conv(2, 2), aux=sequence(x=conv(2, 2)))
    other = sequence(a0=conv(1, 2), Aux=sequence(p=conv(2, 2)), b0=conv(2, 2)).state_dict()
    assert weights.match(mine, other)["b.bias"] == "Aux.p.bias"  # what the order says
    assert weights.match(mine, other, {"aux": "Aux"})["b.bias"] == "b0.bias"
    assert weights.match(mine, other, {"aux.x": "b0", "b": "Aux.p"})["aux.x.bias"] == "b0.bias"
    weights.load(mine, other, {"aux": "Aux"})
    assert torch.equal(mine.state_dict()["aux.x.bias"], other["Aux.p.bias"])
    back = weights.to_torchvision(mine, other, {"aux": "Aux"})
    assert equal(back, other)


# ---- refusals


def refusal(model: nn.Module, state: Mapping[str, Tensor], **options: Mapping[str, str]) -> str:
    """The text of the refusal, which must leave the network as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MismatchError) as error:
        weights.load(model, state, **options)
    assert equal(model.state_dict(), before)
    return str(error.value)


def test_another_head_is_refused(ours: nn.Module) -> None:
    assert refusal(ours, theirs(classes=7).state_dict()) == (
        "1 of the network's 5 layers and 1 of the state_dict's do not fit; nothing was changed\n"
        "  the network               |  the state_dict\n"
        "  fc: weight 5x256, bias 5  |  classifier: weight 7x256, bias 7"
    )


def test_a_layer_left_over_is_refused(ours: nn.Module) -> None:
    state = theirs().state_dict()
    del state["first.norm.running_mean"]
    text = refusal(ours, state)
    assert "stack.0.bn: weight 4, bias 4, running_mean 4, running_var 4" in text
    assert "first.norm: weight 4, bias 4, running_var 4" in text
    state = theirs().state_dict() | {"extra.weight": torch.zeros(3)}
    assert "  -            |  extra: weight 3" in refusal(ours, state)
    state = dict([*theirs().state_dict().items()][:-2])
    assert "fc: weight 5x256, bias 5  |  -" in refusal(ours, state)


def test_a_long_list_is_cut(ours: nn.Module) -> None:
    state = theirs().state_dict() | {f"more{i}.weight": torch.zeros(3) for i in range(40)}
    assert refusal(ours, state).endswith("\n  ... and 16 more")


def test_the_shortcut_in_front_of_the_branch_is_refused() -> None:
    text = (
        "input 4@8x8 block cb(k, f, s) = CONV(k, f, S=s, bias=false) - BN "
        "net Skip = ADD{ cb(8, 3, 2) - RELU - cb(8, 3, 1) | cb(8, 1, 2) } - RELU"
    )
    model = convdsl.compile_text(text).module(device="cpu", target="torch")

    def cb(channels: int, f: int) -> nn.Module:
        return sequence(conv=nn.Conv2d(channels, 8, f, bias=False), bn=nn.BatchNorm2d(8))

    weights.load(model, sequence(a=cb(4, 3), b=cb(8, 3), skip=cb(4, 1)).state_dict())
    message = refusal(model, sequence(skip=cb(4, 1), a=cb(4, 3), b=cb(8, 3)).state_dict())
    assert "skip.conv: weight 8x4x1x1" in message


def test_scales_are_never_taken_for_shifts() -> None:
    mine = sequence(conv=nn.Conv2d(1, 4, 1), bn=nn.BatchNorm2d(4))
    state = sequence(a=nn.Conv2d(1, 4, 1), b=nn.BatchNorm2d(4)).state_dict()
    turned = {key: state[key] for key in ("a.weight", "a.bias", "b.running_var", "b.running_mean")}
    turned |= {"b.weight": state["b.weight"], "b.bias": state["b.bias"]}
    assert weights.match(mine, turned)["bn.weight"] == "b.weight"
    assert weights.match(mine, turned)["bn.running_mean"] == "b.running_mean"


def test_names_that_contradict_the_order_are_refused() -> None:
    layers = [conv(2, 2) for _ in range(3)]
    mine = sequence(**dict(zip(("conv", "conv2", "conv3"), layers, strict=True)))
    state = sequence(conv1=conv(2, 2), conv2=conv(2, 2), conv3=conv(2, 2)).state_dict()
    assert weights.match(mine, state)["conv.weight"] == "conv1.weight"
    state = sequence(conv0=conv(2, 2), conv1=conv(2, 2), conv2=conv(2, 2)).state_dict()
    assert refusal(mine, state) == (
        "conv2 may be conv2 or, going by the order, conv1: the shapes are equal. "
        "Say which: names={'conv2': 'conv1'}"
    )
    pairs = weights.match(mine, state, {"conv2": "conv1", "conv3": "conv2"})
    assert pairs["conv.weight"] == "conv0.weight" and pairs["conv3.weight"] == "conv2.weight"


def test_a_sorted_state_dict_has_lost_its_order(ours: nn.Module, tmp_path: Path) -> None:
    state = theirs().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    loaded = load_file(tmp_path / "weights.safetensors")
    assert list(loaded) != list(state)
    message = refusal(ours, loaded)
    assert message.startswith("the state_dict is sorted by name, as .safetensors files are")
    weights.load(ours, {key: loaded[key] for key in state})
    assert torch.equal(ours.state_dict()["stack.0.bn.weight"], state["first.norm.weight"])


def test_numbers_in_alphabetical_order_have_lost_their_order() -> None:
    mine = nn.Sequential(*(nn.Conv2d(2, 2, 1, bias=False) for _ in range(12)))
    state = {f"features.{i}.weight": torch.zeros(2, 2, 1, 1) for i in range(12)}
    weights.load(mine, state)
    assert "sorted by name" in refusal(mine, dict(sorted(state.items())))


def test_a_checkpoint_is_no_state_dict(ours: nn.Module) -> None:
    checkpoint = {"epoch": 3, "model": theirs().state_dict()}
    with pytest.raises(TypeError, match=r"'epoch' is no tensor.*pass its entry 'model'"):
        weights.load(ours, checkpoint)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Sequential is no state_dict: pass model\.state_dict\(\)"):
        weights.load(ours, theirs())  # type: ignore[arg-type]


def test_names_must_exist(ours: nn.Module) -> None:
    state = theirs().state_dict()
    with pytest.raises(ValueError, match="no layer or part 'fcc'"):
        weights.load(ours, state, {"fcc": "classifier"})
    with pytest.raises(ValueError, match="two layers of the network would have one name"):
        weights.load(ours, state, {"stack.0.conv": "x", "stack.1.conv": "x"})


def test_weights_are_reached_from_the_package_which_starts_without_torch() -> None:
    program = (
        "import convdsl, sys; assert 'torch' not in sys.modules;"
        "convdsl.weights.load; assert 'torch' in sys.modules;"
        "assert not hasattr(convdsl, 'weight')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
