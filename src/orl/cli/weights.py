"""Commands for weights: in from other projects, out to other projects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orl.cli.options import finish


def command_import(arguments: Sequence[str]) -> None:
    """Turn weights of another project into a backbone here: `orl import FILE`."""

    def import_(
        file: Annotated[Path, tyro.conf.Positional],
        out: Path | None = None,
        expect: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Recognise a checkpoint by its keys and write backbone.safetensors, and projector and predictor where there.

        Known are published ORL and OpenSelfSup, MoCo, BYOL, SimCLR and SwAV styles, DenseCL, lightly, solo-learn,
        Lightning, VISSL, Detectron2, torchvision, timm and safetensors. No code of the file is run.

        Args:
            file: the checkpoint: .pth, .pt, .ckpt, .tar, .pkl or .safetensors.
            out: folder for the files; one named after the checkpoint, beside it, if not given.
            expect: refuse all but this backbone, such as resnet50.
            overwrite: replace files that are there.
        """
        from orl.weights.importing import import_weights, write_imported

        imported = import_weights(file, expect)
        folder = out or file.with_name(f"{file.name.partition('.')[0]}_orl")
        print(f"layout: {imported.layout}, {imported.backbone.name}")
        for note in imported.notes:
            print(f"note: {note}")
        for path in write_imported(imported, folder, file, overwrite):
            finish(path.stem, path)

    tyro.cli(import_, args=list(arguments), prog="orl import")


def command_export(arguments: Sequence[str]) -> None:
    """Write a backbone for another project: `orl export RUN --to torchvision`."""

    def export_(
        source: Annotated[Path, tyro.conf.Positional],
        to: Literal["torchvision", "timm", "detectron2", "mmdet", "onnx", "safetensors", "hub-folder"],
        out: Path | None = None,
        stage: Literal["stage1", "stage3"] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the weights as another project names them, and what is needed beside them: a config, a model card.

        Args:
            source: folder of a run, or a backbone.safetensors.
            to: for whom.
            out: folder for the files; export/FORM in the run, or beside the file, if not given.
            stage: of a run; the last that is finished if not given.
            overwrite: replace files that are there.
        """
        from orl.export.export import export

        folder = out or (source if source.is_dir() else source.parent) / "export" / to
        for path in export(source, to, folder, stage=stage, overwrite=overwrite):
            finish("file", path)

    tyro.cli(export_, args=list(arguments), prog="orl export")
