"""Nearest neighbours: exact block by block against the usual methods, and FAISS clusters against exact.

The vectors are random: as many as COCO has images, in clusters. With `--images` they are features of those images from
a ResNet-18 with random weights. The queries are a sample of the images; exact methods are also timed on the number of
images in a shard of stage 2.

    python benchmarks/neighbours.py --json FILE
    python benchmarks/neighbours.py --images DIR --size-px 96 --json FILE
"""

import argparse
import time
from typing import Any

import compare
import torch
from torch import Tensor

from orl.discovery.faiss_neighbours import approximate_neighbours, build_index, num_lists_of, training_rows
from orl.discovery.nearest_neighbours import nearest_neighbours, row_blocks, unit_vectors

SEED = 0
ROUNDING = 1e-6
"""Largest difference of tied similarities, whose order float32 products decide at random."""

Found = tuple[Tensor, Tensor]


def main(argv: list[str] | None = None) -> None:
    """Check that the neighbours agree, time all methods, and write the result."""
    parser = compare.arguments(
        __doc__.splitlines()[0],
        num_images=118_287,
        dims=256,
        clusters=2000,
        queries=2000,
        shard=256,
        neighbours=10,
        probes=64,
        runs=7,
        size_px=96,
    )
    options = parser.parse_args(argv)
    torch.manual_seed(SEED)
    rows = clustered_rows(options) if options.images is None else image_rows(options)
    query_ids = torch.randperm(len(rows))[: options.queries].sort().values
    results = [
        *exact_claims(options, rows, query_ids),
        *exact_claims(options, rows, query_ids[: options.shard]),
        faiss_claim(options, rows, query_ids),
    ]
    compare.finish(results, options.json)


def clustered_rows(options: argparse.Namespace) -> Tensor:
    """Sample unit vectors around random centres, like embeddings of images of similar scenes."""
    centres = torch.randn(options.clusters, options.dims)
    noise = torch.randn(options.num_images, options.dims)
    return torch.nn.functional.normalize(0.7 * centres[torch.randint(options.clusters, (options.num_images,))] + noise)


def image_rows(options: argparse.Namespace) -> Tensor:
    """Embed real images by a ResNet-18 with random weights."""
    from orl.datasets.sources import find_images
    from orl.embed import embed_images
    from orl.networks.backbones import build_backbone

    root, names = find_images(options.images)
    paths = [root / name for name in names[: options.num_images]]
    return unit_vectors(embed_images(build_backbone("resnet18"), paths, size_px=options.size_px))


def exact_claims(options: argparse.Namespace, rows: Tensor, query_ids: Tensor) -> list[dict[str, Any]]:
    """Compare our exact search with one product of all vectors, and with the flat index of FAISS."""
    import faiss

    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows.numpy())
    queries, width = rows[query_ids], options.neighbours + 1

    def product() -> Found:
        similarities, ids = (queries @ rows.T).topk(width, dim=1)
        return ids, similarities

    def flat_index() -> Found:
        similarities, ids = flat.search(queries.numpy(), width)
        return torch.from_numpy(ids), torch.from_numpy(similarities)

    def ours() -> Found:
        return nearest_neighbours(rows[query_ids], query_ids, row_blocks(rows), options.neighbours)

    found = ours()
    return [
        compare.result(
            f"exact neighbours of {len(query_ids)} of {len(rows)} images, block by block",
            name,
            compare.ratios(*compare.interleaved(ours, theirs, options.runs)),
            agreement(found, without_query(theirs(), query_ids)),
            **settings_of(options, rows, query_ids),
            faiss_threads=faiss.omp_get_max_threads(),
        )
        for name, theirs in (("one product of all and topk", product), ("the flat index of FAISS", flat_index))
    ]


def faiss_claim(options: argparse.Namespace, rows: Tensor, query_ids: Tensor) -> dict[str, Any]:
    """Compare the clustered index of FAISS with our exact search."""
    num_lists = num_lists_of(len(rows))
    sample = rows[torch.from_numpy(training_rows(len(rows), num_lists, SEED))]
    started = time.perf_counter()
    index = build_index(sample, row_blocks(rows), num_lists, SEED)
    build_s = time.perf_counter() - started

    def ours() -> Found:
        return approximate_neighbours(index, rows[query_ids], query_ids, options.neighbours, num_probes=options.probes)

    def exact() -> Found:
        return nearest_neighbours(rows[query_ids], query_ids, row_blocks(rows), options.neighbours)

    (exact_ids, _), (ids, _) = exact(), ours()
    hits = (exact_ids[:, :, None] == ids[:, None, :]).any(dim=2)
    return compare.result(
        f"neighbours of {len(query_ids)} of {len(rows)} images by FAISS clusters",
        "our exact search",
        compare.ratios(*compare.interleaved(ours, exact, options.runs)),
        {f"recall_at_{options.neighbours}": round(hits.double().mean().item(), 4)},
        **settings_of(options, rows, query_ids),
        lists=num_lists,
        probes=options.probes,
        build_s=round(build_s, 3),
    )


def without_query(found: Found, query_ids: Tensor) -> Found:
    """Drop one of K + 1 neighbours: the query, or the last if the query is not among them."""
    ids, similarities = found
    own = ids == query_ids[:, None]
    own[:, -1] |= ~own.any(dim=1)
    return ids[~own].view(len(ids), -1), similarities[~own].view(len(ids), -1)


def agreement(ours: Found, theirs: Found) -> dict[str, Any]:
    """Compare two results: the fraction of equal neighbours, and whether all others are ties.

    Raises:
        RuntimeError: if similarities differ by more than float rounding.
    """
    difference = (ours[1] - theirs[1]).abs().max().item()
    same = ours[0] == theirs[0]
    if difference > ROUNDING:
        raise RuntimeError(f"similarities differ by {difference}, above {ROUNDING}: the two do not do the same work")
    return {
        "same_ids": round(same.double().mean().item(), 6),
        "others": f"{int((~same).sum())}, all of similarities within {ROUNDING}",
        "largest_difference": difference,
    }


def settings_of(options: argparse.Namespace, rows: Tensor, query_ids: Tensor) -> dict[str, Any]:
    """Return the settings that the times depend on."""
    return {
        "images": len(rows),
        "dims": rows.shape[1],
        "queries": len(query_ids),
        "neighbours": options.neighbours,
        "vectors": "random, in clusters" if options.images is None else "images, ResNet-18 of random weights",
    }


if __name__ == "__main__":
    main()
