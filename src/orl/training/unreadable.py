"""Images that become unreadable during training: listed in a file, and limited in number."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from orl import files

UNREADABLE = "unreadable.csv"

logger = logging.getLogger(__name__)


class UnreadableImages:
    """The unreadable images of a training, in a CSV file of step, file and reason."""

    def __init__(self, path: Path, max_images: int, *, hint: str = "", is_writer: bool = True) -> None:
        """Read the list of a resumed run.

        Args:
            path: the CSV file; created with the first unreadable image.
            max_images: number of different images that may be unreadable.
            hint: option that raises that number, for the error message.
            is_writer: whether this process writes and warns; all processes count.
        """
        self.path, self.max_images, self.hint, self.is_writer = path, max_images, hint, is_writer
        self.files = set()
        if path.exists():
            self.files = {row["file"] for row in files.read_csv(path, ("step", "file", "reason"))}

    def add(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        """Add the unreadable images of a step, as (file, reason).

        Raises:
            RuntimeError: if more than `max_images` images are unreadable.
        """
        new = [(file, reason) for file, reason in dict(rows).items() if file not in self.files]
        if new and self.is_writer:
            self._write(step, new)
            for file, reason in new:
                logger.warning("image %s: %s; another image replaces it", file, reason)
        self.files.update(file for file, _ in new)
        if rows and len(self.files) > self.max_images:
            raise RuntimeError(
                f"{len(self.files)} images could not be read during training, and at most {self.max_images} may be "
                f"({self.hint}): the last is {rows[-1][0]}, {rows[-1][1]}; all are in {self.path}. Is the disk still "
                f"there? Once they are repaired, delete {self.path.name}: the same command resumes"
            )

    def _write(self, step: int, rows: Sequence[tuple[str, str]]) -> None:
        has_header = self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if not has_header:
                writer.writerow(["step", "file", "reason"])
            writer.writerows([step, *row] for row in rows)
