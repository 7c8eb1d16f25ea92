"""The parameters of a query string."""

from typing import TypeVar

from aiohttp import web

from i2ii_spool.errors import InvalidRequest

Number = TypeVar("Number", int, float)


def query_parameters(request: web.Request, *known: str) -> dict[str, str]:
    """Return the parameters. Raises `InvalidRequest` for an unknown or repeated one."""
    for name in request.query:
        if name not in known:
            raise InvalidRequest(
                f"{name} is not a parameter here; {', '.join(known)} is", field=name
            )
        if len(request.query.getall(name)) > 1:
            raise InvalidRequest(f"{name} is given twice", field=name)
    return dict(request.query)


def number_parameter(
    query: dict[str, str], name: str, default: Number, *, least: float = 0, most: float
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
