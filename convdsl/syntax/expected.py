"""Terminals the parser would accept -> words a user knows."""

from difflib import get_close_matches

from convdsl.syntax.word import STATEMENTS

# In this order, the first sets that fit speak for all their members.
_KINDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("an expression", frozenset({"INT", "FLOAT", "STRING", "NAME", "LPAR", "MINUS"})),
    ("a layer or a group", frozenset({"NAME", "LPAR", "LSQB", "AT"})),
    ("a shape", frozenset({"INT", "DIMS"})),
    ("a statement", frozenset({"NET", "INPUT", "LET"})),
    ("an operator", frozenset({"PLUS", "SLASH", "COMPARISON"})),
    ("`-`", frozenset({"ARROW"})),
)
_SIGNS = {
    "NAME": "a name",
    "INT": "a whole number",
    "STRING": "a path in quotes",
    "EQUALS": "`=`",
    "COMMA": "`,`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "RBRACE": "`}`",
    "BAR": "`|`",
    "DOT": "`.`",
    "IN": "`in`",
    "AT": "`@`",
    "$END": "the end of the text",
}
_COVERED = frozenset(
    {"DIMS", "NOT", "AT", "STAR", "FLOOR", "POWER", "MINUS", "OR", "AND", "QUESTION", "AS"}
)


def expectation(accepts: frozenset[str]) -> str:
    """``a layer or a group``, or ``, or `)```: at most four things."""
    found: list[str] = []
    rest = set(accepts)
    for words, members in _KINDS:
        if members <= rest:
            found.append(words)
            rest -= members | _COVERED
    found += [sign for terminal, sign in _SIGNS.items() if terminal in rest]
    return " or ".join(found[:4]) or "something else"


def misspelt_keyword(text: str) -> str | None:
    """The statement keyword that ``text`` nearly is."""
    close = get_close_matches(text.lower(), STATEMENTS, n=1, cutoff=0.7)
    return close[0] if close and text not in STATEMENTS else None


def shown(text: str) -> str:
    """Source text short enough for a message, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 24 else text[:21] + "..."
