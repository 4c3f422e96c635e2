"""Files of one JSON object a line, which a kill may leave with part of a last line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from libero_reward_envs.atomic_files import write_atomically


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file, none if it is not there; part of a last line is taken away.

    Raises:
        ValueError: If a line is no JSON object.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomically(path, [whole])
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Cannot read line {number} of {str(path)!r}: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Cannot read line {number} of {str(path)!r}: no JSON object.")
        rows.append(row)
    return rows


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add an object to a file, made if it is not there; once this returns it is safe."""
    with open(path, "ab") as file:
        file.write(json.dumps(dict(row)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
