"""The correspondences of a finished stage 2 as an ordinary torch data set of crop pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from orl import tables
from orl.datasets.discovery_tables import open_discovery_table
from orl.datasets.image_table import load_image_table
from orl.rundir import RunDir
from orl.views.crops import round_to_pixels
from orl.views.cut import read_listed_image


class Correspondence(NamedTuple):
    """Two RoIs that stage 2 matched: one of an image, and one of a neighbour of the image."""

    crop: Any
    """RoI of the image: a PIL image, or the output of the transform."""
    neighbour_crop: Any
    """RoI of the neighbour: a PIL image, or the output of the transform."""
    similarity: float
    """Cosine of the two RoI embeddings; NaN for correspondences that were read from published files."""
    image_id: int
    """Row of the image in the run's image table."""
    neighbour_id: int
    """Row of the neighbour in the run's image table."""
    roi: int
    """Row of the image's RoI in the table of RoIs."""
    neighbour_roi: int
    """Row of the neighbour's RoI in the table of RoIs."""


class CorrespondenceDataset(Dataset[Correspondence]):
    """Pairs of crops of the same kind of object in two images, one item per correspondence.

    Items are sorted by image, then by the neighbour's rank, then by similarity, the highest first.

    Example:
        ```python
        from torch.utils.data import DataLoader
        from torchvision.transforms import v2

        transform = v2.Compose([v2.RandomResizedCrop(96), v2.PILToTensor()])
        pairs = CorrespondenceDataset("runs/coco", transform=transform)
        for batch in DataLoader(pairs, batch_size=64, shuffle=True):
            batch.crop, batch.neighbour_crop  # two tensors of shape (64, 3, 96, 96)
            batch.similarity  # 64 cosines
        ```
    """

    def __init__(
        self,
        run: str | Path,
        transform: Callable[[Image.Image], Any] | None = None,
        neighbour_transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        """Open the tables of a run; images are read on access.

        Args:
            run: folder of a run with a finished stage 2, such as 'runs/coco'.
            transform: function of a PIL image in RGB; applied to both crops, to each by itself.
            neighbour_transform: another transform for the neighbour's crop.

        Raises:
            FileNotFoundError: if the run has no image table, or stage 2 has not finished.
            ValueError: if a table of stage 2 is damaged, or belongs to another image list than the run has now.
        """
        folder = RunDir(Path(run).expanduser())
        self.images = load_image_table(folder.images)
        self.transform, self.neighbour_transform = transform, neighbour_transform or transform
        rois, correspondences = (
            open_discovery_table(folder.table(name), self.images) for name in ("rois", "correspondences")
        )
        tables.check_inputs(correspondences)
        # Copies, because a table that is mapped from its file cannot be sent to loader workers.
        self._rois = np.array(rois.column("box"))
        names = ("similarity", "image_id", "neighbour_id", "roi", "neighbour_roi")
        self._columns = [np.array(correspondences.column(name)) for name in names]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int) -> Correspondence:
        """Read both images of a correspondence, and cut its two RoIs.

        Raises:
            IndexError: if there is no such correspondence.
            ImageError: if an image cannot be read, or has another size than when the images were scanned.
        """
        similarity, image_id, neighbour_id, roi, neighbour_roi = (column[index].item() for column in self._columns)
        crop, neighbour_crop = self._crop(image_id, roi), self._crop(neighbour_id, neighbour_roi)
        if self.transform is not None:
            crop = self.transform(crop)
        if self.neighbour_transform is not None:
            neighbour_crop = self.neighbour_transform(neighbour_crop)
        return Correspondence(crop, neighbour_crop, similarity, image_id, neighbour_id, roi, neighbour_roi)

    def _crop(self, image_id: int, roi: int) -> Any:
        pixels = read_listed_image(self.images, image_id)
        box = round_to_pixels(self._rois[roi], self.images.sizes_wh[image_id])
        return Image.fromarray(pixels).crop(box)
