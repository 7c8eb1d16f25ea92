"""How a request finds its handler, and the check that the handler uses all of it.

Each path answers `OPTIONS`, and tells other methods which it accepts. A trailing or doubled slash
makes no difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from aiohttp import hdrs, web
from pydantic import BaseModel
from yarl import URL

from i2ii_spool.errors import (
    ExpectationFailed,
    I2iiError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from i2ii_spool.server.errors import Handler
from i2ii_spool.server.query import Parameter

IGNORED_PARAMETER = "_"
"""Browser libraries add `?_=<time>` so that no cache answers."""
MAX_IGNORED_BODY = 2
"""Some clients send `{}` where a route takes no body. Fewer than 3 bytes hold no field."""


@dataclass(frozen=True)
class Answer:
    """What a route answers where it raises no error."""

    status: int
    meaning: str
    model: type[BaseModel] | None = None
    """Of the JSON object."""
    media_types: tuple[str, ...] = ()
    """Where it is not JSON, or not only. An answer with neither has no body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The meaning of each that the answer always has, besides those of all answers."""


@dataclass(frozen=True)
class Route:
    """A method of a path, its handler, and what the handler takes and answers.

    The description of the API is made from it.
    """

    method: str
    path: str
    handler: Handler
    """The first paragraph of its docstring is the summary of the route."""
    parameters: tuple[Parameter, ...] = ()
    """Of the query."""
    headers: tuple[Parameter, ...] = ()
    """That the handler reads. A request may have others."""
    form_fields: tuple[str, ...] = ()
    """Of the body."""
    form_models: tuple[type[BaseModel], ...] = ()
    """They have the fields of the form that are no pictures; the last that has one counts."""
    form_defaults: Mapping[str, object] = field(default_factory=dict)
    """Where they are not those of the models."""
    takes_json: bool = False
    """Whether the body may be JSON instead, with the pictures as `data:` URLs."""
    json_model: type[BaseModel] | None = None
    """Of a body that is JSON alone."""
    answers: tuple[Answer, ...] = ()
    errors: tuple[type[I2iiError], ...] = ()
    """Besides those of every route."""
    tag: str = ""
    """Under which the description lists it."""

    @property
    def takes_body(self) -> bool:
        """Whether a request has one."""
        return bool(self.form_fields) or self.json_model is not None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, or refuse it before its body is read."""
        check_expectation(request)
        check_query(request, self)
        if not self.takes_body:
            check_no_body(request)
        return await self.handler(request)


def add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Register the routes; those of one path stand next to each other."""
    for path, of_path in groupby(routes, key=lambda route: route.path):
        resource = app.router.add_resource(path)
        methods = []
        for route in of_path:
            aliases = (hdrs.METH_HEAD,) if route.method == hdrs.METH_GET else ()
            for method in (route.method, *aliases):
                resource.add_route(method, route.handle, expect_handler=no_continue)
                methods.append(method)
        options = Options(tuple(sorted([*methods, hdrs.METH_OPTIONS])))
        described = Route(hdrs.METH_OPTIONS, path, options.describe)
        resource.add_route(hdrs.METH_OPTIONS, described.handle, expect_handler=no_continue)
        resource.add_route(hdrs.METH_ANY, options.refuse, expect_handler=no_continue)
    app.router.register_resource(OtherPaths(app.router))


async def no_continue(_request: web.Request) -> None:
    """Send no `100 Continue` yet: aiohttp asks for that before it calls the middlewares."""


@dataclass(frozen=True)
class Options:
    """The methods that a path accepts."""

    methods: tuple[str, ...]

    async def describe(self, _request: web.Request) -> web.Response:
        """204, and the methods in `Allow`."""
        return web.Response(status=204, headers={hdrs.ALLOW: ", ".join(self.methods)})

    async def refuse(self, request: web.Request) -> web.Response:
        """Raise `MethodNotAllowed`."""
        allowed = ", ".join(self.methods)
        raise MethodNotAllowed(
            f"{request.path} does not accept {request.method}; it accepts {allowed}", allow=allowed
        )


class OtherPaths(web.DynamicResource):
    """All paths that no route has: another spelling of a route's path, or a mistake."""

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__("/{path}")
        self._router = router
        self._no_route = self.add_route(hdrs.METH_ANY, no_route, expect_handler=no_continue)

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Return the route of the path with single slashes, and none at its end."""
        path = request.rel_url.raw_path
        plain = "/" + "/".join(filter(None, path.split("/")))
        if plain == path:
            return web.UrlMappingMatchInfo({}, self._no_route), set()
        other = request.clone(rel_url=URL.build(path=plain, encoded=True))
        return await self._router.resolve(other), set()


async def no_route(request: web.Request) -> web.Response:
    """Raise `NotFound`."""
    routes = "/edit, /status/ID, /result/ID and /jobs"
    raise NotFound(f"there is no route {request.path}; jobs are at {routes}")


def check_expectation(request: web.Request) -> None:
    """Raise `ExpectationFailed` for one other than `100-continue`."""
    expected = ", ".join(request.headers.getall(hdrs.EXPECT, []))
    if expected.lower() not in ("", "100-continue"):
        raise ExpectationFailed(
            f"Expect: {expected[:100]} cannot be met; send 100-continue, or no Expect",
            field=hdrs.EXPECT,
        )


def check_query(request: web.Request, route: Route) -> None:
    """Raise `InvalidRequest` for a parameter that the route does not take, or a repeated one."""
    known = [parameter.name for parameter in route.parameters]
    for name in request.query:
        if name == IGNORED_PARAMETER:
            continue
        if name not in known:
            if name in route.form_fields:
                cure = f"send it as a form field, like curl -F {name}=..."
            else:
                cure = f"it takes {', '.join(known) or 'none'}"
            what = f"{name[:100]} is not a parameter of {route.method} {route.path}"
            raise InvalidRequest(f"{what}; {cure}", field=name)
        if len(request.query.getall(name)) > 1:
            raise InvalidRequest(f"{name} is given twice", field=name)


def check_no_body(request: web.Request) -> None:
    """Raise `InvalidRequest` for a body that no one would read."""
    is_chunked = hdrs.TRANSFER_ENCODING in request.headers
    if is_chunked or (request.content_length or 0) > MAX_IGNORED_BODY:
        raise InvalidRequest(
            f"{request.method} {request.path} takes no body; only POST /edit takes fields"
        )
