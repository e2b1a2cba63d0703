"""`actions.json`: the action schema that lies in a data set's folder, whatever format the rest has."""

from pathlib import Path

from wfm_ar.data.json_files import read_json
from wfm_ar.data.listing import inside
from wfm_ar.errors import BadData
from wfm_ar.schema import Schema, schema_from_json

SCHEMA = "actions.json"


def read_schema(root: Path, *, needed: bool) -> Schema | None:
    """The action schema of a data set; None where there is none and none is needed. Raises BadData."""
    path = Path(root, SCHEMA)
    if not path.exists():
        if needed:
            raise BadData(f"{path}: does not exist, expected the schema of the actions; fix: write it, docs/robot.md shows one")
        return None
    try:
        data = read_json(inside(root, SCHEMA, str(path)))
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: is not JSON ({error}), expected an action schema; fix: repair or remake it") from None
    try:
        return schema_from_json(data)
    except BadData as error:
        raise BadData(f"{path}: {error}") from None
