"""Images that cannot be read in training: written down, counted, and in the end too many."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

UNREADABLE = "unreadable.csv"

logger = logging.getLogger(__name__)


class UnreadableImages:
    """The list of a training: step, file and reason of each image that another one replaced."""

    def __init__(self, path: Path, max_images: int, *, hint: str = "", is_writer: bool = True) -> None:
        """Go on with the list of the run's earlier parts.

        Args:
            path: the file; written when there is something to write.
            max_images: most different images that may be unreadable.
            hint: how more may be, or why there may be no more, for the error.
            is_writer: whether this process writes and warns; all of them count.
        """
        self.path, self.max_images, self.hint, self.is_writer = path, max_images, hint, is_writer
        self.files = set()
        if path.exists():
            with open(path, newline="") as file:
                self.files = {row["file"] for row in csv.DictReader(file)}

    def add(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        """Note what could not be read for a step.

        Raises:
            RuntimeError: if it is too many images by now.
        """
        new = [(file, reason) for file, reason in dict(rows).items() if file not in self.files]
        if new and self.is_writer:
            self._write(step, new)
            for file, reason in new:
                logger.warning("image %s: %s; another takes its place", file, reason)
        self.files.update(file for file, _ in new)
        if rows and len(self.files) > self.max_images:
            raise RuntimeError(
                f"{len(self.files)} images could not be read during training, and at most {self.max_images} may be "
                f"({self.hint}): the last is {rows[-1][0]}, {rows[-1][1]}; all are in {self.path}. Is the disk still "
                f"there? When they are repaired, delete {self.path.name}: the same command goes on"
            )

    def _write(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        begun = self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if not begun:
                writer.writerow(["step", "file", "reason"])
            writer.writerows([step, *row] for row in rows)
