"""What an op wants of its arguments, written beside it: types, dimensions and heads. Kernels check the rest, that sizes
fit each other and what options may be."""

import re
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from types import UnionType
from typing import Any, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

# What may stand for an annotated type, and what it is called. Any other stands for itself.
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    np.ndarray: ((np.ndarray,), "a numpy array"),
    int: ((int, np.integer), "a whole number"),
    float: ((float, int, np.floating, np.integer), "a number"),
    bool: ((bool, np.bool_), "true or false"),
    str: ((str,), "text"),
}


class _Wanted(NamedTuple):
    name: str
    place: int  # among the op's arguments
    types: tuple[type, ...]
    kind: str
    optional: bool
    several: bool  # a list of them
    shape: str  # as docstrings write it; empty: not looked at
    least: int  # dimensions
    more: bool  # or more of them
    heads: tuple[int, str] | None  # place and name of the argument that divides the last dimension


def wants(**shapes: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """When the op fails: whatever is not of the annotated type (TypeError), or does not have the shape given here
    (ValueError), is told in one line that names op and argument.

    A shape is what the op's docstring says: "B, T, heads * K" is three dimensions, the last of which the op's own
    argument `heads` divides; "..., D" is one dimension or more. Letters are names: sizes are the kernels' to compare.
    """

    def around(op: Callable[P, R]) -> Callable[P, R]:
        wanted = _read(op, shapes)

        @wraps(op)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return op(*args, **kwargs)
            except Exception:  # only now: a token takes hundreds of calls, and those that are right pay nothing
                for w in wanted:
                    if fault := _fault(op.__name__, w, args, kwargs):
                        raise fault from None
                raise

        return told

    return around


def _fault(op: str, w: _Wanted, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception | None:
    value = _given(args, kwargs, w.place, w.name)
    if value is Ellipsis or (value is None and w.optional):
        return None  # absent; Python tells of what must not be
    if w.several and not isinstance(value, list | tuple):
        return TypeError(f"[{op}] {w.name} must be a list, got {type(value).__name__}")
    for x in value if w.several else (value,):
        if not isinstance(x, w.types):
            return TypeError(f"[{op}] {w.name} must be {w.kind}, got {type(x).__name__}")
        if w.shape and (fault := _shape_fault(w, x, _given(args, kwargs, *w.heads) if w.heads else Ellipsis)):
            return ValueError(f"[{op}] {fault}")
    return None


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name, Ellipsis)


def _shape_fault(w: _Wanted, x: Any, heads: Any) -> str:
    rank = len(x.shape)
    if rank < w.least or (rank > w.least and not w.more):
        return f"{w.name} must have shape ({w.shape}), got {x.shape}"
    if heads is Ellipsis or w.heads is None:
        return ""
    if heads < 1:
        return f"{w.heads[1]} must be 1 or more, got {heads}"
    return (
        f"{w.name} must have shape ({w.shape}) for {heads} {w.heads[1]}, got {x.shape}" if x.shape[-1] % heads else ""
    )


def _read(op: Callable[..., Any], shapes: dict[str, str]) -> list[_Wanted]:
    """Numbers come before the arrays that they divide."""
    parameters, hints, wanted = signature(op).parameters, get_type_hints(op), []
    places = list(parameters)
    for name in sorted(places, key=lambda name: (name in shapes, places.index(name))):
        hint = hints[name]
        several = get_origin(hint) is Sequence
        if several or get_origin(hint) in (UnionType, Union):  # "X | None"
            hint = get_args(hint)[0]
        hint = get_origin(hint) or hint
        types, kind = KINDS.get(hint, ((hint,), f"a {hint.__name__}"))
        terms = [term.strip() for term in shapes.get(name, "").split(",") if term.strip()]
        heads = re.match(r"(\w+) (?=\*|or)", terms[-1]) if terms else None
        divisor = heads[1] if heads and heads[1] in places else None
        place = None if divisor is None else (places.index(divisor), divisor)
        least, more, optional = len(terms) - terms.count("..."), "..." in terms, parameters[name].default is None
        shape = ", ".join(terms)
        wanted.append(_Wanted(name, places.index(name), types, kind, optional, several, shape, least, more, place))
    return wanted
