"""Envoy's dynamic resources as files: Envoy reads one again once another takes its place."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers import atomic

TYPE = "type.googleapis.com/envoy."
ROUTES, NODES, LIMITS, CERTIFICATE = "routes.json", "nodes.json", "limits.json", "certificate.json"


class ResourceFile:
    """A file with one resource; it is written only if the resource has changed. Only its owner may read it."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._text = ""

    def write(self, resource: Mapping[str, Any]) -> None:
        """Have Envoy take this resource, unless it has it already."""
        body = {"@type": f"{TYPE}{self._kind}", **resource}
        version = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]
        text = json.dumps({"version_info": version, "resources": [body]}, indent=1)
        if text == self._text:
            return
        atomic.write_private(self._path, text.encode())
        self._text = text
