"""Arguments of a call -> values by argument name, for layers, heads, blocks and modules alike.

By place in the order of the fields, by letter (K F S P) or by long name; what is not given comes
from `default` lines, then from the layer itself. Every problem of the call is found, not only the
first. Does not build the op and does not look at shapes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field

from convdsl.diagnostics import Diagnostic, Label
from convdsl.ir.arguments import ArgumentError, ArgumentSpec
from convdsl.lower.evaluate import Names, Value, Word, plain, show, unknown_name
from convdsl.lower.findings import Failed, Poisoned, failure, suggestion
from convdsl.source import Span
from convdsl.syntax import ast

Evaluate = Callable[[ast.Expr], Value]


@dataclass(slots=True)
class Bound:
    """What a call comes to.

    values: converted values of the arguments given, here or by `default`. spans: where. shown: the
    arguments of the call itself as a reader wants to see them. poisoned: a value is not known.
    """

    values: dict[str, Value] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)
    poisoned: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """A name with its arguments. ``builtin``: a layer or head, which `default` can complete."""

    name: str
    specs: tuple[ArgumentSpec, ...]
    builtin: bool = True

    @property
    def places(self) -> tuple[ArgumentSpec, ...]:
        """The arguments that can be given by place, in this order."""
        return tuple(s for s in self.specs if not s.by_name)

    def find(self, name: str) -> ArgumentSpec | None:
        return next((s for s in self.specs if name in (s.name, s.letter)), None)

    def match(self, arguments: tuple[ast.Argument, ...]) -> dict[str, ast.Argument]:
        """Arguments by long name; those that do not fit are left out."""
        places = iter(self.places)
        found: dict[str, ast.Argument] = {}
        for argument in arguments:
            spec = next(places, None) if argument.name is None else self.find(argument.name)
            if spec is not None:
                found.setdefault(spec.name, argument)
        return found


@dataclass(frozen=True, slots=True)
class Defaults:
    """What `default` lines give: arguments by long name, and the file's names they may use."""

    arguments: Mapping[str, ast.Argument]
    evaluate: Evaluate
    names: Names


def parameters(name: str, declared: Iterable[ast.Parameter]) -> Signature:
    """The signature of a block or module. Defaults are expressions, worked out by the caller."""
    specs = (
        ArgumentSpec(p.name, None, MISSING if p.default is None else None, "", lambda value: value)
        for p in declared
    )
    return Signature(name, tuple(specs), builtin=False)


def bind(
    signature: Signature,
    arguments: tuple[ast.Argument, ...],
    evaluate: Evaluate,
    names: Names,
    defaults: Defaults | None = None,
    call: Span | None = None,
) -> Bound:
    """Match and convert. ``call`` None: a `default` line, where nothing is required.

    Problems found: E201 unknown, E202 missing, E203 twice, E204 unfit, and those of ``evaluate``.
    """
    bound = Bound()
    places = iter(signature.places)
    named: ast.Argument | None = None
    misplaced: ast.Argument | None = None
    for argument in arguments:
        if argument.name is not None:
            named = named or argument
            spec = signature.find(argument.name)
        elif named is not None:
            misplaced = misplaced or argument
            continue
        else:
            spec = next(places, None)
        if spec is None:
            bound.problems.append(_unknown(signature, argument))
            if argument.name is None:
                break  # those behind it are as many too many
        elif spec.name in bound.spans:
            bound.problems.append(_twice(signature, argument, spec, bound.spans[spec.name]))
        else:
            bound.spans[spec.name] = argument.span
            _convert(bound, signature, spec, argument, evaluate, names)
    if defaults is not None:
        own = len(bound.shown)
        for name, argument in defaults.arguments.items():
            spec = signature.find(name)
            if spec is not None and name not in bound.spans:
                bound.spans[name] = argument.span
                _convert(bound, signature, spec, argument, defaults.evaluate, defaults.names)
        del bound.shown[own:]
    if misplaced is not None and named is not None:
        bound.problems.append(_misplaced(misplaced, named))
    elif call is not None:
        lacking = [s for s in signature.specs if s.required and s.name not in bound.spans]
        bound.problems += [_missing(signature, spec, call) for spec in lacking]
    return bound


def _convert(
    bound: Bound,
    signature: Signature,
    spec: ArgumentSpec,
    argument: ast.Argument,
    evaluate: Evaluate,
    names: Names,
) -> None:
    try:
        value = evaluate(argument.value)
    except Poisoned:
        bound.poisoned = True
        return
    except Failed as failed:
        bound.problems.append(failed.diagnostic)
        return
    written = argument.value
    text = written.span.text if isinstance(written, ast.Number) else show(value)
    bound.shown.append(f"{argument.name}={text}" if argument.name else text)
    if not signature.builtin:
        bound.values[spec.name] = value
        return
    try:
        bound.values[spec.name] = spec.convert(plain(value))
    except ArgumentError as error:
        bound.problems.append(_unfit(signature, spec, argument, value, str(error), names))


def _label(spec: ArgumentSpec) -> str:
    return spec.letter or spec.name


def _listing(signature: Signature) -> str:
    if not signature.specs:
        return f"{signature.name} takes no arguments"
    words = (f"{s.letter}={s.name}" if s.letter else s.name for s in signature.specs)
    return f"{signature.name} takes " + ", ".join(words)


def _unknown(signature: Signature, argument: ast.Argument) -> Diagnostic:
    if argument.name is None:
        if not signature.specs:
            return Diagnostic("E201", _listing(signature), (Label(argument.span),))
        count = len(signature.places)
        most = f"at most {count} argument{'' if count == 1 else 's'}" if count else "no argument"
        message = f"{signature.name} takes {most} by place"
        return Diagnostic("E201", message, (Label(argument.span),), notes=(_listing(signature),))
    # A lone letter that differs by case only is meant; anything else is compared with long names.
    candidates = [s.name for s in signature.specs] + [s.letter for s in signature.specs if s.letter]
    return Diagnostic(
        "E201",
        f"{signature.name} has no argument `{argument.name}`",
        (Label(argument.span),),
        help=suggestion(argument.name, candidates),
        notes=(_listing(signature),),
    )


def _misplaced(argument: ast.Argument, named: ast.Argument) -> Diagnostic:
    return Diagnostic(
        "E201",
        "an argument by place stands behind a named one",
        (Label(argument.span), Label(named.span, "named")),
        help="name it too, or move it to the front",
    )


def _twice(
    signature: Signature, argument: ast.Argument, spec: ArgumentSpec, first: Span
) -> Diagnostic:
    return Diagnostic(
        "E203",
        f"{_label(spec)} of {signature.name} is given twice",
        (Label(argument.span, "again here"), Label(first, "first here")),
        help="keep one of them",
    )


def _missing(signature: Signature, spec: ArgumentSpec, call: Span) -> Diagnostic:
    name = signature.name
    if not signature.builtin:
        return Diagnostic(
            "E202",
            f"{name} needs {spec.name}",
            (Label(call),),
            help=f"write {name}({spec.name}=...)",
        )
    what = f"{spec.letter} ({spec.name})" if spec.letter else spec.name
    sample = _sample(spec)
    by_place = f"{name}({sample})" if signature.specs[0] is spec else None
    by_name = f"{name}({_label(spec)}={sample})"
    return Diagnostic(
        "E202",
        f"{name} needs {what}: {spec.doc.rstrip('.')}",
        (Label(call),),
        help=f"write {by_place or by_name}, or put `default {by_name}` before it, "
        f'or call with --default "{by_name}"',
    )


def _sample(spec: ArgumentSpec) -> str:
    """A value the argument takes, for an example in a help text."""
    for value in (64, 0.5, True):
        try:
            spec.convert(value)
        except ArgumentError:
            continue
        return show(value)
    try:
        spec.convert(None)
    except ArgumentError as error:
        words = re.match(r"one of (\w+)", str(error))
        return words[1] if words else "..."
    return "..."


def _unfit(
    signature: Signature,
    spec: ArgumentSpec,
    argument: ast.Argument,
    value: Value,
    wanted: str,
    names: Names,
) -> Diagnostic:
    takes = f"{_label(spec)} of {signature.name} takes {wanted}"
    near = None
    if isinstance(value, Word):
        words = re.findall(r"[a-z_]{3,}", wanted)
        near = suggestion(value, words)
        if value in words:  # right as far as it goes
            near = None
        elif near is None and not wanted.startswith("one of "):  # no definition would help there
            unknown = unknown_name(value, value.span, names).diagnostic
            return Diagnostic(
                unknown.code, unknown.message, unknown.labels, help=unknown.help, notes=(takes,)
            )
    return failure("E204", f"{takes}, not {show(value)[:60]}", argument.span, near).diagnostic
