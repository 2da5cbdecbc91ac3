"""How a benchmark measures: ours and the alternative in turn on the same input, and the ratio of their times."""

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
    """A parser with what every benchmark takes: `--images DIR --json FILE`, and whole numbers by name and default."""
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
    """Seconds of each of so many runs, in turn, so that a machine that slows down slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in range(runs):
        # The order changes from run to run: neither always meets the caches that the other has warmed.
        for which in (0, 1) if run % 2 == 0 else (1, 0):
            started = clock()
            (ours, alternative)[which]()
            seconds[which].append(clock() - started)
    return seconds


def ratios(ours_s: Sequence[float], alternative_s: Sequence[float]) -> dict[str, float]:
    """The alternative's time over ours, pair by pair: above 1 ours is faster."""
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
    """One claim as it goes into the JSON file.

    Args:
        claim: what is said to be faster, on what.
        alternative: what it is compared with.
        measured: from `ratios`.
        agreement: what was compared between the two results and how close they were.
        settings: sizes and options that the numbers depend on.
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
    """Print a line a claim, and write all of them."""
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
    """The processor, how many, and the GPU if torch sees one."""
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
