"""Regular expressions from a file, matched in bounded time.

Python's engine may take exponential time, so that one line of a config could stop the program for good. Here a pattern
is a function from the places where a match may begin to those where it may end, so no place is tried twice. What names
of modules need is known: characters, classes, groups, ``|``, ``* + ? {m,n}``, ``^`` and ``$``; all else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

from wnconvert.errors import CheckpointError

#: the longest pattern, the deepest groups in it, and the most repetitions that it may count.
LONGEST, DEEPEST, MOST = 1000, 5, 100

_Places: TypeAlias = frozenset[int]
_Matcher: TypeAlias = Callable[[str, _Places], _Places]

_TOKEN = re.compile(
    r"(?P<atom>\\[dDwWsS]|\\[^0-9A-Za-z]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\()\[\]{}*+?|^$])"
    r"|(?P<open>\((?:\?:)?(?!\?))|(?P<mark>[)|^$])|(?P<simple>[*+?])\??|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\}\??",
    re.DOTALL,
)


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a whole dotted name, or what follows one of its dots, as PEFT matches it.

    Raises:
        CheckpointError: the pattern has something that is not known here.
    """
    begins = frozenset({0, *(index + 1 for index, character in enumerate(name) if character == ".")})
    return len(name) in _compiled(pattern)(name, begins)


@cache
def _compiled(pattern: str) -> _Matcher:
    if len(pattern) > LONGEST:
        raise CheckpointError(f"the pattern {pattern[:40]!r}... has more than {LONGEST} characters")
    tokens: list[re.Match[str]] = []
    place = 0
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            raise _unknown(pattern)
        tokens.append(token)
        place = token.end()
    tokens.reverse()  # the next one is taken from the end
    matcher = _alternatives(tokens, pattern, 0)
    if tokens:
        raise _unknown(pattern)
    return matcher


def _alternatives(tokens: list[re.Match[str]], pattern: str, depth: int) -> _Matcher:
    if depth > DEEPEST:
        raise _unknown(pattern)
    branches = [_sequence(tokens, pattern, depth)]
    while tokens and tokens[-1].group() == "|":
        tokens.pop()
        branches.append(_sequence(tokens, pattern, depth))
    return lambda name, places: frozenset().union(*(branch(name, places) for branch in branches))


def _sequence(tokens: list[re.Match[str]], pattern: str, depth: int) -> _Matcher:
    steps: list[_Matcher] = []
    while tokens and tokens[-1].group() not in ("|", ")"):
        token = tokens.pop()
        if token["open"]:
            step = _alternatives(tokens, pattern, depth + 1)
            if not tokens or tokens.pop().group() != ")":
                raise _unknown(pattern)
        elif token["atom"] or token["mark"]:
            step = _single(token, pattern)
        else:
            raise _unknown(pattern)  # a count without anything to be counted
        if tokens and not (tokens[-1]["atom"] or tokens[-1]["open"] or tokens[-1]["mark"]):
            step = _repeated(step, *_counts(tokens.pop(), pattern))
        steps.append(step)

    def run(name: str, places: _Places) -> _Places:
        for step in steps:
            places = step(name, places)
        return places

    return run


def _single(token: re.Match[str], pattern: str) -> _Matcher:
    text = token.group()
    if text == "^":
        return lambda name, places: places & {0}
    if text == "$":
        return lambda name, places: places & {len(name)}
    try:
        one = re.compile(text)  # of one character, which takes no time
    except re.error as error:
        raise _unknown(pattern) from error
    return lambda name, places: frozenset(
        place + 1 for place in places if place < len(name) and one.fullmatch(name[place])
    )


def _counts(token: re.Match[str], pattern: str) -> tuple[int, int | None]:
    if token["simple"]:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[token["simple"]]
    low, high = token["low"], token["high"]
    if not (low or high) or max(len(low), len(high)) > len(str(MOST)):
        raise _unknown(pattern)
    least = int(low or 0)
    most = least if not token["comma"] else int(high) if high else None
    if max(least, most or 0) > MOST or (most is not None and most < least):
        raise _unknown(pattern)
    return least, most


def _repeated(step: _Matcher, least: int, most: int | None) -> _Matcher:
    def run(name: str, places: _Places) -> _Places:
        for _ in range(least):
            places = step(name, places)
        reached = new = places
        count = least
        while new and (most is None or count < most):
            new = step(name, new) - reached
            reached |= new
            count += 1
        return reached

    return run


def _unknown(pattern: str) -> CheckpointError:
    return CheckpointError(f"the pattern {pattern!r} is not understood; write it with names, classes and * + ? |")
