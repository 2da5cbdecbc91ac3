"""What a photo goes through before a backbone sees it outside of training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import functional as tv

from orl.images.colour import IMAGENET_MEAN, IMAGENET_STD

RESIZE_PX, CROP_PX = 256, 224


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Short side to 256 px, centre crop of 224 px, normalised: what torchvision's weights call their transforms.

    Not a `torch.nn.Module`, so that a network can carry it without having it among its parts.
    """

    resize_px: int = RESIZE_PX
    """Short side of the resized photo."""
    crop_px: int = CROP_PX
    """Side of the square cut from its middle."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of red, green and blue in [0, 1]; taken off."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Of red, green and blue; divided by."""

    def __call__(
        self, photo: Image.Image | UInt8[Tensor, "*n 3 h w"] | Float[Tensor, "*n 3 h w"]
    ) -> Float[Tensor, "*n 3 s s"]:
        """A photo, or a batch of equal size, as the backbone takes it; a Pillow image still lacks the batch dimension.

        Args:
            photo: a Pillow image of any mode, turned upright by its EXIF tag; or red, green and blue as bytes or as
                floats in [0, 1].

        Raises:
            ValueError: if floats lie outside [0, 1].
        """
        if isinstance(photo, Image.Image):
            photo = ImageOps.exif_transpose(photo).convert("RGB")
        elif photo.is_floating_point():
            _require_unit_range(photo)
        cropped = tv.center_crop(tv.resize(photo, [self.resize_px], antialias=True), [self.crop_px, self.crop_px])
        pixels = tv.pil_to_tensor(cropped) if isinstance(cropped, Image.Image) else cropped
        return self.normalise(tv.convert_image_dtype(pixels, torch.float32))

    def normalise(self, photo: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
        """The last step alone, for photos of any size: floats in [0, 1], less the mean, over the deviation."""
        return tv.normalize(photo, list(self.mean), list(self.std))


def _require_unit_range(photo: Tensor) -> None:
    low, high = float(photo.min()), float(photo.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"a photo of floats must lie in [0, 1], and this one goes from {low:.3g} to {high:.3g}: divide it by 255, "
            "or give it as uint8"
        )
