"""Names during expansion: paths of parameters, tags of tensors, and what a chain can see.

A path is the chain of scopes down to a layer, ``stack.0.cbr.conv``: the state_dict key of its
parameters is ``stack.0.cbr.conv.weight``. A component is the tag, else the name of the layer or
block, with an ordinal from 2 on among untagged ones of that name in the scope. So inserting a
layer of another kind, or a tagged one, renames nothing else.
"""

from dataclasses import dataclass
from keyword import iskeyword

from convdsl.diagnostics import Frame
from convdsl.ir.graph import Value as Tensor
from convdsl.lower.evaluate import Names
from convdsl.lower.findings import Failed, Poisoned, failure, suggestion
from convdsl.lower.unit import Unit, twice
from convdsl.source import Span


class Poison:
    """The result of an item that failed: whatever is made of it fails silently."""


POISON = Poison()

#: A tensor, nothing yet (a chain that must start at ``@name``), or the result of a failed item.
Flow = Tensor | Poison | None


class Path:
    """One scope of parameter names, and the components already given in it."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._taken: set[str] = set()
        self._ordinals: dict[str, int] = {}

    def join(self, component: str) -> str:
        return f"{self._prefix}.{component}" if self._prefix else component

    def child(self, component: str) -> "Path":
        return Path(self.join(component))

    def untagged(self, name: str) -> str:
        """The next free component for ``name``: conv, conv2, conv3."""
        base = _usable(name)
        while True:
            ordinal = self._ordinals[base] = self._ordinals.get(base, 0) + 1
            component = base if ordinal == 1 else f"{base}{ordinal}"
            if component not in self._taken:
                self._taken.add(component)
                return component

    def tagged(self, tag: str, span: Span) -> str:
        """The component of a tagged item. Raises Failed E207 if it is given already."""
        component = _usable(tag)
        if component in self._taken:
            raise failure(
                "E207",
                f"`{component}` already names another item here",
                span,
                "choose another tag: the name is part of the parameters' names",
            )
        self._taken.add(component)
        return component


#: attributes of every generated ``nn.Module``: a scope so named could not be reached by its name
MODULE_ATTRIBUTES = frozenset(
    """
    BOUNDS CONSTANTS HIDDEN INPUTS LABELS OUTPUTS PENALTIES RESULT SMALLEST_BATCH STATE TABLE
    TRAINING_ONLY T_destination WEIGHTS add_module apply bfloat16 buffers call_super_init
    children compile compute_dtype constrain cpu cuda double dtype dump_patches eval
    every_parameter extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half in_step ipu kernel_weights layout load_state_dict loss_at_once losses
    memory_format modules mtia named_buffers named_children named_modules named_parameters once
    outputs parameters penalty predict predictions ready register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict tensors to to_empty train training training_step type
    weights working xpu zero_grad
    """.split()  # noqa: SIM905
)


def _usable(name: str) -> str:
    """The name as an attribute of a module: an underscore is put behind those that are taken."""
    taken = iskeyword(name) or name in MODULE_ATTRIBUTES
    return f"{name}_" if taken else name


class Tags:
    """The tensors that ``@name`` can reach; outer scopes are searched after this one."""

    def __init__(self, outer: "Tags | None" = None) -> None:
        self._outer = outer
        self._flows: dict[str, Flow] = {}
        self._spans: dict[str, Span] = {}
        self.poisoned = False  # an item here failed, so a tag may be missing for that reason

    def refuse_second(self, name: str, span: Span) -> None:
        """Raises Failed E207 if the scope has the name already."""
        if name in self._flows:
            raise Failed(twice(name, span, self._spans[name]))

    def bind(self, name: str, flow: Flow, span: Span) -> None:
        """Raises Failed E207 if the scope has the name already."""
        self.refuse_second(name, span)
        self._flows[name] = flow
        self._spans[name] = span

    def find(self, name: str, span: Span) -> Flow:
        """Raises Failed E206, or Poisoned if an earlier failure may be why it is missing."""
        scope: Tags | None = self
        known: list[str] = []
        poisoned = False
        while scope is not None:
            if name in scope._flows:
                return scope._flows[name]
            known += scope._flows
            poisoned = poisoned or scope.poisoned
            scope = scope._outer
        if poisoned:
            raise Poisoned
        raise failure(
            "E206",
            f"no tag or input `{name}` is in reach here",
            span,
            suggestion(name, known) or "a tag is seen after its item, in its own scope",
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an item is being expanded.

    unit: the file it is written in. position: its statement there, for `default` lines before it.
    names: lets, parameters and loop variables. calls: block calls around it. shared: inside a
    module, where parameters that exist already are taken again.
    """

    unit: Unit
    position: int
    names: Names
    tags: Tags
    path: Path
    frames: tuple[Frame, ...] = ()
    calls: int = 0
    shared: bool = False
