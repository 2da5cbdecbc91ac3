"""Shared parts of the benchmarks: interleaved timing of two programs on the same input, and the result's JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    *("orl", "torch", "torchvision", "numpy", "numba", "pillow", "simplejpeg"),
    *("opencv-contrib-python-headless", "faiss-cpu"),
)


def arguments(description: str, **defaults: int) -> argparse.ArgumentParser:
    """Build the parser of a benchmark: `--images DIR --json FILE`, and integer options by name and default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=Path, help="images: anything that 'orl run --images' takes")
    parser.add_argument("--json", type=Path, help="where to write the result")
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser


def interleaved(
    ours: Callable[[], object],
    alternative: Callable[[], object],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Time both programs alternately, so that a change in the machine's speed affects both.

    Returns:
        Seconds of each run of ours, and of the alternative.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in range(runs):
        # The order alternates, so that neither program always runs on caches warmed by the other.
        for which in (0, 1) if run % 2 == 0 else (1, 0):
            started = clock()
            (ours, alternative)[which]()
            seconds[which].append(clock() - started)
    return seconds


def ratios(ours_s: Sequence[float], alternative_s: Sequence[float]) -> dict[str, float]:
    """Compute the ratio of the alternative's time to ours, pair by pair; above 1 ours is faster."""
    pairs = np.asarray(alternative_s) / np.asarray(ours_s)
    return {
        "ratio_median": round(float(np.median(pairs)), 3),
        "ratio_p10": round(float(np.quantile(pairs, 0.1)), 3),
        "ratio_p90": round(float(np.quantile(pairs, 0.9)), 3),
        "ours_median_s": round(statistics.median(ours_s), 6),
        "alternative_median_s": round(statistics.median(alternative_s), 6),
        "runs": len(pairs),
    }


def result(
    claim: str, alternative: str, measured: dict[str, float], agreement: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """Build the entry of one claim in the JSON file.

    Args:
        claim: the faster program and its input.
        alternative: the program that it is compared with.
        measured: output of `ratios`.
        agreement: differences between the two results.
        settings: sizes and options that the times depend on.
    """
    return {
        "claim": claim,
        "alternative": alternative,
        **measured,
        "agreement": agreement,
        "settings": settings,
        "machine": machine(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def finish(results: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Print one line per claim, and write all claims to a JSON file."""
    for one in results:
        print(
            f"{one['claim']}: {one['ratio_median']:.2f} times {one['alternative']} "
            f"(10th to 90th percentile {one['ratio_p10']:.2f} to {one['ratio_p90']:.2f}, {one['runs']} pairs); "
            f"agreement {one['agreement']}"
        )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(results), indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Describe the machine: CPU, number of cores, and GPU if there is one."""
    import torch

    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": names[0] if names else platform.processor(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = str(Path(__file__).parent)
    try:
        found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "-C", here, "status", "--porcelain", "--", "../src"], capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() + (" with local changes" if changed.stdout.strip() else "")
