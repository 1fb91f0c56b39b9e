"""SGD, Adam and AdamW on fused kernels against `torch.optim`, step by step, in float32."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convdsl
from convdsl.runtime import tensor_table
from convdsl.tuning.build import TARGETS, build_all
from convdsl.tuning.plan import Argument, Kernel, cut_out

KERNELS = Path(convdsl.__file__).parent / "kernels"
TOLERANCE = 1e-6
#: more elements than a program takes, ragged and not; no element, one, axes in another order
SHAPES = ((40, 30), (7,), (3, 4, 5, 2), (2 * tensor_table.BLOCK,), (), (0, 3))

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("SGD", {"lr": 0.1}),
    "decay": ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    "dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam decay": ("Adam", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
    "amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    "adamw": ("AdamW", {"lr": 0.01}),
    "betas": ("AdamW", {"betas": (0.0, 0.5), "weight_decay": 0.3, "amsgrad": True}),
}


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that ran: no test may pass by torch's own step unnoticed."""
    seen: list[str] = []
    launch = tensor_table.launch

    def record(kernel: Any, *rest: Any) -> None:
        seen.append(kernel.fn.__name__)
        launch(kernel, *rest)

    monkeypatch.setattr("convdsl.optim.launch", record)
    return seen


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    made[2].data = made[2].data.contiguous(memory_format=torch.channels_last)
    return made


def groups(made: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": made[:2]}, {"params": made[2:], "weight_decay": 0.0}]


def give_gradients(made: list[nn.Parameter], step: int, skip: bool = True) -> None:
    """Random ones, of which some are missing in every step."""
    generator = torch.Generator().manual_seed(100 + step)
    for number, parameter in enumerate(made):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if skip and (step + number) % 4 == 0 else gradient


def steps(
    optimizer: torch.optim.Optimizer, made: list[nn.Parameter], first: int, last: int
) -> None:
    """Some steps, each at another learning rate."""
    for step in range(first, last):
        give_gradients(made, step)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 / (1 + step)
        optimizer.step()


def close(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=TOLERANCE, atol=TOLERANCE)


def pair(case: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    name, options = CASES[case]

    def ours(params: Any) -> Any:
        return getattr(convdsl, name)(params, **options)

    def theirs(params: Any) -> Any:
        return getattr(torch.optim, name)(params, **options)

    return ours, theirs


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_torch(case: str, launches: list[str]) -> None:
    ours, theirs = pair(case)
    mine, other = parameters(), parameters()
    steps(ours(groups(mine)), mine, 0, 6)
    steps(theirs(groups(other)), other, 0, 6)
    close(mine, other)
    assert len(launches) == 2 * 6  # one for each group and step


@pytest.mark.parametrize("case", CASES)
def test_on_the_cpu_torch_itself_steps(
    case: str, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    ours, theirs = pair(case)
    mine, other = parameters(), parameters()
    mine[2].data, other[2].data = mine[2].data.contiguous(), other[2].data.contiguous()
    steps(ours(groups(mine)), mine, 0, 6)
    steps(theirs(groups(other)), other, 0, 6)
    close(mine, other)
    assert not launches


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_goes_from_ours_to_torch_and_back(case: str, launches: list[str]) -> None:
    ours, theirs = pair(case)
    mine, other = parameters(), parameters()
    first, second = ours(groups(mine)), theirs(groups(other))
    steps(first, mine, 0, 3)
    steps(second, other, 0, 3)
    third, fourth = theirs(groups(mine)), ours(groups(other))
    third.load_state_dict(copy.deepcopy(first.state_dict()))
    fourth.load_state_dict(copy.deepcopy(second.state_dict()))
    assert third.state_dict()["state"].keys() == fourth.state_dict()["state"].keys()
    before = len(launches)
    steps(third, mine, 3, 6)
    assert len(launches) == before
    steps(fourth, other, 3, 6)
    assert len(launches) == before + 2 * 3
    close(mine, other)


def test_schedulers_change_every_number() -> None:
    results = []
    for library in (convdsl, torch.optim):
        made = parameters()
        optimizer = library.SGD(made, lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)
        for step in range(5):
            give_gradients(made, step)
            optimizer.step()
            scheduler.step()  # the momentum too
        results.append(made)
    close(*results)


def test_a_learning_rate_may_be_a_tensor() -> None:
    results = []
    for rate in (0.1, torch.tensor(0.1)):
        made = parameters()
        optimizer = convdsl.AdamW(made, lr=rate)
        give_gradients(made, 0)
        optimizer.step()
        if isinstance(rate, Tensor):
            rate.fill_(0.01)
        else:
            optimizer.param_groups[0]["lr"] = 0.01
        give_gradients(made, 1)
        optimizer.step()
        results.append(made)
    close(*results)


def test_parameters_may_move_between_steps() -> None:
    """`load_state_dict`, new storage and clipping are seen; no address is taken on trust."""
    results = []
    for library in (convdsl, torch.optim):
        model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        start = {k: torch.full_like(v, 0.1) for k, v in model.state_dict().items()}
        model.load_state_dict(start)
        optimizer = library.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            model(torch.ones(4, 3)).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            if step == 1:
                model.to(torch.float64).to(torch.float32)
            if step == 2:
                for parameter in model.parameters():
                    parameter.data = parameter.data.clone()
        results.append(list(model.parameters()))
    close(*results)


def test_addresses_off_a_vectors_start_are_no_trouble() -> None:
    results = []
    for library in (convdsl, torch.optim):
        memory = torch.arange(4000.0)
        made = [nn.Parameter(memory[1:2001]), nn.Parameter(memory[2001:3003])]
        give_gradients(made, 1, skip=False)
        library.SGD(made, lr=0.1).step()
        assert memory[0] == 0 and memory[3003] == 3003
        results.append(made)
    close(*results)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_what_the_kernels_cannot_step_torch_does(name: str, launches: list[str]) -> None:
    results = []
    for library in (convdsl, torch.optim):
        made = [nn.Parameter(torch.ones(5, dtype=kind)) for kind in (torch.float64, torch.float32)]
        made.append(nn.Parameter(torch.ones(4, 4)[:, ::2]))  # with gaps
        optimizer = getattr(library, name)([{"params": [p]} for p in made], lr=0.1)
        for step in range(2):
            for parameter in made:
                parameter.grad = torch.ones_like(parameter) * (step + 1)
            optimizer.step()
        results.append(made)
    for mine, other in zip(*results, strict=True):
        assert torch.allclose(mine, other)
    assert len(launches) == 2


def test_nan_and_infinity_pass_as_in_torch() -> None:
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1e-42, 3e38])
    for name in ("SGD", "Adam", "AdamW"):
        for weight_decay in (0.0, 0.1):
            results = []
            for library in (convdsl, torch.optim):
                made = [nn.Parameter(odd.clone()), nn.Parameter(torch.ones(6))]
                made[0].grad, made[1].grad = torch.ones(6), odd.clone()
                options = {"lr": 0.1, "weight_decay": weight_decay}
                getattr(library, name)(made, **options).step()
                results.append([p.detach() for p in made])
            for mine, other in zip(*results, strict=True):
                assert torch.allclose(mine, other, equal_nan=True)


def test_two_runs_are_bit_equal() -> None:
    runs = []
    for _ in range(2):
        made = parameters()
        steps(convdsl.Adam(made), made, 0, 4)
        runs.append(made)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_copies_of_an_optimizer_step_on_their_own() -> None:
    made = parameters()
    optimizer = convdsl.SGD(made, lr=0.1, momentum=0.9)
    steps(optimizer, made, 0, 2)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs = [p for group in again.param_groups for p in group["params"]]
        steps(again, theirs, 2, 3)
    before = [p.detach().clone() for p in made]
    steps(optimizer, made, 2, 3)
    close(theirs, made)
    assert not all(torch.equal(a, b) for a, b in zip(before, made, strict=True))


def test_a_closure_and_groups_added_later() -> None:
    made = parameters()
    optimizer = convdsl.SGD(made[:1], lr=0.1)
    give_gradients(made, 1, skip=False)
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    before = made[1].detach().clone()
    optimizer.add_param_group({"params": made[1:], "lr": 0.5})
    optimizer.step()
    assert made[1].grad is not None
    assert torch.allclose(made[1], before - 0.5 * made[1].grad)


def test_numbers_out_of_range_are_refused() -> None:
    for options in ({"lr": -1.0}, {"momentum": -0.1}, {"nesterov": True}):
        with pytest.raises(ValueError, match=r"[Ii]nvalid|[Nn]esterov"):
            convdsl.SGD(parameters(), **options)
    with pytest.raises(ValueError, match="beta"):
        convdsl.Adam(parameters(), betas=(1.0, 0.9))


def test_what_a_graph_freezes() -> None:
    made = parameters()
    optimizer = convdsl.SGD(made, lr=0.1, momentum=0.9)
    give_gradients(made, 1, skip=False)
    optimizer.step()
    state = optimizer.graph_state()
    optimizer.param_groups[0]["lr"] = 0.5  # not this
    optimizer.step()
    assert state is not None and optimizer.graph_state() == state
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.graph_state() != state
    assert convdsl.SGD([nn.Parameter(torch.ones(2, dtype=torch.float64))]).graph_state() is None


def test_a_captured_step_finds_its_tensors_when_it_is_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a graph is captured nothing is written or run; afterwards the tables are there."""
    mine, other = parameters(), parameters()
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}
    ours, theirs = convdsl.SGD(groups(mine), **options), torch.optim.SGD(groups(other), **options)
    for made, optimizer in ((mine, ours), (other, theirs)):
        made[2].data = made[2].data.contiguous()  # or its gradient is copied, which a graph repeats
        give_gradients(made, 1, skip=False)
        optimizer.step()
        give_gradients(made, 2, skip=False)
    recorded: list[tuple[Any, ...]] = []
    with monkeypatch.context() as patch, ours.capture():
        patch.setattr("convdsl.optim.launch", lambda *launch: recorded.append(launch))
        with torch.no_grad():
            for number, group in enumerate(ours.param_groups):
                ours._step(number, group, capturing=True)
        assert len(recorded) == 2 and not any(table.addresses.any() for _, table, _ in recorded)
    for rate in (0.05, 0.01):
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] = rate
        ours.refresh()
        for launch in recorded:
            tensor_table.launch(*launch)
        theirs.step()
        close(mine, other)
    ours.step()  # outside, the tables are others
    theirs.step()
    close(mine, other)


def kernel(nest: str, flags: dict[str, bool]) -> Kernel:
    names = ("exponential", "tensor_list", nest)
    text = "\n\n".join((KERNELS / f"{name}.py").read_text("utf-8") for name in names)
    constants = flags | {"ALIGNED": True, "BLOCK": tensor_table.BLOCK}
    pointers = {"rows_ptr": "*i32", "table_ptr": "*i64", "numbers_ptr": "*fp32"}
    arguments = [Argument(name, kind, divisible=True) for name, kind in pointers.items()]
    arguments += [Argument(name, "constexpr", value) for name, value in constants.items()]
    return Kernel(cut_out(text, nest), nest, tuple(arguments), None, 4, 2)


def test_the_kernels_spill_nowhere() -> None:
    kernels = [
        kernel("sgd", {"MOMENTUM": True, "NESTEROV": True, "MAXIMIZE": True}),
        kernel("adam", {"DECOUPLED": False, "AMSGRAD": False, "MAXIMIZE": False}),
        kernel("adam", {"DECOUPLED": True, "AMSGRAD": True, "MAXIMIZE": True}),
    ]
    facts = build_all([(k, target) for k in kernels for target in TARGETS.values()], workers=1)
    assert not [f for f in facts.values() if f.spills or f.registers > 64]


def test_axes_of_one_have_no_say_in_the_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a 1x1 convolution channels last: torch's fused step may take it."""
    monkeypatch.delenv("TRITON_INTERPRET")
    weight = torch.zeros(6, 8, 1, 1).contiguous(memory_format=torch.channels_last)
    gradient = torch.empty_strided((6, 8, 1, 1), (8, 1, 8, 8))
    assert weight.stride() != gradient.stride()
    assert tensor_table.in_order([weight], [gradient])
    assert not tensor_table.in_order([weight], [torch.empty_strided((6, 8, 1, 1), (1, 6, 1, 1))])
    mine, other = nn.Parameter(weight), nn.Parameter(torch.zeros(6, 8, 1, 1))
    mine.grad = gradient.copy_(torch.randn(6, 8, 1, 1))
    other.grad = gradient.contiguous()
    convdsl.SGD([mine], momentum=0.9).step()
    torch.optim.SGD([other], momentum=0.9).step()
    assert torch.equal(mine, other)
