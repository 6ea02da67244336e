"""Check a document against a schema of Google's discovery documents, which the API client carries with it."""

import functools
import json
import re
from pathlib import Path
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


@functools.cache
def schemas(api: str) -> dict[str, Any]:
    """Return the schemas of an API, such as `run.v1`."""
    import googleapiclient

    documents = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    document: dict[str, Any] = json.loads((documents / f"{api}.json").read_text())
    return dict(document["schemas"])


def faults(api: str, name: str, value: Any) -> list[str]:
    """Return a line for each place of `value` that the schema of that name does not allow."""
    return list(_faults(schemas(api), schemas(api)[name], value, name))


def _faults(known: dict[str, Any], schema: dict[str, Any], value: Any, place: str) -> list[str]:
    if "$ref" in schema:
        return _faults(known, known[schema["$ref"]], value, place)
    if schema["type"] == "any":
        return []
    # int64 is text in JSON, and gcloud takes a number too.
    kinds = (str, int) if schema.get("format") == "int64" else TYPES[schema["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return [f"{place}: {value!r} is not of type {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{place}: {value!r} is none of {', '.join(schema['enum'])}"]
    is_duration = schema.get("format") == "google-duration"
    if is_duration and isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?s", value):
        return [f"{place}: {value!r} is no duration, such as 60s"]
    if isinstance(value, list):
        pairs = [(schema["items"], each, f"{place}[{number}]") for number, each in enumerate(value)]
    elif isinstance(value, dict):
        fields, further = schema.get("properties", {}), schema.get("additionalProperties")
        if unknown := [name for name in value if name not in fields and further is None]:
            return [f"{place}.{name}: there is no such field" for name in unknown]
        pairs = [(fields.get(name, further), each, f"{place}.{name}") for name, each in value.items()]
    else:
        return []
    return [fault for inner, each, where in pairs for fault in _faults(known, inner, each, where)]
