"""``--strategy fsdp``: parameters, gradients and optimiser state shared out among processes.

Torch's fully_shard by Lightning's strategy for it, with checkpoints as those of any other run: the
first process writes whole tensors, and every process takes its share of what it reads. So a run
may go on with another strategy or number of processes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

from convdsl.train.lightning import ModelParallelStrategy, pl

#: whole tensors, each process takes its share of them
_WHOLE = StateDictOptions(full_state_dict=True)
_GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Sharded(ModelParallelStrategy):
    """All processes share one copy of what is trained."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        #: of each optimiser: the names of its parameters in the order of its groups
        self._names: list[list[str]] = []

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup_optimizers(self, trainer: "pl.Trainer") -> None:
        super().setup_optimizers(trainer)
        assert self.model is not None
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = [optimizer.param_groups for optimizer in self.optimizers]
        self._names = [[names[id(p)] for group in g for p in group["params"]] for g in groups]

    def on_validation_start(self) -> None:
        """Running statistics are the first process's, which are those that are stored."""
        assert self.model is not None
        for buffer in self.model.buffers():
            torch.distributed.broadcast(buffer, 0)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As `Optimizer.state_dict` of one that has whole tensors; {} but in the first process."""
        assert self.model is not None
        plain = getattr(optimizer, "_optimizer", optimizer)  # Lightning wraps it
        found: Any = get_optimizer_state_dict(self.model, plain, options=_GATHERED)
        if not found:
            return {}
        numbers = {n: i for i, n in enumerate(self._names[self.optimizers.index(optimizer)])}
        return {
            "state": {numbers[name]: state for name, state in found["state"].items()},
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]}
                for group in found["param_groups"]
            ],
        }

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        # Lightning's asks every process whether it is there, and some come after it was written
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        # one after the other, and safetensors gives names in no order of its own
        state = dict(sorted(checkpoint["state_dict"].items()))
        set_model_state_dict(self.model, state, options=_WHOLE)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.model is not None
        saved = zip(self.optimizers, checkpoint["optimizer_states"], self._names, strict=True)
        for optimizer, state, names in saved:
            named: Any = {
                "state": {names[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    {**group, "params": [names[number] for number in group["params"]]}
                    for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, named, options=_WHOLE)


def shard(network: nn.Module, mesh: Any, dtype: torch.dtype) -> None:
    """Share a network's parameters out; they stay float32, what is computed with is ``dtype``."""
    if isinstance(network, FSDPModule):
        return
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # in no kernel's own order: torch asks it
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    fully_shard(network, mesh=mesh["data_parallel"], mp_policy=policy)
