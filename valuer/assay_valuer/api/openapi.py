"""The API's own description, OpenAPI 3.1: made of the operations and their types, so that it is true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Final

import msgspec

from assay_valuer.api.operations import Operation
from assay_valuer.api.problems import MEDIA_TYPE, Code, ProblemBody

PATH: Final = "/v1/openapi.json"
_REF: Final = "#/components/schemas/{name}"
_ABOUT: Final = (
    "A lender's valuer: loans, what secures them, what that is worth and by which prices. Amounts are "
    "micro-dollars, ratios basis points, times UTC milliseconds, unless a loan's own file says "
    "otherwise. Numbers in a loan's file may be wider than 64 bits."
)

Json = dict[str, object]
_Refs = Mapping[type, Json]


def document(operations: Iterable[Operation]) -> bytes:
    """The document, canonical JSON."""
    listed = tuple(operations)
    types: list[type] = [ProblemBody]
    for one in listed:
        types += [type_ for type_ in (*one.returns.values(), one.body) if type_ is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    refs = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for one in listed:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, refs)
    paths[PATH] = {"get": _itself()}
    content = {
        "openapi": "3.1.0",
        "info": {"title": "Assay, the lender's API", "version": version("gpu-assay"),
                 "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _operation(one: Operation, refs: _Refs) -> Json:
    made: Json = {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": _parameters(one),
        "responses": _responses(one, refs),
        "security": [] if one.scope is None else [{"token": []}],
    }
    if one.scope is not None:
        made["x-assay-scope"] = one.scope.value
    if one.body is not None:
        content = {"application/json": {"schema": refs[one.body]}}
        made["requestBody"] = {"required": True, "content": content}
    return made


def _parameters(one: Operation) -> list[Json]:
    text = {"type": "string"}
    made: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"\{(\w+)\}", one.path)
    ]
    for where, given in (("query", one.query), ("header", one.headers)):
        made += [
            {"name": name, "in": where, "description": words, "schema": text}
            for name, words in given.items()
        ]
    return made


def _responses(one: Operation, refs: _Refs) -> Json:
    made: Json = {}
    for status, type_ in one.returns.items():
        schema = {} if type_ is None else refs[type_]
        made[str(status)] = {
            "description": "done",
            "content": {"application/json": {"schema": schema}},
        }
    for code in one.all_problems:
        made[str(code.status)] = _problem(code, refs)
    return made


def _problem(code: Code, refs: _Refs) -> Json:
    return {
        "description": f"{code.label}: {code.title}; {code.fault}",
        "content": {MEDIA_TYPE: {"schema": refs[ProblemBody]}},
    }


def _itself() -> Json:
    return {
        "operationId": "getDescription",
        "summary": "This description.",
        "parameters": [],
        "responses": {"200": {"description": "done", "content": {"application/json": {}}}},
        "security": [],
    }
