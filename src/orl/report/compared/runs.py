"""The runs of a comparison: what each is called and what it has left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orl.config import RunConfig, load_config
from orl.datasets.image_table import ImageTable, load_image_table
from orl.networks.backbones import Backbone, read_backbone_file
from orl.report.results import BACKBONES, read_json
from orl.rundir import RunDir

LAST_FIRST = ("stage3", "stage1")


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the runs; what it has not left is missing."""

    label: str
    """What it is called: the name of its folder, or as much of its path as tells it from the others."""
    run: RunDir
    record: Mapping[str, Any]
    config: RunConfig | None
    images: ImageTable | None

    @property
    def last_stage(self) -> str | None:
        """The last stage that has left a backbone."""
        return next((stage for stage in LAST_FIRST if self.run.backbone(stage).exists()), None)

    def last_backbone(self) -> Backbone | None:
        """The backbone that it ends with.

        Raises:
            ValueError: if its file is torn.
        """
        return None if self.last_stage is None else read_backbone_file(self.run.backbone(self.last_stage))

    @property
    def last_label(self) -> str:
        """The run and its last stage, as a row or line is named."""
        return f"{self.label}, {BACKBONES[self.last_stage].split(',')[0].lower()}" if self.last_stage else self.label


def read_runs(roots: Sequence[Path]) -> list[ComparedRun]:
    """Open the runs of a comparison.

    Args:
        roots: their folders, two or more.

    Raises:
        FileNotFoundError: if a folder is not there.
        ValueError: if a run is given twice or alone, or one of its files is torn.
    """
    if len(roots) < 2:
        raise ValueError(f"a comparison needs two runs or more, not {len(roots)}")
    whole = [root.resolve() for root in roots]
    for index, root in enumerate(whole):
        if not root.is_dir():
            raise FileNotFoundError(f"no run at {roots[index]}")
        if root in whole[:index]:
            raise ValueError(f"{roots[index]} is given twice; a run is compared with others")
    return [_read_run(root, label) for root, label in zip(roots, _labels(whole))]


def _read_run(root: Path, label: str) -> ComparedRun:
    run = RunDir(root)
    return ComparedRun(
        label=label,
        run=run,
        record=read_json(run.record) or {},
        config=load_config(run.config) if run.config.exists() else None,
        images=load_image_table(run.images) if run.images.exists() else None,
    )


def _labels(roots: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all runs apart."""
    for num_parts in range(1, max(len(root.parts) for root in roots) + 1):
        labels = ["/".join(root.parts[-num_parts:]) for root in roots]
        if len(set(labels)) == len(labels):
            return labels
    return [str(root) for root in roots]


def shared_images(runs: Sequence[ComparedRun]) -> list[tuple[int, ...]]:
    """The images that all of the runs have, by their content, as the id of each in every run.

    Runs without images are left out; none are shared where fewer than two have images.
    """
    tables = [each.images for each in runs if each.images is not None]
    if len(tables) < 2:
        return []
    ids = [{digest: image_id for image_id, digest in enumerate(table.digests)} for table in tables]
    return [tuple(each[digest] for each in ids) for digest in tables[0].digests if all(digest in each for each in ids)]
