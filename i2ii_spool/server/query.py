"""The parameters of a query string."""

from collections.abc import Mapping
from typing import TypeVar

from i2ii_spool.errors import InvalidRequest

Number = TypeVar("Number", int, float)


def number_parameter(
    query: Mapping[str, str], name: str, default: Number, *, least: float = 0, most: float
) -> Number:
    """Return a parameter as a number of the type of its default. Raises `InvalidRequest`."""
    kind = type(default)
    try:
        number = kind(query.get(name, default))
    except ValueError:
        number = kind(least - 1)
    if not least <= number <= most:
        what = "a whole number" if kind is int else "a number"
        raise InvalidRequest(
            f"{name} must be {what} from {least:g} to {most:g}, got {query[name]!r}", field=name
        )
    return number
