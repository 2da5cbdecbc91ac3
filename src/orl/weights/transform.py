"""What an image goes through before a backbone sees it outside of training."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import functional as tv

from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD

RESIZE_PX, CROP_PX = 256, 224


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Short side to 256 px, centre crop of 224 px, normalised: what torchvision's weights call their transforms.

    Not a `torch.nn.Module`, so that a network can carry it without having it among its parts.
    """

    resize_px: int = RESIZE_PX
    """Short side of the resized image."""
    crop_px: int = CROP_PX
    """Side of the square cut from its middle."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of red, green and blue in [0, 1]; taken off."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Of red, green and blue; divided by."""

    def __call__(
        self, image: Image.Image | UInt8[Tensor, "*n 3 h w"] | Float[Tensor, "*n 3 h w"]
    ) -> Float[Tensor, "*n 3 s s"]:
        """An image, or a batch of equal size, as the backbone takes it; a Pillow image still lacks the batch dimension.

        Args:
            image: a Pillow image of any mode, turned upright by its EXIF tag; or red, green and blue as bytes or as
                floats in [0, 1].

        Raises:
            ValueError: if floats lie outside [0, 1].
        """
        if isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image).convert("RGB")
        elif image.is_floating_point():
            _require_unit_range(image)
        cropped = tv.center_crop(tv.resize(image, [self.resize_px], antialias=True), [self.crop_px, self.crop_px])
        pixels = tv.pil_to_tensor(cropped) if isinstance(cropped, Image.Image) else cropped
        return self.normalise(tv.convert_image_dtype(pixels, torch.float32))

    def normalise(self, image: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
        """The last step alone, for images of any size: floats in [0, 1], less the mean, over the deviation."""
        return tv.normalize(image, list(self.mean), list(self.std))


def _require_unit_range(image: Tensor) -> None:
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"an image of floats must lie in [0, 1], and this one goes from {low:.3g} to {high:.3g}: divide it by 255, "
            "or give it as uint8"
        )
