"""Warnings about programs that are legal but hardly meant so.

`lint_shape` looks at an input (W302), `lint_unit` at the text (W303, W304), `lint_graph` at the
finished graph (W304, W306, W307). W301 and W305 are found where the layers are made.
"""

from collections import Counter
from collections.abc import Set as AbstractSet

from convdsl.diagnostics import Diagnostic, Label
from convdsl.ir.graph import Graph
from convdsl.ir.op import LAYERS, Layer
from convdsl.ir.types import TensorType
from convdsl.lower.findings import Findings
from convdsl.lower.unit import Unit
from convdsl.lower.walk import expressions, operators, walk
from convdsl.source import Span
from convdsl.syntax import ast

#: share of all parameters from which one dense layer is remarked upon
SHARE = 0.9
#: below this many parameters nobody needs to save any
MANY = 100_000
_PROBE = TensorType((2, 8, 8))


def lint_unit(unit: Unit, naming: AbstractSet[Span], findings: Findings) -> None:
    """Findings about the text of one file. ``naming``: tags that are part of parameters' names."""
    for chain in _chains(unit):
        _repeats(chain, findings)
    _unused(unit, naming, findings)


def lint_graph(graph: Graph, findings: Findings) -> None:
    """W306: one dense layer of several holds nearly all parameters; W304: dropped results."""
    total = sum(p.value.type.elements for p in graph.learned)
    holders = [node for node in graph.nodes if node.parameters]
    for node in holders if len(holders) > 1 else ():
        own = sum(value.type.elements for value in node.parameters)
        dense = isinstance(node.op, Layer) and node.op.flattens
        if dense and own >= max(MANY, SHARE * total) and node.origin.span is not None:
            message = f"{node.origin.text} holds {own:,} of {total:,} parameters"
            help = "pool more before it, or average over the map first"
            label = Label(node.origin.span, f"{own / total:.0%}")
            findings.add(Diagnostic("W306", message, (label,), node.origin.frames, help))
    _dropped(graph, findings)
    _cancelled(graph, findings)


def _cancelled(graph: Graph, findings: Findings) -> None:
    """W307: a layer whose bias the next one, all that reads it, subtracts again."""
    makers = {node.output: node for node in graph.nodes}
    readers = Counter(value for node in graph.nodes for value in node.inputs)
    paths = {p.value: p.path for p in graph.parameters}
    for node in graph.nodes:
        maker = makers.get(node.inputs[0])
        if not (isinstance(node.op, Layer) and node.op.cancels_bias) or maker is None:
            continue
        has_bias = any(paths[v].endswith(".bias") for v in maker.parameters if v in paths)
        own = isinstance(maker.op, Layer) and not maker.op.cancels_bias
        if has_bias and own and readers[maker.output] == 1 and maker.origin.span is not None:
            message = f"the bias of {maker.origin.text} has no effect before {node.op.name}"
            help = "write bias=false; `default CONV(bias=false)` says it once for all"
            label = Label(maker.origin.span)
            findings.add(Diagnostic("W307", message, (label,), maker.origin.frames, help))


def _dropped(graph: Graph, findings: Findings) -> None:
    """W304: a layer whose result no other layer and no output reads, as A in ``A - @tag``."""
    read = {value for node in graph.nodes for value in node.inputs} | graph.results()
    for node in graph.nodes:
        if node.output not in read and node.origin.span is not None:
            message = f"the result of {node.origin.text} is never used"
            help = "`@name` goes on from that tensor instead; remove the layer or merge it in"
            label = Label(node.origin.span)
            findings.add(Diagnostic("W304", message, (label,), node.origin.frames, help))


def _chains(unit: Unit) -> list[ast.Chain]:
    own = [r.definition.body for r in unit.recipes.values() if r.unit is unit]
    return own + [net.chain for _, net in unit.nets]


def lint_shape(shape: ast.Shape, findings: Findings) -> None:
    """W302: `3x32x32` is very flat and as deep as it is wide, so channels first was meant.

    Said before expansion: the errors it leads to are hard to understand without it.
    """
    if shape.notation != "HWC":
        return
    height, width, channels = shape.dims
    if height in (1, 3, 4) and width == channels > height:
        findings.add(
            Diagnostic(
                "W302",
                f"read as H={height}, W={width}, C={channels}",
                (Label(shape.span),),
                help=f"channels first is {height}@{width}x{channels}",
            )
        )


def _repeats(chain: ast.Chain, findings: Findings) -> None:
    """W303: a repeat of one bare layer without parameters, behind another item."""
    chains = [chain]
    chains += [b for s in walk(chain) if isinstance(s.node, ast.Call) for b in s.node.branches]
    chains += [group.chain for part in list(chains) for group in _groups(part)]
    for part in chains:
        for before, item in zip(part.items, part.items[1:], strict=False):
            post = item.posts[0] if item.posts else None
            call = item.body
            if not isinstance(post, ast.Repeat) or isinstance(post.count, ast.Loop):
                continue
            if isinstance(call, ast.Call) and not call.arguments and _bare(call.name):
                message = f"this repeats only {call.name}"
                both = f"({_short(before)}-{call.name}){post.span.text}"
                help = f"to repeat more, group it: {both}"
                findings.add(Diagnostic("W303", message, (Label(item.span),), help=help))


def _groups(chain: ast.Chain) -> list[ast.Group]:
    """The groups inside a chain, however deep, branches aside."""
    found: list[ast.Group] = []
    pending = [chain]
    while pending:
        groups = [i.body for i in pending.pop().items if isinstance(i.body, ast.Group)]
        found += groups
        pending += [group.chain for group in groups]
    return found


def _short(item: ast.Item) -> str:
    return item.body.name if isinstance(item.body, ast.Call) else "..."


def _bare(name: str) -> bool:
    """A layer that needs no argument and has no parameters: repeating it alone is pointless."""
    cls = LAYERS.get(name)
    if cls is None or cls.arity == 0 or any(spec.required for spec in cls.arguments()):
        return False
    return not cls().parameters(_PROBE)


def _unused(unit: Unit, naming: AbstractSet[Span], findings: Findings) -> None:
    """W304 for lets, blocks, modules, imports, named inputs and tags that nothing reads."""
    nodes: list[object] = [seen.node for chain in _chains(unit) for seen in walk(chain)]
    nodes += [net.head for _, net in unit.nets]
    nodes += [line for lines in unit.defaults.values() for _, line in lines]
    exprs = [expr for node in nodes for expr in expressions(node)]
    exprs += [s.value for s in unit.program.statements if isinstance(s, ast.Let)]
    for recipe in unit.recipes.values():
        exprs += [p.default for p in recipe.definition.parameters if p.default is not None]
    parts = [part for expr in exprs for part in operators(expr)]
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    tags = {part.tag for part in parts if isinstance(part, ast.ShapeOf)}
    tags |= {node.name for node in nodes if isinstance(node, ast.Reference)}
    calls = {node.name for node in nodes if isinstance(node, ast.Call)}
    for statement in unit.program.statements:
        match statement:
            case ast.Let(name=name) if name not in names:
                _never("let", name, statement.name_span, findings)
            case ast.Definition(name=name) if name not in calls:
                _never(statement.keyword, name, statement.name_span, findings)
            case ast.Input(name=str(name)) if name not in tags and len(unit.inputs) > 1:
                _never("input", name, statement.span, findings)
            case ast.Import():
                for name, span in statement.names:
                    if name not in calls:
                        _never("import", name, span, findings)
    for node in nodes:
        if isinstance(node, ast.Tag) and node.name not in tags and node.span not in naming:
            _never("tag", node.name, node.span, findings)


def _never(kind: str, name: str, span: Span, findings: Findings) -> None:
    help = "remove it"
    findings.add(Diagnostic("W304", f"{kind} `{name}` is never used", (Label(span),), help=help))
