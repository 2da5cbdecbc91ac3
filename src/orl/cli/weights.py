"""The commands `orl import` and `orl export`: weights from and for other projects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orl.cli.options import finish


def command_import(arguments: Sequence[str]) -> None:
    """Convert weights of another project to orl's format: `orl import FILE`."""

    def import_(
        file: Annotated[Path, tyro.conf.Positional],
        out: Path | None = None,
        expect: str | None = None,
        network: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Convert a checkpoint of another project to backbone.safetensors; a projector and predictor are converted too.

        The layout is recognised by the names of the weights: the published ORL, OpenSelfSup, MoCo, BYOL, SimCLR, SwAV,
        DenseCL, lightly, solo-learn, Lightning, VISSL, Detectron2, torchvision and timm. No code of the file is run.

        Args:
            file: The checkpoint, as .pth, .pt, .ckpt, .tar, .pkl or .safetensors.
            out: Folder for the files; CHECKPOINT_orl beside the checkpoint if not given.
            expect: Name of the backbone, such as resnet50; any other is refused.
            network: Which of several networks in the file, such as teacher or target_net; the trained one if not given.
            overwrite: Replace existing files.
        """
        from orl.weights.importing import import_weights, write_imported

        imported = import_weights(file, expect, network)
        folder = out or file.with_name(f"{file.name.partition('.')[0]}_orl")
        print(f"layout: {imported.layout}, {imported.backbone.name}")
        for note in filter(None, (imported.choice, *imported.notes)):
            print(f"note: {note}")
        for path in write_imported(imported, folder, file, overwrite):
            finish(path.stem, path)

    tyro.cli(import_, args=list(arguments), prog="orl import")


def command_export(arguments: Sequence[str]) -> None:
    """Write a backbone in the format of another project: `orl export RUN --to torchvision`."""

    def export_(
        source: Annotated[Path, tyro.conf.Positional],
        to: Literal["torchvision", "timm", "detectron2", "mmdet", "onnx", "safetensors", "hub-folder"],
        out: Path | None = None,
        stage: Literal["stage1", "stage3"] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a backbone in the format of another project: weights, a model card, and a config where one is needed.

        Args:
            source: Folder of a run, or a backbone.safetensors.
            to: Format.
            out: Folder for the files; export/FORMAT in the run, or beside the file, if not given.
            stage: Stage of the run; the last finished one if not given.
            overwrite: Replace existing files.
        """
        from orl.export.export import export

        folder = out or (source if source.is_dir() else source.parent) / "export" / to
        for path in export(source, to, folder, stage=stage, overwrite=overwrite):
            finish("file", path)

    tyro.cli(export_, args=list(arguments), prog="orl export")
