"""The interface's own description: whoever reads `/docs` sees what goes in and what comes out."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from ingest.settings import Settings
from serve import schemas, search_schemas
from serve.asgi import create_app
from serve.service import Service

DOCUMENT: dict[str, Any] = create_app(cast(Service, SimpleNamespace(settings=Settings()))).openapi()
SENT: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
VIEWS = [
    view
    for module in (schemas, search_schemas)
    for view in vars(module).values()
    if isinstance(view, type) and issubclass(view, BaseModel) and view.model_config.get("json_schema_extra")
]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the one that it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name] if name else schema
    return found


def references(node: Any) -> Iterator[str]:
    """Every `$ref` in a part of the document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


def test_the_document_is_what_it_says_that_it_is() -> None:
    """Valid OpenAPI 3.1, so that client generators can read it."""
    assert SENT["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(SENT).iter_errors()] == []


def test_every_reference_leads_to_something_in_the_document() -> None:
    """Also those in parts that are written by hand."""
    names = {reference.rpartition("/")[2] for reference in references(SENT)}
    assert {"JobView", "Priority"} <= names
    assert set(references(SENT)) == {f"#/components/schemas/{name}" for name in names}
    assert names <= SENT["components"]["schemas"].keys()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_in_json_has_an_example(operation: dict[str, Any]) -> None:
    """The good ones and the problems; health's is a word."""
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            if "json" in media_type and "additionalProperties" not in content["schema"]:
                assert resolved(content["schema"]).get("examples"), status


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_body_in_json_has_an_example_for_each_field_that_must_be_given(operation: dict[str, Any]) -> None:
    """What has to be filled in is shown filled in."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        assert operation["operationId"]
        return
    schema = resolved(content["schema"])
    assert all(schema["properties"][name].get("examples") for name in schema["required"])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_every_example_is_what_the_service_could_have_said(view: type[BaseModel]) -> None:
    """It has every field, no other, and values that are possible."""
    [example] = view.model_json_schema()["examples"]
    assert view.model_validate(example).model_dump(mode="json") == example
