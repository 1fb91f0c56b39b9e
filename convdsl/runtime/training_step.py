"""``model.training_step(optimizer)``: forward, backward and the optimiser as one call.

On a CUDA device, with an optimiser that can say what a graph must know (`convdsl.optim`), the whole
step becomes one CUDA graph for every shape of batch after a few calls: launched as a unit, with no
work on the host. Otherwise the same calls are made one by one. Copied into generated files like
`support`; imports torch only.
"""

from collections import namedtuple
from typing import Any

import torch
from torch import Tensor, nn

#: calls by which kernels are compiled and state is made, before a step is captured
WARM_UPS = 3
#: shapes of batches that get a graph of their own
GRAPHS = 4

#: a graph, the tensors it reads its batch from, the one it leaves the loss in, what it needs alive
CapturedStep = namedtuple("CapturedStep", ["graph", "inputs", "loss", "keeps"])


class TrainingStep:
    """One step of training on a batch, ``loss = step(x, y)``; see `Network.training_step`."""

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, clip: float = 0.0) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            made = f"got {type(optimizer).__name__}"
            raise ValueError(f"optimizer must be a torch.optim.Optimizer or one of ours, {made}")
        if not model.LABELS:
            raise ValueError("the network has no head, so it has no loss: end it with one")
        if not clip >= 0:
            raise ValueError(f"clip must be a norm of at least 0, got {clip}")
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(p) in stepped for p in model.parameters()):
            raise ValueError(
                "the optimizer holds no parameter of this network: make it of model.parameters()"
            )
        self.model, self.optimizer, self.clip = model, optimizer, clip
        self.captured: dict[Any, CapturedStep] = {}
        self.calls: dict[Any, int] = {}
        self.state: object = None
        self.stream: torch.cuda.Stream | None = None
        self.one: Tensor | None = None
        #: on a CPU, gradients of the last step until the next has gone forward: freed at once,
        #: their memory goes back to the system, to be asked for again page by page
        self.spent: list[Tensor | None] = []

    def __call__(self, *tensors: Any) -> Tensor:
        """The mean loss of a batch before the step on it, detached; nothing waits for the device.

        tensors: the inputs and the labels, as the network's own call takes them. Gradients are
        gone afterwards. Raises ValueError for what does not suit the network.
        """
        if not self.model.training:
            raise ValueError("the network is in evaluation mode: call model.train() first")
        if len(tensors) != len(self.model.INPUTS) + 1:
            wanted = ", ".join(self.model.INPUTS)
            raise ValueError(f"a step needs ({wanted}, labels), got {len(tensors)} arguments")
        leaves, tree = list(tensors), None
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            leaves, tree = torch.utils._pytree.tree_flatten(tensors)
        leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        state = self._graph_state(leaves)
        if state is None:
            return self._step(leaves, tree)
        if state != self.state:  # a graph would read what is no longer there
            self.captured.clear()
            self.calls.clear()
            self.state = state
        with torch.cuda.device(leaves[0].device):
            key = (tree, *((leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves))
            step = self.captured.get(key)
            if step is None:
                calls = self.calls.get(key, 0)
                if calls < WARM_UPS or len(self.captured) == GRAPHS:
                    loss = self._aside(leaves, tree)
                    self.calls[key] = calls + 1
                    return loss
                step = self.captured[key] = self._capture(leaves, tree)
            for static, leaf in zip(step.inputs, leaves, strict=True):
                static.copy_(leaf, non_blocking=True)
            self.optimizer.refresh()  # type: ignore[attr-defined]
            step.graph.replay()
            result: Tensor = step.loss.clone()  # the next replay overwrites it
            return result

    def _step(self, leaves: list[Any], tree: Any) -> Tensor:
        parameters = self.model.every_parameter()
        for parameter in parameters:
            parameter.grad = None
        given = leaves if tree is None else torch.utils._pytree.tree_unflatten(leaves, tree)
        with torch.enable_grad():
            self.model.once = True
            try:
                loss: Tensor = self.model(*given)
            finally:
                self.model.once = False
            self.spent = []
            one = self.one
            if one is None or one.dtype != loss.dtype or one.device != loss.device:
                one = self.one = torch.ones_like(loss)
            loss.backward(one)  # type: ignore[no-untyped-call]  # it would make a one every time
        if self.clip:
            stepped = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(stepped, self.clip)
        optimizer: Any = self.optimizer
        if hasattr(type(optimizer), "is_bare") and optimizer.is_bare:
            optimizer.advance()
        else:
            self.optimizer.step()
        if not loss.is_cuda:
            self.spent = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return loss.detach()

    def _graph_state(self, leaves: list[Any]) -> object:
        """All that a graph freezes, to be compared before every replay; None for no graph."""
        ask = getattr(self.optimizer, "graph_state", None)
        if ask is None or not self._on_cuda(leaves) or hooks(self.model) or hooks(self.optimizer):
            return None
        optimizer = ask()
        if optimizer is None:
            return None
        tensors = [*self.model.parameters(), *self.model.buffers()]
        asked = tuple(p.requires_grad for p in self.model.parameters())
        places = tuple(tensor.data_ptr() for tensor in tensors)
        dtype = self.model.compute_dtype(leaves[0])
        return (dtype, self.model.ready(dtype), self.model.layout, asked, places, optimizer)

    def _on_cuda(self, leaves: list[Any]) -> bool:
        if not all(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in leaves):
            return False
        device = self.model.every_parameter()[0].device
        return all(leaf.device == device for leaf in leaves)

    def _aside(self, leaves: list[Any], tree: Any) -> Tensor:
        """A step call by call, on the stream that graphs are captured on."""
        if self.stream is None:
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            loss = self._step(leaves, tree)
        here.wait_stream(self.stream)
        return loss

    def _capture(self, leaves: list[Any], tree: Any) -> CapturedStep:
        graph = torch.cuda.CUDAGraph()
        # one after the other, graphs may share their memory
        pool = next((step.graph.pool() for step in self.captured.values()), None)
        inputs = [torch.empty_like(leaf).copy_(leaf) for leaf in leaves]
        self.optimizer.refresh()  # type: ignore[attr-defined]
        self.model.in_step = True
        try:
            # what the optimiser fills in behind the capture must outlast it: entered first
            with (
                self.optimizer.capture() as keeps,  # type: ignore[attr-defined]
                torch.cuda.graph(graph, pool=pool, stream=self.stream),
            ):
                loss = self._step(inputs, tree)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                "the training step could not be captured in a CUDA graph; a loss of the network "
                "kept from an earlier call of it may be why: delete it, or keep loss.detach()"
            ) from error
        finally:
            self.model.in_step = False
        return CapturedStep(graph, inputs, loss, keeps)


def hooks(owner: nn.Module | torch.optim.Optimizer) -> bool:
    """Whether calls of the user's would be left out of a replay."""
    names = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"]
    names += ["_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"]
    return any(getattr(owner, name, None) for name in names)
