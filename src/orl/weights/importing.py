"""A file of another program, brought in: opened, recognised, converted and written as ours."""

import hashlib
from pathlib import Path

from orl.networks.backbones import save_backbone
from orl.networks.mlp import save_projector
from orl.weights.convert import ImportedWeights, convert
from orl.weights.opening import open_weights
from orl.weights.recognise import recognise


def import_weights(path: Path, expected: str | None = None) -> ImportedWeights:
    """Read a ResNet's weights as another program wrote them.

    Args:
        path: the file, or a backbone or checkpoint of ours.
        expected: the backbone's name, such as 'resnet50', where it must be this one.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it cannot be opened without running code from it, if no layout fits, or if its network is no
            backbone of ours; one sentence says which, and what was seen.
    """
    opened = open_weights(path)
    try:
        return convert(recognise(opened), expected)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_imported(imported: ImportedWeights, folder: Path, source: Path, overwrite: bool = False) -> list[Path]:
    """Write `backbone.safetensors`, and `projector.safetensors` and `predictor.safetensors` where there is one.

    The backbone's file notes the layout, and the source's name and digest.

    Args:
        imported: what the source gave.
        folder: made where it is missing.
        source: the file that it came from.
        overwrite: replace files that are there.

    Returns:
        The files written.

    Raises:
        ValueError: if one of the files is there and may not be replaced; none is written then.
    """
    heads = {"projector": imported.projector, "predictor": imported.predictor}
    paths = {name: folder / f"{name}.safetensors" for name in ("backbone", *heads)}
    present = [path for path in paths.values() if path.exists()]
    if present and not overwrite:
        raise ValueError(f"{present[0]} is there already; take another folder, or replace it with --overwrite")
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
            # Else a head of what lay here before would be taken for this backbone's.
            paths[name].unlink(missing_ok=True)
    return written
