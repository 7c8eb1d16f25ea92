"""The parameters of a query string, and the headers that a route reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from i2ii_spool.errors import InvalidRequest


@dataclass(frozen=True)
class Parameter:
    """A parameter of a query, or a header."""

    name: str
    meaning: str
    schema: Mapping[str, Any]
    """JSON Schema of the value. Of a number it has the limits and the default, which are checked
    and taken from it."""


def whole_number(query: Mapping[str, str], parameter: Parameter) -> int:
    """Return a parameter as a whole number. Raises `InvalidRequest`."""
    return int(_number(query, parameter, int, "a whole number"))


def number(query: Mapping[str, str], parameter: Parameter) -> float:
    """Return a parameter as a number; 0 if it is not given and has no default.

    Raises `InvalidRequest`.
    """
    return _number(query, parameter, float, "a number")


def _number(
    query: Mapping[str, str], parameter: Parameter, kind: type[int | float], what: str
) -> float:
    name, schema = parameter.name, parameter.schema
    least, most = schema["minimum"], schema["maximum"]
    try:
        given = kind(query.get(name, schema.get("default", 0)))
    except ValueError:
        given = least - 1
    if not least <= given <= most:
        raise InvalidRequest(
            f"{name} must be {what} from {least:g} to {most:g}, got {query[name]!r}", field=name
        )
    return given
