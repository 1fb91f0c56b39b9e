"""SGD, Adam and AdamW as in `torch.optim`, one kernel launch for all parameters of a group.

They are torch's classes with another ``step``: arguments, parameter groups, learning-rate
schedulers and state_dicts are torch's, and a state_dict of one loads into the other. The kernels
run for float32 parameters on a CUDA or ROCm device, or under TRITON_INTERPRET=1; whatever else a
group holds is handed to torch's own fused step. Parameters, gradients and state stay where they
are: the kernels find them through a table of addresses that is compared before every step, so
nothing is computed on stale memory. Where a network's kernels read a 16-bit copy of a parameter,
the launch that steps it writes that too (`convdsl.runtime.kernel_weights` says how they meet).

Learning rates and all other numbers are values on the device, which `refresh` brings up to date:
a CUDA graph that a step was captured in sees what a scheduler changes.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf, log
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.sgd import sgd as torch_sgd
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from convdsl.runtime.tensor_table import (
    Numbers,
    Rows,
    Table,
    alike,
    in_order,
    in_rows,
    launch,
    suits,
)

Group = dict[str, Any]
Lists = tuple[list[Any], ...]
#: the names of torch's module of optimisers, where the hooks are that all of them have
TORCHS, WHEN = vars(sys.modules[torch.optim.Optimizer.__module__]), ("pre", "post")


def halves(parameters: Sequence[Tensor]) -> list[tuple[Tensor | int, Tensor | int]]:
    """Of each parameter the float16 and the bfloat16 copy to write as well, 0 for none."""
    found: list[tuple[Tensor | int, Tensor | int]] = []
    for parameter in parameters:
        half = parameter.__dict__.get("kernel_copy")
        copy = half.place(parameter) if half else None
        kinds = (torch.float16, torch.bfloat16)
        one, two = (copy if copy is not None and copy.dtype == kind else 0 for kind in kinds)
        found.append((one, two))
    return found


def stepped(
    parameters: Sequence[Tensor], copies: Sequence[tuple[Tensor | int, Tensor | int]]
) -> None:
    """Say that these have new numbers, and so have their ``copies``: kernels change no version."""
    views = [copy for pair in copies for copy in pair if isinstance(copy, Tensor)]
    # of the copies one view is enough, but there may be several networks
    flat = {view.untyped_storage().data_ptr(): view for view in views}
    torch.autograd.graph.increment_version([*parameters, *flat.values()])
    for parameter, pair in zip(parameters, copies, strict=True):
        if any(isinstance(copy, Tensor) for copy in pair):
            parameter.__dict__["kernel_copy"].written(parameter)


class _Fused(torch.optim.Optimizer):
    """What the optimisers share: the step, group by group, and what a CUDA graph needs to know."""

    COLUMNS: int
    _tables: dict[int, Table]
    _numbers: dict[int, Numbers]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # fused: torch then keeps its counts of steps where the parameters are
        super().__init__(*arguments, fused=True, **options)  # type: ignore[call-arg]
        self._tables, self._numbers = {}, {}
        # torch.amp.GradScaler is to unscale the gradients itself
        self._step_supports_amp_scaling = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._tables, self._numbers = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """That of the ``torch.optim`` class of the same name, made without options."""
        made = super().state_dict()
        for group in made["param_groups"]:
            group["fused"] = None
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also of the ``torch.optim`` class of the same name, however that was made."""
        plain = {"foreach": None, "fused": True, "capturable": False, "differentiable": False}
        groups = [
            {**group, **{k: v for k, v in plain.items() if k in group}}
            for group in state_dict["param_groups"]
        ]
        super().load_state_dict({**state_dict, "param_groups": groups})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the gradients; the loss, if ``closure`` works it out again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.advance()
        return loss

    @property
    def is_bare(self) -> bool:
        """Whether `advance` is all of ``step``: nobody has put anything around it."""
        around = getattr(type(self).step, "__wrapped__", None) is not _Fused.step
        mine = self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks
        everywhere = (TORCHS.get(f"_global_optimizer_{when}_hooks", True) for when in WHEN)
        return not (around or "step" in vars(self) or any(mine) or any(everywhere))

    @torch.no_grad()
    def advance(self) -> None:
        """The step itself. What torch puts around it, a record for profilers, takes as long as few
        weights do.
        """
        on_cuda = any(p.is_cuda for group in self.param_groups for p in group["params"])
        capturing = on_cuda and torch.cuda.is_current_stream_capturing()
        if not capturing:
            self.refresh()
        for number, group in enumerate(self.param_groups):
            self._step(number, group, capturing)

    def refresh(self) -> None:
        """Bring the numbers on the device up to date with the parameter groups."""
        for number, group in enumerate(self.param_groups):
            if group["params"] and suits(group["params"]):
                rate, *others = self._group_numbers(group)
                device = group["params"][0].device
                numbers = self._numbers.get(number)
                if numbers is None or numbers.values.device != device:
                    numbers = self._numbers[number] = Numbers(device, 1 + len(others))
                numbers.hold(rate, others)

    def graph_state(self) -> tuple[Any, ...] | None:
        """What a CUDA graph of a step cannot see change; None where a step is none for a graph."""
        if not all(suits(group["params"]) for group in self.param_groups):
            return None
        parameters = [p for group in self.param_groups for p in group["params"]]
        state = [v for p in parameters for v in self.state.get(p, {}).values()]
        tensors = [*parameters, *state, *(numbers.values for numbers in self._numbers.values())]
        flags = [self._flags(group) for group in self.param_groups]
        return (*(t.data_ptr() for t in tensors if isinstance(t, Tensor)), *flags)

    @contextmanager
    def capture(self) -> Iterator[object]:
        """A CUDA graph is captured inside, with one step; it needs what is yielded to live on."""
        outside, self._tables = self._tables, {}
        try:
            for number, group in enumerate(self.param_groups):
                # memory of their own: within the graph's, what dies before may overwrite them
                self._tables[number] = Table(group["params"], self.COLUMNS)
            tables = list(self._tables.values())
            yield tables, list(self._numbers.values())
            for table in tables:
                table.upload()
        finally:
            self._tables = outside

    def _table(self, number: int, tensors: Rows, capturing: bool) -> tuple[Table, dict[str, Any]]:
        """The table of a group's tensors and the arguments that all kernels have in common."""
        parameters = self.param_groups[number]["params"]
        table = self._tables.get(number)
        if table is None or not table.fits(parameters):
            table = self._tables[number] = Table(parameters, self.COLUMNS)
        aligned = table.hold(tensors, capturing)
        return table, {"numbers_ptr": self._numbers[number].values, "ALIGNED": aligned}

    def _group_numbers(self, group: Group) -> tuple[Any, ...]:
        """What the kernel reads as ``numbers``, the learning rate first."""
        raise NotImplementedError

    def _flags(self, group: Group) -> tuple[bool, ...]:
        """What the kernel is compiled for."""
        raise NotImplementedError

    def _step(self, number: int, group: Group, capturing: bool) -> None:
        raise NotImplementedError


class SGD(_Fused, torch.optim.SGD):
    """Stochastic gradient descent, as `torch.optim.SGD`.

    params: parameters, or groups of them. lr: learning rate, a number or a tensor of one.
    Raises ValueError for numbers out of range.
    """

    COLUMNS = 8

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = (momentum, dampening, weight_decay, nesterov)
        super().__init__(params, lr, *options, maximize=maximize)

    def _group_numbers(self, group: Group) -> tuple[Any, ...]:
        return (group["lr"], group["weight_decay"], group["momentum"], 1 - group["dampening"])

    def _flags(self, group: Group) -> tuple[bool, ...]:
        return (group["momentum"] != 0, bool(group["nesterov"]), bool(group["maximize"]))

    def _step(self, number: int, group: Group, capturing: bool) -> None:
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        buffers: list[Tensor | None] = []
        sparse = self._init_group(group, parameters, gradients, buffers)  # type: ignore[no-untyped-call]
        momentum, nesterov, maximize = self._flags(group)
        if not suits(group["params"]) or sparse:
            started = [buffers] if any(b is not None for b in buffers) else []
            # torch's fused step takes no shares of parameters
            plain = not sparse and not any(map(is_traceable_wrapper_subclass, parameters))
            fused = plain and in_order(parameters, gradients, *started)
            given: Lists = (parameters, gradients, buffers)
            rows, slopes, moved = in_rows(*given) if fused and started else given
            torch_sgd(
                rows,
                slopes,
                moved,
                has_sparse_grad=sparse,
                fused=fused,
                foreach=False,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=nesterov,
                maximize=maximize,
            )
        elif parameters:
            # address of the momentum, and whether this is the tensor's first step
            last: list[tuple[Tensor | int, int]] = [(0, 0)] * len(parameters)
            if momentum:
                last = [
                    (torch.zeros_like(p), 1) if b is None else (alike(b, p), 0)
                    for b, p in zip(buffers, parameters, strict=True)
                ]
                buffers = [b for b, _ in last if isinstance(b, Tensor)]
            copies = halves(parameters)
            tensors = [
                (p, alike(g, p), *rest, *copy)
                for p, g, rest, copy in zip(parameters, gradients, last, copies, strict=True)
            ]
            from convdsl.kernels.sgd import sgd

            table, shared = self._table(number, tensors, capturing)
            flags = {"MOMENTUM": momentum, "NESTEROV": nesterov, "MAXIMIZE": maximize}
            launch(sgd, table, shared | flags)
            stepped(parameters, copies)
        if momentum:
            for parameter, buffer in zip(parameters, buffers, strict=True):
                self.state[parameter]["momentum_buffer"] = buffer


class _Adam(_Fused):
    """Adam and AdamW: the difference is torch's group entry ``decoupled_weight_decay``."""

    COLUMNS = 10

    def _group_numbers(self, group: Group) -> tuple[Any, ...]:
        one, two = group["betas"]
        logs = (log(beta) if beta else -inf for beta in (one, two))
        return (group["lr"], group["weight_decay"], group["eps"], 1 - one, 1 - two, one, two, *logs)

    def _flags(self, group: Group) -> tuple[bool, ...]:
        names = ("decoupled_weight_decay", "amsgrad", "maximize")
        return tuple(bool(group[name]) for name in names)

    def _step(self, number: int, group: Group, capturing: bool) -> None:
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        moments: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        steps: list[Tensor] = []
        self._init_group(group, parameters, gradients, *moments, steps)  # type: ignore[attr-defined]
        decoupled, amsgrad, maximize = self._flags(group)
        if not suits(group["params"]):
            used = [m for m in moments if m]
            fused = in_order(parameters, gradients, *used)
            given: Lists = (parameters, gradients, *moments)
            rows, slopes, one, two, most = in_rows(*given) if fused else given
            torch_adam(
                rows,
                slopes,
                one,
                two,
                most,
                steps,
                foreach=False,
                fused=fused,
                amsgrad=amsgrad,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=maximize,
                decoupled_weight_decay=decoupled,
            )
        elif parameters:
            names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2]
            copies = halves(parameters)
            tensors: list[tuple[Tensor | int, ...]] = []
            for parameter, gradient, copy in zip(parameters, gradients, copies, strict=True):
                state = self.state[parameter]
                state["step"] = state["step"].to(parameter.device, torch.float32)
                for name in names:
                    state[name] = alike(state[name], parameter)
                kept = [*(state[name] for name in names), *[0] * (3 - len(names)), state["step"]]
                tensors.append((parameter, alike(gradient, parameter), *kept, *copy))
            torch._foreach_add_([self.state[parameter]["step"] for parameter in parameters], 1.0)
            from convdsl.kernels.adam import adam

            table, shared = self._table(number, tensors, capturing)
            flags = {"DECOUPLED": decoupled, "AMSGRAD": amsgrad, "MAXIMIZE": maximize}
            launch(adam, table, shared | flags)
            stepped(parameters, copies)


class Adam(_Adam, torch.optim.Adam):
    """Adam, as `torch.optim.Adam`.

    params: parameters, or groups of them. lr: learning rate, a number or a tensor of one.
    Raises ValueError for numbers out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class AdamW(_Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`; arguments as of `Adam`."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
