"""Pages of other sites that may use the API from a browser, with a token (CORS, Fetch standard).

A browser lets a page read an answer only if the server names the page's origin in it, and asks
before most requests. It sends no token by itself: without one a page can do nothing here.
"""

from aiohttp import hdrs, web

from i2ii_spool.settings import ANY_HOST, Settings

EXPOSED = (
    *("X-Request-ID", "X-I2ii-Ignored", "X-Should-Retry", "Retry-After", "Location", "ETag"),
    *("Content-Disposition", "Content-Range", "Accept-Ranges", "Allow", "WWW-Authenticate"),
)
"""The headers of answers that a page may read, besides those that any may."""
PREFLIGHT_SECONDS = 600
"""For so long a browser does not ask again."""
ANY_METHOD = "*"
"""For a path that no route has, so that the page can read the 404."""


class AllowedOrigins:
    """The origins of pages, like `https://images.example.com`, that may use the API."""

    def __init__(self, settings: Settings) -> None:
        self._origins = settings.allowed_origins

    def allows(self, request: web.BaseRequest) -> bool:
        """Return whether a page that may use the API makes the request."""
        origin = request.headers.get(hdrs.ORIGIN, "").lower()
        return bool(origin) and (origin in self._origins or ANY_HOST in self._origins)

    def is_preflight(self, request: web.BaseRequest) -> bool:
        """Return whether a browser asks what such a page may do. It sends no token with that."""
        asks = hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        return request.method == hdrs.METH_OPTIONS and asks and self.allows(request)

    def answer_preflight(self, request: web.Request) -> web.Response:
        """Return what a page may send to a URL, whatever its query: only a real answer, an error
        too, can be read by the page."""
        methods = methods_of(request.match_info.route.resource)
        # No header of a client does harm.
        wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, hdrs.AUTHORIZATION)
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(methods) or ANY_METHOD,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: wanted,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
        }
        return web.Response(status=204, headers=headers)

    def add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Have the browser give the answer to the page."""
        if not self._origins:
            return
        vary = response.headers.get(hdrs.VARY)
        response.headers[hdrs.VARY] = f"{vary}, {hdrs.ORIGIN}" if vary else hdrs.ORIGIN
        if self.allows(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(EXPOSED)


def methods_of(resource: web.AbstractResource | None) -> list[str]:
    """Return the methods that a path accepts; none if no route has it."""
    methods = {route.method for route in resource or ()}
    return sorted(methods - {hdrs.METH_ANY})
