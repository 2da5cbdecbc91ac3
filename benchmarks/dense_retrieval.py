"""Dense retrieval: the blocked search of a memory bank against a plain loop of torch matmul and topk.

Both predict the class frequencies of the same patches from the same bank of random clustered vectors. The loop takes as
many queries at a time as one image has patches, and compares them with the complete bank.

    python benchmarks/dense_retrieval.py --json FILE
    python benchmarks/dense_retrieval.py --memory 1000000 --queries 2048 --runs 3 --json FILE
"""

import argparse
from typing import Any

import compare
import torch
import torch.nn.functional as F
from torch import Tensor

from orl.evaluation.objects.memory_bank import MemoryBank, predict_patches

SEED = 0
TEMPERATURE = 0.02
ROUNDING = 1e-3
"""Largest difference of two class frequencies: cosines differ by 1e-6, and are divided by a temperature of 0.02."""


def main(argv: list[str] | None = None) -> None:
    """Check that the predictions agree, time both ways, and write the result."""
    parser = compare.arguments(
        __doc__.splitlines()[0],
        memory=100_000,
        dims=512,
        classes=21,
        clusters=500,
        queries=8192,
        patches=1024,
        neighbours=30,
        runs=7,
    )
    options = parser.parse_args(argv)
    torch.manual_seed(SEED)
    compare.finish([claim(options)], options.json)


def claim(options: argparse.Namespace) -> dict[str, Any]:
    """Compare both ways on one bank."""
    bank, queries = random_bank(options)

    def ours() -> Tensor:
        return predict_patches(bank, queries, k=options.neighbours, temperature=TEMPERATURE)

    def loop() -> Tensor:
        return predict_by_loop(bank, queries, options.patches, options.neighbours)

    return compare.result(
        f"class frequencies of {options.queries} patches from a memory of {options.memory}, block by block",
        "a loop of matmul and topk",
        compare.ratios(*compare.interleaved(ours, loop, options.runs)),
        agreement(ours(), loop()),
        memory=options.memory,
        dims=options.dims,
        queries=options.queries,
        patches_per_step=options.patches,
        neighbours=options.neighbours,
        vectors="random, in clusters",
    )


def random_bank(options: argparse.Namespace) -> tuple[MemoryBank, Tensor]:
    """Sample unit vectors around random centres, with the class of their centre, and queries around the same."""
    centres = torch.randn(options.clusters, options.dims)
    groups = torch.randint(options.clusters, (options.memory + options.queries,))
    vectors = F.normalize(0.7 * centres[groups] + torch.randn(len(groups), options.dims))
    frequencies = F.one_hot(groups[: options.memory] % options.classes, options.classes).float()
    bank = MemoryBank(features=vectors[: options.memory], frequencies=frequencies)
    return bank, vectors[options.memory :].clone()


def predict_by_loop(bank: MemoryBank, queries: Tensor, num_patches: int, k: int) -> Tensor:
    """Predict the patches of one image at a time, as a plain implementation does."""
    parts = []
    for part in queries.split(num_patches):
        cosines, ids = (part @ bank.features.T).topk(k, dim=1)
        weights = (cosines / TEMPERATURE).softmax(dim=1)
        parts.append((weights[:, :, None] * bank.frequencies[ids]).sum(dim=1))
    return torch.cat(parts)


def agreement(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """Compare two predictions.

    Raises:
        RuntimeError: if they differ by more than float rounding.
    """
    difference = (ours - theirs).abs().max().item()
    if difference > ROUNDING:
        raise RuntimeError(f"frequencies differ by {difference}, above {ROUNDING}: the two do not do the same work")
    same = (ours.argmax(dim=1) == theirs.argmax(dim=1)).double().mean().item()
    return {"same_classes": round(same, 6), "largest_difference": difference}


if __name__ == "__main__":
    main()
