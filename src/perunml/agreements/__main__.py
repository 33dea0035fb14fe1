"""``python -m perunml.agreements`` prints the JSON Schema that docs/spec/agreement.schema.json publishes."""

import json
import sys

from perunml.agreements.document import json_schema

if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
