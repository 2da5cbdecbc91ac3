"""Peak resident memory of neighbours and matching on random tables of a million images, much larger than memory.

Each step runs in a process of its own, which only opens the tables, so that its peak holds nothing of their making. The
peak counts the pages of mapped files too. Both steps take their images shard by shard, in no memory that grows with the
number of shards, and exact neighbours of a million images take hours: a share of the shards is run, spread evenly.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import compare
import numpy as np
import torch

from orl import tables
from orl.config import DiscoverConfig
from orl.pipeline import shards
from orl.pipeline.neighbour_tables import exact_finder

GIB = 2**30
POOL_ROWS = 2**16
"""Number of different vectors among the random RoIs; sampling all of them would take longer than the steps."""
TOP_FRACTION = 0.1
TABLES = ("embeddings", "neighbours", "rois", "roi_embeddings")
STEPS = ("neighbours", "matching")


def main(argv: list[str] | None = None) -> None:
    """Write the tables, run each step in a process of its own, and report its peak memory and time."""
    parser = compare.arguments(
        __doc__.splitlines()[0],
        num_images=1_000_000,
        rois=20,
        embedding_dims=256,
        roi_dims=256,
        neighbours=10,
        shard_size=256,
        neighbour_shards=8,
        matching_shards=200,
    )
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the tables are made, and deleted after")
    parser.add_argument("--step", choices=STEPS, help="run one step on the tables in --folder (internal)")
    args = parser.parse_args(argv)
    if args.step:
        print(json.dumps(_run_step(args)))
        return
    refuse_without_space(args)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        args.folder = Path(folder)
        started = time.perf_counter()
        make_tables(args)
        print(f"made in {time.perf_counter() - started:.0f} s")
        size = sum(path.stat().st_size for path in args.folder.rglob("*.arrow"))
        results = [_result(args, step, size) for step in STEPS]
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def refuse_without_space(args: argparse.Namespace) -> None:
    """Print the disk space that the tables need, and stop if there is less."""
    per_image = 2 * args.embedding_dims + 8 * args.neighbours + args.rois * (20 + 2 * args.roi_dims)
    needed, free = 1.02 * args.num_images * per_image, shutil.disk_usage(args.folder).free
    print(f"the tables take {needed / GIB:.2f} GiB of disk; {args.folder.resolve()} has {free / GIB:.2f} GiB")
    if needed > 0.95 * free:
        sys.exit("too little disk: give fewer --num-images, or another --folder")


def make_tables(args: argparse.Namespace) -> None:
    """Write the tables that the steps read, with the package's own functions."""
    generator = np.random.default_rng(0)
    pool = generator.standard_normal((POOL_ROWS, args.roi_dims), dtype=np.float32).astype(np.float16)
    slices = tables.shard_slices(args.num_images, args.shard_size)
    for name in TABLES:
        tables.begin(args.folder / name, {"made": "up", "shard_size": args.shard_size}, len(slices))
    for index, images in enumerate(slices):
        ids = np.arange(images.start, images.stop, dtype=np.int32)
        embedding = generator.standard_normal((len(ids), args.embedding_dims), dtype=np.float32)
        # Random neighbours are as scattered on the disk as the nearest ones.
        steps = generator.integers(1, args.num_images, (len(ids), args.neighbours))
        counts = generator.integers((args.rois + 1) // 2, args.rois + args.rois // 2 + 1, len(ids))
        rows = (generator.integers(POOL_ROWS) + np.arange(counts.sum())) % POOL_ROWS
        columns: dict[str, dict[str, np.ndarray]] = {
            "embeddings": {"embedding": embedding.astype(np.float16)},
            "neighbours": {"neighbour_ids": ((ids[:, None] + steps) % args.num_images).astype(np.int32)},
            "rois": {"image_id": ids.repeat(counts), "box": np.zeros((len(rows), 4), np.float32)},
            "roi_embeddings": {"embedding": pool[rows]},
        }
        for name in TABLES:
            tables.write_shard(args.folder / name, index, columns[name])


def _run_step(args: argparse.Namespace) -> dict[str, Any]:
    """Run one step on some of the shards like `orl discover`; the peak is that of this process."""
    slices = tables.shard_slices(args.num_images, args.shard_size)
    asked = args.neighbour_shards if args.step == "neighbours" else args.matching_shards
    run = np.unique(np.linspace(0, len(slices) - 1, min(asked, len(slices))).astype(int)).tolist()
    before, started = _resident_bytes("VmRSS"), time.perf_counter()
    make = _maker(args)
    opened_s = time.perf_counter() - started
    folder = args.folder / f"found_{args.step}"
    for position in tables.begin(folder, {}, len(run)):
        tables.write_shard(folder, position, make(slices[run[position]], lambda num_images: None))
    return {
        "peak_resident_gib": round(_resident_bytes("VmHWM") / GIB, 3),
        "resident_before_gib": round(before / GIB, 3),
        "seconds": round(time.perf_counter() - started, 2),
        "seconds_until_the_first_shard": round(opened_s, 2),
        "images_run": sum(slices[index].stop - slices[index].start for index in run),
        "shards_run": len(run),
        "shards_of_the_table": len(slices),
        "threads": torch.get_num_threads(),
    }


def _maker(args: argparse.Namespace) -> shards.ShardMaker:
    device = torch.device("cpu")
    if args.step == "neighbours":
        return exact_finder(tables.load(args.folder / "embeddings"), args.neighbours, math.inf, device)
    found = [tables.load(args.folder / name) for name in ("neighbours", "rois", "roi_embeddings")]
    return shards.matcher(
        args.num_images, found[0], found[1], found[2], DiscoverConfig(top_fraction=TOP_FRACTION), device
    )


def _result(args: argparse.Namespace, step: str, size: int) -> dict[str, Any]:
    settings = {name: value for name, value in vars(args).items() if isinstance(value, int)}
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, __file__, "--step", step, "--folder", str(args.folder), *options]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    measured = {**found, "images_per_s": round(found["images_run"] / found["seconds"], 1)}
    print(
        f"{step}: peak {found['peak_resident_gib']} GiB resident ({found['resident_before_gib']} before the step), "
        f"{found['shards_run']} of {found['shards_of_the_table']} shards in {found['seconds']} s"
    )
    return compare.result(
        f"peak resident memory of {step}, {args.num_images:,} images",
        f"tables of {size / GIB:.2f} GiB in memory",
        measured,
        check(args.folder, step),
        tables_gib=round(size / GIB, 3),
        **settings,
    )


def check(folder: Path, step: str) -> dict[str, Any]:
    """Compare the result of a step for image 0 with the definition in double precision."""
    found = tables.load(folder / f"found_{step}")
    if step == "neighbours":
        embeddings = tables.load(folder / "embeddings")
        own = _unit(embeddings.rows("embedding", 0, 1))[0]
        cosines = np.concatenate([_unit(rows) @ own for _, rows in embeddings.parts("embedding")])
        cosines[0] = -np.inf
        ids = found.rows("neighbour_ids", 0, 1)[0]
        expected = np.argsort(-cosines, kind="stable")[: len(ids)]
        return {"same_neighbours_of_image_0": bool((ids == expected).all())}
    pairs = {name: found.column(name) for name in ("image_id", "neighbour_id", "roi", "neighbour_roi")}
    first = pairs["neighbour_id"][0]
    chosen = (pairs["image_id"] == 0) & (pairs["neighbour_id"] == first)
    image_ids, embeddings = tables.load(folder / "rois").column("image_id"), tables.load(folder / "roi_embeddings")
    starts = np.searchsorted(image_ids, [0, 1, first, first + 1]).tolist()
    own, other = (_unit(embeddings.rows("embedding", *starts[at : at + 2])) for at in (0, 2))
    cosines = (own @ other.T).ravel()
    best = np.argsort(-cosines, kind="stable")[: max(1, int(TOP_FRACTION * len(own)))]
    expected = np.stack([best // len(other), best % len(other) + starts[2]], axis=1)
    same = np.array_equal(np.stack([pairs["roi"], pairs["neighbour_roi"]], axis=1)[chosen], expected)
    return {"same_pairs_of_image_0_and_its_first_neighbour": same}


def _unit(rows: np.ndarray) -> np.ndarray:
    vectors = rows.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _resident_bytes(which: str) -> int:
    """Read 'VmRSS' (current memory of this process) or 'VmHWM' (its peak); mapped pages count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


if __name__ == "__main__":
    main()
