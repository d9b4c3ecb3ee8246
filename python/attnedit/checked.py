"""What people write -> dataclasses: strict types; a fault is one line with key, wanted and got."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

T = TypeVar("T")

Text = Annotated[str, Field(pattern=r"^[^\x00]+$")]  # the only pattern, as WANTED says it
Size = Annotated[int, Field(ge=1, le=2**20)]  # of a model; the product of three such is an array that numpy can name
Even = Annotated[int, Field(ge=2, le=2**20, multiple_of=2)]
Length = Annotated[int, Field(ge=1, le=2**40)]  # in tokens
Layers = Annotated[int, Field(ge=0, le=10_000)]  # how many, or which one
Epsilon = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

MOST_FAULTS = 3
UNKNOWN = "unexpected_keyword_argument"
# pydantic's error types in our words, filled from its ctx.
WANTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "int_parsing_size": "a smaller number",
    "float_type": "a number", "finite_number": "a finite number", "bool_type": "true or false", "string_type": "text",
    "list_type": "a list", "tuple_type": "a list", "dict_type": "a mapping of keys",
    "dataclass_type": "a mapping of keys", "none_required": "null", "literal_error": "{expected}",
    "greater_than": "greater than {gt:.15g}", "greater_than_equal": "at least {ge:.15g}",
    "less_than": "less than {lt:.15g}", "less_than_equal": "at most {le:.15g}",
    "multiple_of": "a multiple of {multiple_of}", "too_short": "at least {min_length} long",
    "string_too_short": "some text", "string_pattern_mismatch": "some text without NUL",
}  # fmt: skip


_adapter: Any = lru_cache(TypeAdapter)  # a model's layers are checked one by one


def checked(
    kind: type[T],
    values: Any,
    where: str = "",
    extra: Literal["forbid", "ignore"] = "forbid",
    place: Callable[[str], str] = lambda key: "",
) -> T:
    """A dataclass from what YAML or JSON gave. Raises ValueError in one line that starts with `where`; place(dotted
    key) is put before what is said of that key."""
    try:
        text = json.dumps(values, default=str)
    except ValueError as error:
        refused = "hold itself" if "Circular" in str(error) else "have a number of thousands of digits"
        raise ValueError(f"{where}what is written must not {refused}") from None
    except RecursionError:
        raise ValueError(f"{where}the keys must be nested less deeply") from None
    try:
        # As JSON: a list is a tuple there and text is a path, but neither text nor true is a number.
        made: T = _adapter(kind).validate_json(text, strict=True, extra=extra)
        return made
    except ValidationError as error:
        faults: dict[str, list[dict[str, Any]]] = {}
        for fault in error.errors():
            faults.setdefault(_key(fault, json.loads(text)), []).append(fault)  # type: ignore[arg-type]
        # A key with a typo also makes the right one missing: the typo is told first.
        told = sorted(faults.items(), key=lambda item: item[1][0]["type"] != UNKNOWN)
        lines = [place(key) + _line(kind, key, several) for key, several in told]
        raise ValueError(where + "; ".join(lines[:MOST_FAULTS])) from None


def shown(value: Any) -> str:
    """repr, cut to what fits into a line."""
    # Of what is long only the beginning is written: repr would take many times the memory of a hostile file.
    if isinstance(value, str | list | tuple):
        value = value[:81]
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deep {type(value).__name__}"
    except ValueError:  # Python writes no such number
        text = f"{type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _key(fault: Mapping[str, Any], values: Any) -> str:
    """The dotted key: pydantic's path without the branches of unions that it adds."""
    parts = []
    for part in fault["loc"]:
        inside = isinstance(values, Mapping) and part in values
        if inside or (isinstance(values, list) and isinstance(part, int)):
            values = values[part]
        elif fault["type"] != "missing":
            break
        parts.append(str(part))
    return ".".join(parts)


def _line(kind: Any, key: str, faults: list[dict[str, Any]]) -> str:
    first = faults[0]
    if first["type"] == "json_invalid":  # of what json reads and pydantic does not: too deep, half a surrogate pair
        return f"the keys must be JSON: {first['ctx']['error']}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == UNKNOWN:
        for part in first["loc"][:-1]:
            kind = next(f.type for f in fields(kind) if f.name == part)
        return f"unknown key {shown(key)}; the known ones are {', '.join(f.name for f in fields(kind))}"
    if first["type"] == "value_error":  # raised by the field's own check, which names the key
        return str(first["ctx"]["error"])
    wanted = dict.fromkeys(
        WANTED[f["type"]].format_map(f.get("ctx", {})) if f["type"] in WANTED else f["msg"] for f in faults
    )
    return f"{key} must be {' or '.join(wanted)}, got {shown(first['input'])}"
