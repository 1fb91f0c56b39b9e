"""The state of the parser where it stopped -> a diagnostic in the user's words.

Each slip is a function of the `Situation` that returns a diagnostic or None; the first that
knows the case wins, and `_unexpected` knows all. They look at what the parser would have accepted
and at its stack of half-read constructs, never at the line as text.
"""

from collections.abc import Callable

from convdsl.diagnostics import Diagnostic, Label
from convdsl.source import Span
from convdsl.syntax.expected import expectation, misspelt_keyword, shown
from convdsl.syntax.situation import Situation, is_word
from convdsl.syntax.word import CLOSING, END, KEYWORDS, OPENING

BRACKETS = {"LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "LBRACE": "{", "RBRACE": "}"}
ARITHMETIC = frozenset({"PLUS", "SLASH", "FLOOR", "POWER"})
NUMBERS = frozenset({"INT", "FLOAT", "DIMS"})
LAYER_STARTS = frozenset({"NAME", "LPAR", "LSQB", "AT"})
COUNT_STARTS = frozenset({"INT", "NAME", "LPAR"})
HABITS = {
    "PLUS": "join layers by `-`",
    "EQUALS": "join layers by `-` or `->`",
    "COMPARISON": "join layers by `-` or `->`",
    "POWER": "write `*` before a repeat count",
    "FLOOR": "a comment begins with `#`",
}


def explain(situation: Situation) -> Diagnostic:
    """What is wrong at the word the parser would not take."""
    return next(found for slip in SLIPS if (found := slip(situation)) is not None)


def _maybe_pattern(s: Situation) -> Diagnostic | None:
    if not is_word(s.last, "QUESTION") or s.word.type == "LPAR":
        return None
    mark = s.back(1)
    before = s.back(2)
    assert mark is not None
    label = Label(mark.span, "no condition follows")
    name = before.text if before is not None and before.type == "NAME" else "the layer"
    help = f"write {name}, drop it, or give a condition: {name}?(N > 1)"
    return Diagnostic("E108", "`?` without a condition", (label,), help=help)


def _never_closed(s: Situation) -> Diagnostic | None:
    if s.at_end:
        end = "the text ends" if s.word.type == END else "the next statement begins"
        return _open_bracket(s, f"{end} with it still open")
    if s.word.type == "COMMA" and s.in_chain and not _closed_later(s):
        return _open_bracket(s, "the chain ends with it still open")
    return None


def _open_bracket(s: Situation, why: str) -> Diagnostic | None:
    if s.opening is None:
        return None
    closing = BRACKETS[OPENING[s.opening.type]]
    labels = (Label(s.opening.span, "opened here"), Label(s.gap, why))
    message = f"`{s.opening.text}` is never closed"
    return Diagnostic("E102", message, labels, help=f"write `{closing}` where the group ends")


def _closed_later(s: Situation) -> bool:
    """Whether the bracket open here finds its partner within the statement."""
    depth = 0
    for word in s.words[s.index :]:
        if word.starts_statement:
            return False
        if word.type in OPENING:
            depth += 1
        elif word.type in CLOSING:
            if depth == 0:
                return True
            depth -= 1
    return False


def _brackets(s: Situation) -> Diagnostic | None:
    if s.word.type not in CLOSING:
        return None
    opening = s.opening
    if opening is None:
        label = Label(s.word.span, "nothing is open here")
        message = f"`{s.word.text}` without an opening bracket"
        return Diagnostic("E114", message, (label,), help="delete it, or open the group")
    if OPENING[opening.type] == s.word.type:
        return None
    closing = BRACKETS[OPENING[opening.type]]
    labels = (
        Label(s.word.span, f"closed with `{s.word.text}`"),
        Label(opening.span, f"opened with `{opening.text}`"),
    )
    message = f"`{opening.text}` cannot be closed with `{s.word.text}`"
    return Diagnostic("E103", message, labels, help=f"write `{closing}` here")


def _one_branch(s: Situation) -> Diagnostic | None:
    opening = s.opening
    if s.word.type != "RBRACE" or opening is None or opening.type != "LBRACE":
        return None
    empty = s.last is opening
    if not empty and "BAR" not in s.accepts:
        return None
    how_many = "no branch" if empty else "one branch only"
    before = s.stack[: next(i for i, value in enumerate(s.stack) if value is opening)]
    name = next(value.text for value in reversed(before) if is_word(value, "NAME"))
    label = Label(opening.span.to(s.word.span), how_many)
    help = "write two or more, split by `|`; ID passes the input on: { ... | ID }"
    return Diagnostic("E104", f"`{name}` has {how_many}", (label,), help=help)


def _count(s: Situation) -> Diagnostic | None:
    """Arithmetic as a repeat count, ``*N+1``, ``*N-1`` or ``*-1``."""
    if is_word(s.last, "STAR") and s.accepts == COUNT_STARTS:
        label = Label(s.word.span, "no such count")
        help = "write *3, *N or *(N + 1)"
        message = "a repeat count is a number, a name or an expression in parentheses"
        return Diagnostic("E105", message, (label,), help=help)
    if s.in_chain and s.word.type in ARITHMETIC:
        steps = 1
    elif is_word(s.last, "MINUS") and s.word.type in NUMBERS and "LSQB" in s.accepts:
        steps = 2  # the `-` was taken for the one that joins layers
    else:
        return None
    count, star = s.back(steps), s.back(steps + 1)
    if count is None or star is None or star.type != "STAR":
        return None
    operator, operand = (*s.words, s.words[-1])[s.index - steps + 1 :][:2]
    labels = (
        Label(operator.span, "arithmetic"),
        Label(star.span.to(count.span), "the count ends here"),
    )
    right = operand.text if operand.type in NUMBERS | {"NAME"} else "1"
    help = f"write *({count.text} {operator.text} {right})"
    return Diagnostic(
        "E105", "arithmetic after a repeat count needs parentheses", labels, help=help
    )


def _shape(s: Situation) -> Diagnostic | None:
    """A shape in another notation, after ``input``, after ``::`` or on the command line."""
    pending = s.stack[-3:]
    noted = any(is_word(v, "NOTE") for v in pending)
    if s.start != "shape" and not any(is_word(v, "INPUT") for v in s.stack) and not noted:
        return None
    after_size = s.last is not None and s.last.type in NUMBERS
    spelled = s.word.type == "NAME" and s.word.text[0] in "xX"
    if noted and not (spelled or not after_size):
        return None
    if after_size and s.word.type in LAYER_STARTS and not spelled:
        return None
    if s.at_end and not after_size and s.last is not None:
        label = Label(s.last.span, "a shape must follow")
    else:
        label = Label(s.word.span, "not part of a shape")
    help = "write 32x32x3 (height x width x channels, no blanks), 3@32x32, 3@128 or 784"
    return Diagnostic("E107", "shape not understood", (label,), help=help)


def _comma(s: Situation) -> Diagnostic | None:
    """Something after the head, or a comma inside a chain."""
    if s.word.type not in ("COMMA", "MINUS", "ARROW", *LAYER_STARTS):
        return None
    after_head = _after_head(s)
    if after_head is not None:
        labels = (Label(s.word.span, "nothing may follow"), Label(after_head, "this is the head"))
        if s.word.type == "COMMA":
            help = "keep one head; join layers by `-`"
            return Diagnostic("E106", "second comma: a net has one head", labels, help=help)
        help = "join layers by `-` and put the head last"
        return Diagnostic("E106", "`,` ends the net with its head", labels, help=help)
    if s.word.type == "COMMA" and s.in_chain:
        message = "a comma inside brackets: `,` introduces the head of the whole net"
        label = Label(s.word.span, "only the end of a net takes a comma")
        return Diagnostic("E106", message, (label,), help="join layers by `-`")
    return None


def _after_head(s: Situation) -> Span | None:
    """The head's span if it is what the parser read last."""
    if s.opening is not None:
        return None
    # Lists are complete when no bracket is open, so a comma left over is the head's.
    comma = next((i for i, value in enumerate(s.stack) if is_word(value, "COMMA")), None)
    if comma is None or comma + 1 == len(s.stack):
        return None
    start: Span = s.stack[comma + 1].span
    return start.to(s.gap)


def _keyword(s: Situation) -> Diagnostic | None:
    """A statement's keyword misspelt, or a word of the language used as a name."""
    for word in (s.word, s.last):
        if word is not None and word.type == "NAME" and word.starts_line and s.opening is None:
            keyword = misspelt_keyword(word.text)
            if keyword is not None:
                label = Label(word.span, f"did you mean `{keyword}`?")
                message = f"no statement begins with `{shown(word.text)}`"
                return Diagnostic("E100", message, (label,), help=f"write `{keyword}`")
    if s.word.text in KEYWORDS and "NAME" in s.accepts and not s.at_end:
        label = Label(s.word.span, "a word of the language")
        message = f"`{s.word.text}` cannot be a name"
        return Diagnostic("E112", message, (label,), help="choose another name")
    return None


def _missing_joint(s: Situation) -> Diagnostic | None:
    if not s.in_chain or s.word.type not in LAYER_STARTS or s.last is None:
        return None
    place = _last_item(s)
    left, right = shown(place.text), shown(s.word.text)
    labels = (Label(s.word.span, "a layer begins here"), Label(place, "the one before ends here"))
    message = f"missing `-` between `{left}` and `{right}`"
    return Diagnostic("E101", message, labels, help=f"write `{left} - {right}`")


def _last_item(s: Situation) -> Span:
    """The layer, group or postfix that ends with the last word."""
    first = s.index - 1
    while s.words[first].type in CLOSING:
        depth = 1
        while depth:
            first -= 1
            kind = s.words[first].type
            depth += (kind in CLOSING) - (kind in OPENING)
        before = s.words[first - 1] if first > s.begin else None
        if s.words[first].type == "LSQB" or not is_word(before, "NAME", "RPAR", "STAR", "QUESTION"):
            break
        first -= 1
    while first > s.begin and s.words[first - 1].type in ("STAR", "AS", "NOTE", "AT"):
        of_shape = s.words[first - 1].type == "AT" and s.words[first - 2].type == "INT"
        first -= 2 if of_shape else 1  # 3 @ 32x32
    return s.words[first].span.to(s.words[s.index - 1].span)


def _missing_comma(s: Situation) -> Diagnostic | None:
    starts = NUMBERS | {"NAME", "STRING", "AT", "NOT"}
    if s.word.type not in starts or s.in_chain or not {"COMMA", "RPAR"} <= s.accepts:
        return None
    label = Label(s.word.span, "another one begins here")
    help = f"write `, {shown(s.word.text)}`"
    return Diagnostic("E116", "missing `,` in a list", (label,), help=help)


def _number(s: Situation) -> Diagnostic | None:
    """A number that runs into a name: ``1_000``, ``3px``."""
    if s.word.type != "NAME" or s.last is None or s.last.type not in NUMBERS:
        return None
    if s.last.span.end != s.word.span.start:
        return None
    place = s.last.span.to(s.word.span)
    message = f"`{shown(place.text)}` is neither a number nor a name"
    return Diagnostic("E100", message, (Label(place),), help="write numbers as 1000, 0.5 or 3x5")


def _bare_chain(s: Situation) -> Diagnostic | None:
    """A chain among statements without ``net NAME =``."""
    if s.start != "program" or s.opening is not None:
        return None
    first = s.words[s.begin]
    if s.word.type in LAYER_STARTS and END in s.accepts:
        place = s.word
    elif s.word.starts_statement and first.type in LAYER_STARTS and END in s.accepts:
        place = first
    else:
        return None
    label = Label(place.span, "a chain begins here")
    help = "write `net NAME = ` before it"
    return Diagnostic("E115", "a chain without `net` among statements", (label,), help=help)


def _unexpected(s: Situation) -> Diagnostic:
    wanted = expectation(s.accepts)
    if s.at_end:
        what = "the text ends" if s.word.type == END else "the next statement begins"
        label = Label(s.gap, f"{wanted} should follow")
        return Diagnostic("E100", f"{what} where {wanted} should stand", (label,))
    if not _closed_later(s):
        still_open = _open_bracket(s, f"`{shown(s.word.text)}` cannot follow inside it")
        if still_open is not None:
            return still_open
    label = Label(s.word.span, f"expected {wanted}")
    message = f"`{shown(s.word.text)}` cannot stand here"
    return Diagnostic("E100", message, (label,), help=_habit(s))


def _habit(s: Situation) -> str | None:
    """What to write instead of a sign that other languages use."""
    if s.word.type == "COMPARISON" and "RPAR" in s.accepts:
        return "join two comparisons by `and`"
    if s.word.type in NUMBERS and "LSQB" in s.accepts:
        return "a repeat count stands behind: (...)*2"
    return HABITS.get(s.word.type) if s.in_chain else None


SLIPS: tuple[Callable[[Situation], Diagnostic | None], ...] = (
    _maybe_pattern,
    _never_closed,
    _brackets,
    _one_branch,
    _count,
    _comma,
    _keyword,
    _shape,
    _number,
    _missing_joint,
    _missing_comma,
    _bare_chain,
    _unexpected,
)
