"""The JSON documents of the command line, held against their schema."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "json-schema.json").read_text(encoding="utf-8"))
#: what commands have beside the files
BESIDE = {"verify": {"comparison", "device"}, "schemes": {"schemes"}, "layouts": {"layouts"}}
#: what they say of each file
OF_FILES = {
    "apply": "converted_file",
    "fold": "converted_file",
    "migrate": "converted_file",
    "export": "exported_file",
    "graph": "drawn_graph",
    "inspect": "inspected_file",
    "verify": "compared_file",
}
#: definitions that are put together with others, so that each alone does not know all fields
PARTIAL = {"file", *OF_FILES.values()}


def closed(schema: Any) -> Any:
    """Return a schema in which objects have no fields that it does not name; the published one lets fields be added."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    new = {key: value if key == "$defs" else closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "required" in schema and "properties" in schema:
        new.setdefault("additionalProperties", False)
    return new


def _strict() -> Any:
    schema = copy.deepcopy(SCHEMA)
    schema["properties"] = closed(schema["properties"])
    for name, each in schema["$defs"].items():
        schema["$defs"][name] = {key: closed(value) for key, value in each.items()} if name in PARTIAL else closed(each)
    return schema


VALIDATOR = jsonschema.Draft202012Validator(_strict())


def check(data: dict[str, Any]) -> None:
    """Check a document; no field may be missing from the schema.

    Raises:
        jsonschema.ValidationError: it does not fit.
        AssertionError: it has a field that the schema does not name.
    """
    VALIDATOR.validate(data)
    command = data["command"]
    assert data.keys() <= {*SCHEMA["properties"], *BESIDE.get(command, ())}
    for entry in data["files"]:
        own = SCHEMA["$defs"][OF_FILES[command]]["properties"]
        assert entry.keys() <= {*SCHEMA["$defs"]["file"]["properties"], *own}


def parse(text: str) -> dict[str, Any]:
    """Return the one document that a text is, checked; numbers that JSON has not are refused."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    data: dict[str, Any] = json.loads(text, parse_constant=refuse)
    check(data)
    return data
