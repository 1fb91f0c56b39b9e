"""However a weight changes, kernels in half precision read what it is now."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import convdsl
from tests.test_kernel_weights import (
    backward,
    batch,
    casts,
    is_fresh,
    network,
    other_state,
    trained,
)


def by_torch(optimizer: str, **options: Any) -> Callable[[Any], None]:
    def step(model: Any) -> None:
        backward(model)
        getattr(torch.optim, optimizer)(model.parameters(), lr=0.5, **options).step()

    return step


def in_place(model: Any) -> None:
    with torch.no_grad():
        model.get_parameter("conv.weight").mul_(3)


def through_data(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.clamp_(-0.01, 0.01)


def new_memory(model: Any) -> None:
    model.get_parameter("fc.weight").data = torch.ones(3, 36)


def new_memory_where_the_old_was(model: Any) -> None:
    weight = model.get_parameter("fc.weight")
    old = weight.data.clone()
    first = weight.data
    weight.data = old
    first.fill_(0.5)
    weight.data = first


def new_parameter(model: Any) -> None:
    model.fc.weight = nn.Parameter(torch.ones(3, 36))


def one_parameter_in_two_places(model: Any) -> None:
    weight = nn.Parameter(torch.ones(4, 2, 3, 3))
    model.conv.weight = weight
    model(batch(model)[0])
    with torch.no_grad():
        weight.fill_(0.5)


def averages(model: Any) -> None:
    for value in model.state_dict().values():
        value.copy_(value * 0.9)


def from_a_vector(model: Any) -> None:
    vector = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    nn.utils.vector_to_parameters(vector + 1, model.parameters())


def there_and_back(model: Any) -> None:
    model.double()
    in_place(model)
    model.float()


def through_numpy(model: Any) -> None:
    weight = model.get_parameter("conv.weight")
    weight.detach().numpy()[:] = 0.25
    torch.autograd.graph.increment_version(weight)  # as torch asks


CHANGES: dict[str, Callable[[Any], Any]] = {
    "torch SGD": by_torch("SGD", momentum=0.9),
    "torch SGD, fused": by_torch("SGD", fused=True),
    "torch Adam, foreach": by_torch("Adam", foreach=True),
    "torch Adam, fused": by_torch("Adam", fused=True),
    "load_state_dict": lambda m: m.load_state_dict(other_state(m)),
    "load_state_dict, assign": lambda m: m.load_state_dict(other_state(m), assign=True),
    "in place": in_place,
    "through data": through_data,
    "initialised again": lambda m: nn.init.normal_(m.conv.weight),
    "new memory": new_memory,
    "new memory where the old was": new_memory_where_the_old_was,
    "a new parameter": new_parameter,
    "one parameter": one_parameter_in_two_places,
    "averages": averages,
    "from a vector": from_a_vector,
    "through numpy": through_numpy,
    "there and back": there_and_back,
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_goes_unnoticed_and_each_costs_one_launch(change: str) -> None:
    model, optimizer = trained()
    before = [p.detach().clone() for p in model.parameters()]
    CHANGES[change](model)
    after = list(model.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    x, _ = batch(model)
    model.eval()
    with torch.no_grad():
        assert casts(lambda: model(x)) == 1
        assert is_fresh(model)
    model.train()
    for _ in range(2):  # and training goes on
        optimizer = convdsl.SGD(model.parameters(), lr=0.1)
        backward(model)
        optimizer.step()
    assert is_fresh(model)


@pytest.mark.parametrize("fused", [True, False])
def test_another_optimiser_gets_a_launch_a_pass(fused: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=fused)
    for _ in range(3):
        assert casts(lambda: backward(model)) == 1
        optimizer.step()
    assert is_fresh(model)
    assert {type(p) for p in model.parameters()} == {nn.Parameter}


def test_a_held_alias_is_watched() -> None:
    model, optimizer = trained()
    alias = model.get_parameter("conv.weight").data
    backward(model)
    optimizer.step()
    alias.zero_()
    assert is_fresh(model)


def test_frozen_weights_are_not_copied_for_ever() -> None:
    model = network()
    model.get_parameter("conv.weight").requires_grad_(False)
    optimizer = convdsl.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    counts = []
    for _ in range(4):
        counts.append(casts(lambda: backward(model)))
        optimizer.step()
    assert counts == [1, 1, 0, 0]  # the second makes sure of the frozen one
    in_place(model)
    assert casts(lambda: backward(model)) == 1 and is_fresh(model)


def test_two_optimisers_share_a_network() -> None:
    model = network()
    ours = convdsl.SGD([model.get_parameter("conv.weight")], lr=0.1)
    theirs = torch.optim.SGD([model.get_parameter("fc.weight")], lr=0.1, fused=True)
    for _ in range(3):
        assert casts(lambda: backward(model)) == 1
        ours.step()
        theirs.step()
    assert is_fresh(model)


def test_gradients_may_be_gathered_over_several_passes() -> None:
    model, optimizer = trained()
    model.zero_grad()
    losses = [model(*batch(model, samples)) for samples in (2, 3, 4)]
    torch.stack(losses).sum().backward()
    optimizer.step()
    assert is_fresh(model)


def test_a_pass_that_reads_what_a_step_has_overwritten_is_refused() -> None:
    """As by torch's own layers; it would be the gradient at other weights than the loss's."""
    for dtype in (torch.float16, torch.float32):
        model, optimizer = trained(dtype=dtype)
        early = model(*batch(model))
        backward(model)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            early.backward()


def test_networks_that_share_a_weight_are_never_sure_of_it() -> None:
    one, two = network(), network()
    two.conv.weight = one.conv.weight
    for trainer, library in ((one, convdsl), (two, torch.optim), (two, convdsl), (one, convdsl)):
        options = {"fused": True} if library is torch.optim else {}
        optimizer = library.SGD(trainer.parameters(), lr=0.5, **options)
        for _ in range(2):
            backward(trainer)
            optimizer.step()
        for model in (one, two):
            assert is_fresh(model)
            model.train()
