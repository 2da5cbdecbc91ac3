"""Photos that could be read when the run began and cannot any more: written down, counted, and in the end too many."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


class UnreadablePhotos:
    """The list `unreadable.csv` of a stage: step, file and reason of each photo that another one replaced."""

    def __init__(self, path: Path, max_photos: int) -> None:
        """Go on with the list of the run's earlier parts.

        Args:
            path: the file; written when there is something to write.
            max_photos: most different photos that may be unreadable.
        """
        self.path, self.max_photos = path, max_photos
        self.files = set()
        if path.exists():
            with open(path, newline="") as file:
                self.files = {row["file"] for row in csv.DictReader(file)}

    def add(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        """Note what could not be read for a step.

        Raises:
            RuntimeError: if it is too many photos by now.
        """
        new = [(file, reason) for file, reason in dict(rows).items() if file not in self.files]
        if not new:
            return
        self._write(step, new)
        self.files.update(file for file, _ in new)
        for file, reason in new:
            logger.warning("photo %s: %s; another takes its place", file, reason)
        if len(self.files) > self.max_photos:
            raise RuntimeError(
                f"{len(self.files)} photos have become unreadable during training, and at most {self.max_photos} may "
                f"(--scan.max-rejected-share): the last is {new[-1][0]}, {new[-1][1]}; all are in {self.path}. Is the "
                "disk still there? The same command goes on from the last checkpoint"
            )

    def _write(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        begun = self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if not begun:
                writer.writerow(["step", "file", "reason"])
            writer.writerows([step, *row] for row in rows)
