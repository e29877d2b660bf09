"""Prints the JSON schema of manifest.json, which `docs/manifest.schema.json` holds."""

import json

from shopcast_domain.manifest import Manifest


def manifest_schema() -> str:
    """JSON Schema, draft 2020-12."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema | Manifest.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(manifest_schema(), end="")
