"""Commands for files of others: published tables of stage 2, image sets."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from orl.cli.options import finish, read_config, take_path
from orl.config import load_config
from orl.rundir import RunDir


def command_published_files(arguments: Sequence[str]) -> None:
    """The published JSON files of stage 2: `orl published-files write RUN --to DIR`, or `orl published-files read`.

    Reading takes `--correspondences FILE` (enough for stage 3), `--neighbours FILE` and `--proposals FILE`, at least
    one of them, and beside them the options of the run that the tables are for.
    """
    verbs = {"write": _exchange_write, "read": _exchange_read}
    verb, *options = arguments or [""]
    if verb in ("-h", "--help"):
        print(f"usage: orl published-files write|read [options]\n\n{command_published_files.__doc__}")
    elif verb not in verbs:
        raise ValueError(
            f"orl published-files takes {' or '.join(verbs)}, not {verb!r}: orl published-files write RUN --to DIR"
        )
    else:
        verbs[verb](options)


def _exchange_write(arguments: Sequence[str]) -> None:
    def write(run: Annotated[Path, tyro.conf.Positional], to: Path, overwrite: bool = False) -> None:
        """Write the published JSON files of a finished stage 2; their names begin with that of the run.

        Args:
            run: folder of the run.
            to: folder for the files.
            overwrite: replace files that are there.
        """
        from orl.datasets.image_table import load_image_table
        from orl.published_files.write import write_published

        folder, source = RunDir(run), load_config(RunDir(run).config).images
        name = run.resolve().name
        for path in write_published(folder.table(""), load_image_table(folder.images), source, to, name, overwrite):
            finish("file", path)

    tyro.cli(write, args=list(arguments), prog="orl published-files write")


def _exchange_read(arguments: Sequence[str]) -> None:
    paths: dict[str, Path | None] = {}
    for name in ("proposals", "neighbours", "correspondences"):
        paths[name], arguments = take_path(arguments, f"--{name}")
    config = read_config("exchange read", command_published_files.__doc__, arguments)
    from orl.pipeline.record import record_stage
    from orl.pipeline.run import prepare
    from orl.published_files.read import PublishedFiles, RunTables, read_published

    files = PublishedFiles(**paths)
    images = prepare(config)
    run, started = RunDir(config.out), time.monotonic()
    target = RunTables(folder=run.table(""), shard_size=config.discover.shard_size, overwrite=config.overwrite)
    found = read_published(files, images, config.images, target)
    record_stage(run, "exchange", "done", time.monotonic() - started)
    for name in found:
        finish(name, run.table(name))


def command_data(arguments: Sequence[str]) -> None:
    """Image sets: `orl data pack` makes a copy that is read without decoding, `check` looks at every image.

    `crops` cuts labelled objects into class folders, `scenes` draws a labelled set.
    """
    from orl.config import ScanConfig
    from orl.pipeline.check_source import check_source, format_check
    from orl.pipeline.pack import PackOptions, pack_images

    def pack(options: tyro.conf.OmitArgPrefixes[PackOptions]) -> None:
        """Copy images, reduced to a set size, into a few memory-mapped files with checksums; --images takes the folder.

        A packing that was stopped goes on with the same command.

        Args:
            options: what is packed, and how.
        """
        finish("pack", pack_images(options))

    def check(
        path: Annotated[Path, tyro.conf.Positional],
        scan: tyro.conf.OmitArgPrefixes[ScanConfig],
        split: str | None = None,
        workers: int = 2,
    ) -> None:
        """Tell how many images can be used, why others cannot, and their sizes; of a pack, compare all checksums.

        Args:
            path: images: a folder, a list file, a COCO JSON, a VOC devkit or a pack.
            scan: which images are taken.
            split: split of a VOC devkit, 'trainval' if not given.
            workers: processes that read images.
        """
        print(format_check(check_source(path, split, scan, workers)))

    def crops(
        data: Path,
        to: Path,
        train_split: str = "trainval",
        val_split: str = "test",
        min_side_px: int = 24,
    ) -> None:
        """Cut the labelled objects of a VOC devkit, one image each, into class folders for `orl evaluate linear`.

        Args:
            data: a VOC devkit, or a drawn set, which has the same layout.
            to: gets train/CLASS and val/CLASS.
            train_split: split whose objects go to train.
            val_split: split whose objects go to val.
            min_side_px: objects with a shorter side are left out, pixels.
        """
        from orl.pipeline.object_crops import cut_objects

        cut_objects(data, to, train_split=train_split, val_split=val_split, min_side_px=min_side_px)
        finish("class folders", to)

    def scenes(
        to: Path, num_trainval: int = 400, num_test: int = 200, size_wh: tuple[int, int] = (192, 144), seed: int = 0
    ) -> None:
        """Draw labelled scenes as a VOC devkit and in COCO's layout, to try every judge without a download.

        Args:
            to: folder of the set.
            num_trainval: scenes to learn from.
            num_test: scenes to be scored.
            size_wh: width and height of a scene, pixels.
            seed: other scenes for another seed.
        """
        from orl.synthetic.coco_layout import write_coco
        from orl.synthetic.scenes import draw_scenes

        draw_scenes(to, num_trainval=num_trainval, num_test=num_test, size_wh=size_wh, seed=seed)
        write_coco(to)
        finish("scenes", to)

    verbs: dict[str, Callable[..., None]] = {"pack": pack, "check": check, "crops": crops, "scenes": scenes}
    tyro.extras.subcommand_cli_from_dict(verbs, args=list(arguments), prog="orl data", description=command_data.__doc__)
