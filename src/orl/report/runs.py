"""The runs of a report: their names, files and images, and the images that all of them have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orl.config import RunConfig, load_config
from orl.datasets.image_table import load_image_table
from orl.report.content import Note
from orl.report.options import Annotations, GalleryOptions
from orl.report.thumbnails import Thumbnails
from orl.rundir import TRAINED_STAGES, RunDir, read_record

NOT_SHARED = Note("The runs share no images, so none can be shown side by side.")


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """One run of a report; missing parts are None or empty."""

    label: str
    """Name of its folder, or as much of its path as distinguishes it from the others."""
    prefix: str
    """Prefix of the names of its parts: the label in a report about several runs, otherwise empty."""
    run: RunDir
    record: Mapping[str, Any]
    config: RunConfig | None
    """None if the file is missing or damaged."""
    thumbnails: Thumbnails | None
    """None before the images are scanned."""
    annotations: Annotations

    def named(self, part: str) -> str:
        """Return the name of a part of this run on the page."""
        return f"{self.prefix}{part}"

    def titled(self, part: str) -> str:
        """Return `named` as the beginning of a sentence or title."""
        return self.named(part) if self.prefix else part[0].upper() + part[1:]

    def note(self, sentence: str, error: Exception | None = None) -> Note:
        """Return a note about a missing part with the command that makes it, or about a damaged one with the error.

        Args:
            sentence: the part that is missing, without a full stop.
            error: the reason; a FileNotFoundError means that the part does not exist yet.
        """
        if error is not None and not isinstance(error, FileNotFoundError):
            return Note(f"{self.named(sentence)}: {error}")
        command = self.record.get("command")
        way_out = "To resume, run the same command again:" if command else "To make it:"
        return Note(f"{self.named(sentence)}. {way_out}", command or f"orl run --images DIR --out {self.run.root}")

    def required_thumbnails(self) -> Thumbnails:
        """Return the thumbnails.

        Raises:
            FileNotFoundError: if the images have not been scanned.
        """
        if self.thumbnails is None:
            raise FileNotFoundError(f"no images in {self.run.root}")
        return self.thumbnails

    @property
    def trained_stages(self) -> dict[str, str]:
        """The stages that the run trains, with their names: stage 1 may be left out."""
        skips_stage1 = self.config is not None and not self.config.needs_stage1
        return {stage: name for stage, name in TRAINED_STAGES.items() if not (skips_stage1 and stage == "stage1")}

    @property
    def last_stage(self) -> str | None:
        """The last stage that has written a backbone."""
        return next((stage for stage in reversed(TRAINED_STAGES) if self.run.backbone(stage).exists()), None)


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """The runs of a report and its options."""

    runs: Sequence[ReportedRun]
    options: GalleryOptions

    @property
    def is_comparison(self) -> bool:
        """True for a report about several runs."""
        return len(self.runs) > 1

    @property
    def runs_with_images(self) -> list[tuple[ReportedRun, Thumbnails]]:
        """The runs whose images are scanned, with their thumbnails."""
        return [(each, each.thumbnails) for each in self.runs if each.thumbnails is not None]

    def shared_images(self) -> list[tuple[int, ...]]:
        """Return the images that all runs have, by their content: the id of each in every run with images."""
        tables = [thumbnails.images for _, thumbnails in self.runs_with_images]
        if not tables or (self.is_comparison and len(tables) < 2):
            return []
        if len(tables) == 1:
            return [(image_id,) for image_id in range(len(tables[0]))]
        ids = [{digest: image_id for image_id, digest in enumerate(table.digests)} for table in tables]
        return [
            tuple(each[digest] for each in ids) for digest in tables[0].digests if all(digest in each for each in ids)
        ]

    def sample_images(self, num_images: int) -> list[tuple[int, ...]]:
        """Sample shared images; all sections use the same ones, since a smaller sample is the start of a larger one."""
        shared = self.shared_images()
        return [shared[index] for index in sample_indices(len(shared), num_images, self.options.seed)]

    def sample_images_of(self, run: ReportedRun, num_images: int) -> list[int]:
        """Return the ids of `sample_images` in one run; empty if its images are not scanned."""
        position = next((index for index, (each, _) in enumerate(self.runs_with_images) if each is run), None)
        return [] if position is None else [ids[position] for ids in self.sample_images(num_images)]


def sample_indices(num_images: int, num_sampled: int, seed: int) -> list[int]:
    """Sample images at random; a smaller sample is the beginning of a larger one."""
    return np.random.default_rng(seed).permutation(num_images)[:num_sampled].tolist()


def read_runs(roots: Sequence[Path], annotate: Callable[[RunConfig], Annotations] | None = None) -> list[ReportedRun]:
    """Open the runs of a report.

    Args:
        roots: their folders.
        annotate: function that returns labels and samplers of the images of a run.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if no run is given, one is given twice, or one of its files is damaged.
    """
    if not roots:
        raise ValueError("no run is given; give the folder of one, or of several to compare them")
    resolved = [root.resolve() for root in roots]
    for index, root in enumerate(resolved):
        if not root.is_dir():
            raise FileNotFoundError(
                f"no run at {roots[index]}; make one with 'orl run --images DIR --out {roots[index]}'"
            )
        if root in resolved[:index]:
            raise ValueError(f"{roots[index]} is given twice; a run is compared with others")
    runs: list[ReportedRun] = []
    thumbnails: dict[tuple[Path, str], Thumbnails] = {}
    for root, label in zip(roots, _labels(resolved)):
        run, config = RunDir(root), _config(RunDir(root))
        runs.append(
            ReportedRun(
                label=label,
                prefix=f"{label}: " if len(roots) > 1 else "",
                run=run,
                record=read_record(run),
                config=config,
                thumbnails=_thumbnails(run, thumbnails),
                annotations=Annotations() if config is None or annotate is None else annotate(config),
            )
        )
    return runs


def _thumbnails(run: RunDir, known: dict[tuple[Path, str], Thumbnails]) -> Thumbnails | None:
    """Return the thumbnails of a run; runs on the same images share them."""
    if not run.images.exists():
        return None
    images = load_image_table(run.images)
    return known.setdefault((images.root, images.fingerprint), Thumbnails(images, f"images-{len(known)}"))


def _config(run: RunDir) -> RunConfig | None:
    try:
        return replace(load_config(run.config), out=run.root)
    except (FileNotFoundError, ValueError):
        return None


def _labels(roots: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that distinguish all runs."""
    for num_parts in range(1, max(len(root.parts) for root in roots) + 1):
        labels = ["/".join(root.parts[-num_parts:]) for root in roots]
        if len(set(labels)) == len(labels):
            return labels
    return [str(root) for root in roots]
