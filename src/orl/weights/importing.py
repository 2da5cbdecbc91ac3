"""Import of a file of another program: open it, recognise its layout, convert it and write it in orl's format."""

import hashlib
from pathlib import Path

from orl.networks.backbones import save_backbone
from orl.networks.mlp import save_projector
from orl.weights.convert import ImportedWeights, convert
from orl.weights.opening import open_weights
from orl.weights.recognise import recognise


def import_weights(path: Path, expected: str | None = None, network: str | None = None) -> ImportedWeights:
    """Read the weights of a ResNet from a file of another program.

    Args:
        path: the file; also a backbone or checkpoint of orl.
        expected: required name of the backbone, such as 'resnet50'; any if not given.
        network: name of one of several networks in the file, such as 'teacher'; the trained one if not given.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file cannot be opened without running code from it, no layout fits, it has no network
            of that name, or its network is not a backbone of orl.
    """
    opened = open_weights(path)
    try:
        return convert(recognise(opened, network), expected)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_imported(imported: ImportedWeights, folder: Path, source: Path, overwrite: bool = False) -> list[Path]:
    """Write `backbone.safetensors`, and `projector.safetensors` and `predictor.safetensors` where the file has them.

    The backbone's file notes the layout, and the source's name and digest.

    Args:
        imported: the networks of the source.
        folder: created if missing.
        source: the imported file.
        overwrite: replace existing files.

    Returns:
        The written files.

    Raises:
        ValueError: if one of the files exists and `overwrite` is false; no file is written then.
    """
    heads = {"projector": imported.projector, "predictor": imported.predictor}
    paths = {name: folder / f"{name}.safetensors" for name in ("backbone", *heads)}
    present = [path for path in paths.values() if path.exists()]
    if present and not overwrite:
        raise ValueError(f"{present[0]} exists already; give another folder, or replace it with --overwrite")
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    notes = {"layout": imported.layout, "source": source.name, "source_sha256": digest}
    save_backbone(imported.backbone, paths["backbone"], notes)
    written = [paths["backbone"]]
    for name, head in heads.items():
        if head is not None:
            save_projector(head, paths[name])
            written.append(paths[name])
        else:
            # Otherwise a head of an earlier import would be used with this backbone.
            paths[name].unlink(missing_ok=True)
    return written
