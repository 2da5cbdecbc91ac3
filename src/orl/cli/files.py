"""Verbs for published files of stage 2 and for data sets of images."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from orl.cli.options import TRAINING_OPTIONS, RunVerb, Shortcuts, check_verb, finish, read_options
from orl.config import ScanConfig, load_config
from orl.rundir import RunDir


def command_published_files(arguments: Sequence[str]) -> None:
    """Write the published JSON files of a stage 2, or read them: `orl published-files write|read`."""
    verbs = {"write": _write_published, "read": _read_published}
    verb, *options = arguments or [""]
    if verb in ("-h", "--help"):
        print(
            "usage: orl published-files write RUN --to DIR\n"
            "       orl published-files read --images IMAGES --out runs/NAME --correspondences FILE\n\n"
            f"{command_published_files.__doc__} Each has --help."
        )
    else:
        check_verb("published-files", verb, verbs)
        verbs[verb](options)


def _write_published(arguments: Sequence[str]) -> None:
    def write(run: Annotated[Path, tyro.conf.Positional], to: Path, overwrite: bool = False) -> None:
        """Write the published JSON files of a finished stage 2; their names begin with that of the run.

        Args:
            run: Folder of the run.
            to: Folder for the files.
            overwrite: Replace existing files.
        """
        from orl.datasets.image_table import load_image_table
        from orl.published_files.write import write_published

        folder, source = RunDir(run), load_config(RunDir(run).config).images
        name = run.resolve().name
        for path in write_published(folder.table(""), load_image_table(folder.images), source, to, name, overwrite):
            finish("file", path)

    tyro.cli(write, args=list(arguments), prog="orl published-files write")


def _read_published(arguments: Sequence[str]) -> None:
    from orl.published_files.read import PublishedFiles, RunTables, read_published

    verb = RunVerb(
        name="published-files read",
        about="Read published files of stage 2 as the tables of a run on the same images.",
        sections=("scan",),
        without=(*TRAINING_OPTIONS, "device", "seed"),
    )
    config, _, files = read_options(verb, arguments, Shortcuts, PublishedFiles)
    from orl.pipeline.preflight import preflight
    from orl.pipeline.record import record_stage
    from orl.pipeline.scan import scan

    files.check()  # before the scan, which may take long
    images = scan(preflight(config))
    run, started = RunDir(config.out), time.monotonic()
    target = RunTables(folder=run.table(""), shard_size=config.discover.shard_size, overwrite=config.overwrite)
    found = read_published(files, images, config.images, target)
    record_stage(run, "exchange", "done", time.monotonic() - started)
    for name in found:
        finish(name, run.table(name))


def command_data(arguments: Sequence[str]) -> None:
    """Prepare and check data sets of images: `orl data pack|check|crops|scenes`."""
    from orl.pipeline.pack_options import PackOptions

    def pack(options: tyro.conf.OmitArgPrefixes[PackOptions]) -> None:
        """Copy images, resized, into a few memory-mapped files with checksums, for reading without decoding.

        The folder of the pack is given to --images. The same command resumes packing that was stopped.

        Args:
            options: The pack to write.
        """
        from orl.pipeline.pack import pack_images

        finish("pack", pack_images(options))

    def check(
        path: Annotated[Path, tyro.conf.Positional],
        scan: tyro.conf.OmitArgPrefixes[ScanConfig],
        split: str | None = None,
        workers: int = 2,
    ) -> None:
        """Print the number of usable images, reasons for rejecting others, and sizes; verify the checksums of a pack.

        Args:
            path: Images: a folder, a list file, a COCO JSON, a VOC devkit or a pack.
            scan: Rules for the images that are used.
            split: Split of a VOC devkit, 'trainval' if not given.
            workers: Worker processes that read images.
        """
        from orl.pipeline.check_source import check_source, format_check

        found = check_source(path, split, scan, workers)
        print(format_check(found))
        if not len(found.images):
            raise ValueError(f"no image of {path} can be used; repair them or give another source")

    def crops(
        data: Path,
        to: Path,
        train_split: str = "trainval",
        val_split: str = "test",
        min_side_px: int = 24,
    ) -> None:
        """Cut the labelled objects of a VOC devkit, one image each, into class folders for `orl evaluate linear`.

        Args:
            data: A VOC devkit, or synthetic scenes, which have the same layout.
            to: Folder for train/CLASS and val/CLASS.
            train_split: Split whose objects go to train.
            val_split: Split whose objects go to val.
            min_side_px: Shortest side of an object, pixels; smaller objects are left out.
        """
        from orl.pipeline.object_crops import cut_objects

        cut_objects(data, to, train_split=train_split, val_split=val_split, min_side_px=min_side_px)
        finish("class folders", to)

    def scenes(
        to: Path, num_trainval: int = 400, num_test: int = 200, size_wh: tuple[int, int] = (192, 144), seed: int = 0
    ) -> None:
        """Draw labelled synthetic scenes in the layouts of VOC and COCO, to try every evaluation without a download.

        Args:
            to: Folder of the data set.
            num_trainval: Scenes of the split trainval.
            num_test: Scenes of the split test.
            size_wh: Width and height of a scene, pixels.
            seed: Seed of the scenes.
        """
        from orl.synthetic.coco_layout import write_coco
        from orl.synthetic.scenes import draw_scenes

        draw_scenes(to, num_trainval=num_trainval, num_test=num_test, size_wh=size_wh, seed=seed)
        write_coco(to)
        finish("scenes", to)

    verbs: dict[str, Callable[..., None]] = {"pack": pack, "check": check, "crops": crops, "scenes": scenes}
    tyro.extras.subcommand_cli_from_dict(verbs, args=list(arguments), prog="orl data", description=command_data.__doc__)
