"""The description of the API (OpenAPI 3.1), made from the table of routes and the models.

A route states its parameters, its form, its answers and its errors; the docstring of its handler is
its summary. The schemas are those of the models, and the errors those of the register.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

import i2ii_spool
from i2ii_spool import errors
from i2ii_spool.errors import I2iiError
from i2ii_spool.jobs import ids
from i2ii_spool.jobs.records import without_null
from i2ii_spool.jobs.request import MAX_IMAGES, EditRequest
from i2ii_spool.server.answers import Error, Submitted
from i2ii_spool.server.auth.hosts import SAFE_METHODS
from i2ii_spool.server.auth.middleware import API_KEY, LIVENESS_PATH, PUBLIC_PATHS
from i2ii_spool.server.openai.json_body import IMAGES, MEDIA_TYPE
from i2ii_spool.server.query import Parameter
from i2ii_spool.server.routing import Answer, Route
from i2ii_spool.server.upload import FORM, IMAGE, MASK

Json = dict[str, Any]

ABOUT = """\
Submit a picture and an instruction, wait for the job, fetch the result.

Errors have one shape, and a code that is stable. `HEAD` works where `GET` does, and `OPTIONS`
answers 204 with `Allow`. A query may have the parameter `_`, which is ignored. Later versions may
add keys to answers: ignore those that you do not know."""
REFERENCE = "#/components/schemas/{model}"
TOKEN_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of this server."},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": API_KEY,
        "description": "The same token, as clients for Azure send it.",
    },
}
ERRORS_OF_EVERY_ROUTE = (
    errors.InvalidRequest,
    errors.MalformedHttp,
    errors.ExpectationFailed,
    errors.I2iiError,
    errors.SpoolUnusable,
    errors.TooManyConnections,
    errors.DiskFull,
)
WITH_CODES_OF_JOBS = (errors.JobFailed, errors.EngineError)
"""Errors whose code is that of the failure of a job."""
ERROR_HEADERS = {
    errors.TryLater: {hdrs.RETRY_AFTER: "Seconds to wait before the next try, 60 at most."},
    errors.NotReady: {hdrs.RETRY_AFTER: "Seconds to wait before the next try."},
    errors.Unauthorized: {hdrs.WWW_AUTHENTICATE: "The scheme, `Bearer`."},
    errors.RangeNotSatisfiable: {hdrs.CONTENT_RANGE: "`bytes */` and the size of the picture."},
}


class Description:
    """The description of a server, made when it is first asked for."""

    def __init__(self, routes: Sequence[Route], *, needs_token: bool) -> None:
        self._routes = routes
        self._needs_token = needs_token

    @cached_property
    def document(self) -> Json:
        """The description, as an object of JSON."""
        return describe(self._routes, needs_token=self._needs_token)


DESCRIPTION = web.AppKey("description", Description)


def describe(routes: Sequence[Route], *, needs_token: bool) -> Json:
    """Return the description of a server with these routes."""
    schemas = _answer_schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        of_path = paths.setdefault(route.path, {})
        of_path[route.method.lower()] = _operation(route, routes, schemas, needs_token)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "i2ii",
            "version": i2ii_spool.__version__,
            "summary": "Edits pictures as an instruction says.",
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {"RequestId": _header("Of the request: the log of a bug has it.", True)},
            "securitySchemes": TOKEN_SCHEMES,
        },
    }


class Schemas(GenerateJsonSchema):
    """Describes the fields of a model by the docstrings below them."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        """No: a title made from the name of a field says nothing."""
        return False

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of a model."""
        described = super().model_schema(schema)
        for base in reversed(schema["cls"].__mro__):
            if issubclass(base, BaseModel) and base is not BaseModel:
                for name, text in docstrings_below(base):
                    described["properties"][name].setdefault("description", text)
        return described


def docstrings_below(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the names that the body of a class assigns, each with the docstring below it."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for statement, below in pairwise(definition.body):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())


def _answer_schemas(routes: Sequence[Route]) -> Json:
    """Return the schemas of all answers, by the names of their models."""
    answers = [each for route in routes for each in route.answers]
    models: list[type[BaseModel]] = [Error]
    models += [each.model for each in answers if each.model is not None]
    _, definitions = models_json_schema(
        [(model, "serialization") for model in dict.fromkeys(models)],
        ref_template=REFERENCE,
        schema_generator=Schemas,
    )
    schemas: Json = definitions["$defs"]
    return schemas


def _operation(route: Route, routes: Sequence[Route], schemas: Json, needs_token: bool) -> Json:
    summary, _, rest = (inspect.getdoc(route.handler) or "").partition("\n\n")
    operation: Json = {
        "operationId": operation_id(route),
        "summary": " ".join(summary.split()).removesuffix("."),
        "tags": [route.tag],
        "parameters": [
            *(PATH_PARAMETERS[name] for name in re.findall(r"{(\w+)}", route.path)),
            *(_parameter(each, "query") for each in route.parameters),
            *(_parameter(each, "header") for each in route.headers),
        ],
        "responses": dict(_responses(route, routes)),
        "security": [{name: []} for name in TOKEN_SCHEMES],
    }
    if rest:
        operation["description"] = " ".join(rest.split())
    if route.form_fields:
        form = _form(route, schemas)
        content = {FORM: {"schema": form}}
        if route.takes_json:
            content[MEDIA_TYPE] = {"schema": _json_body(form)}
        operation["requestBody"] = {"required": True, "content": content}
    if route.json_model is not None:
        body = route.json_model.model_json_schema(schema_generator=Schemas)
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.path in PUBLIC_PATHS:
        operation["security"] = []
    elif not needs_token:
        operation["security"].insert(0, {})
    return operation


def operation_id(route: Route) -> str:
    """Return the name of a route, like `get_status_id`."""
    words = "".join(char if char.isalnum() else " " for char in route.path).split()
    return "_".join([route.method.lower(), *words])


PATH_PARAMETERS = {
    "id": {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The id of a job.",
        "schema": {"type": "string", "pattern": f"^{ids.ID.pattern}$"},
        "example": ids.EXAMPLE,
    },
    "digest": {
        "name": "digest",
        "in": "path",
        "required": True,
        "description": "Of all files of the page, as its `index.html` has it.",
        "schema": {"type": "string"},
    },
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The name of the file.",
        "schema": {"type": "string"},
    },
}


def _parameter(parameter: Parameter, where: str) -> Json:
    return {
        "name": parameter.name,
        "in": where,
        "description": parameter.meaning,
        "schema": dict(parameter.schema),
    }


# --- forms ----------------------------------------------------------------------------------------


@cache
def edit_fields() -> Json:
    """Return the schemas of the fields of an edit that are no pictures, by name."""
    schema = EditRequest.model_json_schema(schema_generator=Schemas)
    without_null(schema)
    fields: Json = schema["properties"]
    return fields


def _form(route: Route, schemas: Json) -> Json:
    """Return the schema of a form. Its fields that no model has are files."""
    fields: dict[str, Json] = {}
    required = [IMAGE]
    for model in route.form_models:
        schema = model.model_json_schema(ref_template=REFERENCE, schema_generator=Schemas)
        schemas.update(schema.pop("$defs", {}))
        without_null(schema)  # in a form nothing is null
        fields.update(schema["properties"])
        required += schema.get("required", [])
    for name, default in route.form_defaults.items():
        fields[name]["default"] = default
    return {
        "type": "object",
        "properties": {name: fields.get(name, _files(name)) for name in route.form_fields},
        "required": required,
        "additionalProperties": False,
    }


def _files(name: str) -> Json:
    file = {"type": "string", "format": "binary"}
    if name != IMAGE:
        return {**file, "description": "A picture."}
    return {
        "type": "array",
        "items": file,
        "minItems": 1,
        "maxItems": MAX_IMAGES,
        "description": "The pictures, as many as the model takes. The field is repeated, and may "
        "be called `image[]`.",
    }


def _json_body(form: Json) -> Json:
    """Return the schema of a body in JSON: that of the form, with URLs for its files."""
    url = {"type": "string", "format": "uri", "pattern": "^data:[^,]*;base64,"}
    named = {"type": "object", "properties": {"image_url": url}, "additionalProperties": False}
    picture = {"anyOf": [url, {**named, "required": ["image_url"]}], "description": "A picture."}
    several = {"type": "array", "items": picture, "minItems": 1, "maxItems": MAX_IMAGES}
    pictures = {"anyOf": [*picture["anyOf"], several], "description": "The pictures."}
    files = {IMAGE: pictures, IMAGES: pictures, MASK: picture}
    required = [name for name in form["required"] if name != IMAGE]
    return {
        **form,
        "properties": {**form["properties"], **files},
        "required": required,
        "anyOf": [{"required": [IMAGE]}, {"required": [IMAGES]}],
    }


# --- answers --------------------------------------------------------------------------------------


def _responses(route: Route, routes: Sequence[Route]) -> Iterator[tuple[str, Json]]:
    """Yield what a route answers with each status."""
    raised = list(dict.fromkeys(errors_of(route)))
    statuses = {each.status for each in route.answers} | {each.http_status for each in raised}
    for status in sorted(statuses):
        answers = [each for each in route.answers if each.status == status]
        kinds = [each for each in raised if each.http_status == status]
        headers = {name: text for each in answers for name, text in each.headers.items()}
        response: Json = {
            "description": "\n".join([*(each.meaning for each in answers), *map(_code, kinds)]),
            "headers": {
                "X-Request-ID": {"$ref": "#/components/headers/RequestId"},
                **{name: _header(text, not kinds) for name, text in headers.items()},
                **{name: _header(text, False) for name, text in _error_headers(kinds)},
            },
        }
        if content := _content(answers, kinds):
            response["content"] = content
        if any(each.model is Submitted for each in answers):
            response["links"] = dict(_links(routes))
        yield str(status), response


def errors_of(route: Route) -> Iterator[type[I2iiError]]:
    """Yield the errors that a route answers with."""
    yield from ERRORS_OF_EVERY_ROUTE
    if route.path != LIVENESS_PATH:
        yield errors.MisdirectedRequest
    if route.path not in PUBLIC_PATHS:
        yield errors.Unauthorized
        yield errors.TooManyRequests
    if route.method not in SAFE_METHODS:
        yield errors.Forbidden
    yield from route.errors


def _code(kind: type[I2iiError]) -> str:
    return f"- `{kind.code}`: {' '.join(inspect.cleandoc(kind.__doc__ or '').split())}"


def _error_headers(kinds: Sequence[type[I2iiError]]) -> Iterator[tuple[str, str]]:
    for kind in kinds:
        for base, headers in ERROR_HEADERS.items():
            if issubclass(kind, base):
                yield from headers.items()


def _header(meaning: str, is_required: bool) -> Json:
    return {"description": meaning, "required": is_required, "schema": {"type": "string"}}


def _content(answers: Sequence[Answer], kinds: Sequence[type[I2iiError]]) -> Json:
    """Return what bodies an answer may have, by media type."""
    schemas = [_reference(each.model) for each in answers if each.model is not None]
    if kinds:
        schemas.append(_error(kinds))
    content: Json = {name: {} for each in answers for name in each.media_types}
    if schemas:
        content["application/json"] = {
            "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        }
    return content


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _error(kinds: Sequence[type[I2iiError]]) -> Json:
    """Return the schema of these errors: the one shape, with their codes."""
    if any(issubclass(kind, WITH_CODES_OF_JOBS) for kind in kinds):
        return _reference(Error)
    codes = {"properties": {"code": {"enum": [kind.code for kind in kinds]}}}
    return {**_reference(Error), "properties": {"error": codes}}


def _links(routes: Sequence[Route]) -> Iterator[tuple[str, Json]]:
    """Yield where to go on with a job that was submitted."""
    for route in routes:
        if "{id}" in route.path:
            name = operation_id(route)
            parameters = {"id": "$response.body#/request_id"}
            yield name, {"operationId": name, "parameters": parameters}
