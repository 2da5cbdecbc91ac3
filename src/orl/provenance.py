"""Provenance of results: a fingerprint of all inputs beside a result decides whether it is up to date or stale."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orl.files import read_json, remove_stale_temporaries, write_atomically

VERSION = 2
"""Format of manifests; orl 0.1 wrote version 1. Tables have their own."""
MANIFEST = "manifest.json"
RESTORE = "restore it, or delete its folder and run again"


class StaleResultError(ValueError):
    """A result on disk that was made from inputs other than the current ones."""


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Return a fingerprint of inputs: 16 hexadecimal digits, equal for equal JSON values."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def claim(folder: Path, inputs: Mapping[str, Any], overwrite: bool = False, version: int = VERSION) -> bool:
    """Claim a folder for the result of these inputs, or resume a result of the same inputs.

    Args:
        folder: folder of the result and of its manifest.
        inputs: all values that determine the result; JSON values only.
        overwrite: delete a result of other inputs.
        version: format of the result.

    Returns:
        True if the result is new, False if it is resumed.

    Raises:
        StaleResultError: if the folder holds a result of other inputs or of another version.
        ValueError: if the folder holds files without a manifest, which orl did not write.
    """
    path = folder / MANIFEST
    manifest = {"version": version, "fingerprint": fingerprint(inputs)}
    remove_stale_temporaries(folder)
    if path.exists():
        found = read_manifest(path)
        if {key: found.get(key) for key in manifest} == manifest:
            return False
        if not overwrite:
            raise StaleResultError(_difference(folder, found, inputs, version))
        # The old manifest stays until all other files are gone: a process killed here leaves a stale folder of ours.
        for part in folder.iterdir():
            if part != path:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
    elif folder.exists() and any(part for part in folder.iterdir() if not part.name.endswith(".tmp")):
        raise ValueError(f"{folder} holds files without a {MANIFEST}, which orl did not write; move them away")
    write_atomically(path, json.dumps({**manifest, "inputs": inputs}, indent=1))
    return True


def read_inputs(folder: Path) -> dict[str, Any] | None:
    """Return the inputs of the result in a folder, finished or not; None if there is none.

    Raises:
        ValueError: if its manifest cannot be read.
    """
    path = folder / MANIFEST
    return read_manifest(path)["inputs"] if path.exists() else None


def read_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of the inputs of the result in a folder, finished or not; None if there is none.

    Raises:
        ValueError: if its manifest cannot be read.
    """
    path = folder / MANIFEST
    return read_manifest(path)["fingerprint"] if path.exists() else None


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest: its version, the fingerprint and, since version 2, the inputs that it is made of.

    Raises:
        ValueError: if it is not a manifest.
    """
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a manifest: {error}") from error
    inputs = manifest.setdefault("inputs", {})
    for name, kind in (("version", int), ("fingerprint", str), ("inputs", dict)):
        if type(manifest.get(name)) is not kind:
            raise ValueError(f"{path} is not a manifest: its {name} is {manifest.get(name)!r}; {RESTORE}")
    if manifest["version"] >= VERSION and manifest["fingerprint"] != fingerprint(inputs):
        raise ValueError(f"{path} was altered: its inputs do not have its fingerprint; {RESTORE}")
    return manifest


def version_error(path: Path, found: int, expected: int = VERSION) -> str:
    """Return the message for a result of another format."""
    writer = "orl 0.1" if found == 1 else "another version of orl"
    return (
        f"{path} was written by {writer} (format {found}, this version reads {expected}); rebuild it with "
        "--overwrite, or use another folder"
    )


def _difference(folder: Path, manifest: Mapping[str, Any], inputs: Mapping[str, Any], version: int) -> str:
    if manifest["version"] != version:
        return version_error(folder, manifest["version"], version)
    found = manifest["inputs"]
    changed = [
        f"{key}: was {found.get(key)!r}, now {inputs.get(key)!r}"
        for key in sorted({*found, *inputs})
        if found.get(key) != inputs.get(key)
    ]
    return (
        f"stale: {folder} was made from other inputs ({'; '.join(changed)}). Rebuild it with --overwrite, or use "
        "another folder"
    )
