"""Provenance of results: a fingerprint of all inputs, kept beside a result, says whether it is up to date or stale."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orl.files import remove_stale_temporaries, write_atomically

VERSION = 1
MANIFEST = "manifest.json"


class StaleResultError(ValueError):
    """A result on disk was made from something else than what is asked for now."""


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """A short name of a set of inputs: the same inputs, the same name."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def claim(folder: Path, inputs: Mapping[str, Any], overwrite: bool = False) -> bool:
    """Take a folder for a result made from these inputs, or go on with one that was taken for them before.

    Args:
        folder: where the result lies; its manifest says what it is made from.
        made_from: everything that decides the result; JSON values only.
        overwrite: delete a result made from something else.

    Returns:
        Whether the result is begun, and not gone on with.

    Raises:
        StaleResultError: if the folder holds a result made from something else.
        ValueError: if the folder holds files and no manifest, and so is none of ours.
    """
    path = folder / MANIFEST
    manifest = {"version": VERSION, "fingerprint": fingerprint(inputs)}
    remove_stale_temporaries(folder)
    if path.exists():
        found = read_manifest(path)
        if {key: found.get(key) for key in manifest} == manifest:
            return False
        if not overwrite:
            raise StaleResultError(_difference(folder, found.get("inputs", {}), inputs))
        # The old manifest stays until all else is gone: a process killed here leaves a folder that is known as ours,
        # and stale.
        for part in folder.iterdir():
            if part != path:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
    elif folder.exists() and any(part for part in folder.iterdir() if not part.name.endswith(".tmp")):
        raise ValueError(f"{folder} holds files without a {MANIFEST}, which are not ours to delete; move them away")
    write_atomically(path, json.dumps({**manifest, "inputs": inputs}, indent=1))
    return True


def read_inputs(folder: Path) -> dict[str, Any] | None:
    """What the result in a folder is made from, finished or not; None where there is none.

    Raises:
        ValueError: if its manifest cannot be read.
    """
    path = folder / MANIFEST
    return read_manifest(path).get("inputs", {}) if path.exists() else None


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a table's manifest ({error}); rebuild it with --overwrite") from error


def _difference(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    changed = [
        f"{key}: was {found.get(key)!r}, now {asked.get(key)!r}"
        for key in sorted({*found, *asked})
        if found.get(key) != asked.get(key)
    ]
    what = "; ".join(changed) or "written by another version of orl"
    return f"stale: {folder} was made from something else ({what}). Rebuild it with --overwrite, or take another folder"
