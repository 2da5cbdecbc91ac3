"""The preprocessing of images for inference: resize, centre crop, normalise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import functional as tv

from orl.views.colour import IMAGENET_MEAN, IMAGENET_STD
from orl.views.crops import CROP_PX, RESIZE_PX


@dataclass(frozen=True, kw_only=True)
class Transform:
    """The preprocessing for inference: short side to 256 px, centre crop of 224 px, normalisation.

    The same as the `transforms` of torchvision's weights. It is not a `torch.nn.Module`, so that a network can have it
    as an attribute and not as a part.
    """

    resize_px: int = RESIZE_PX
    """Short side of the resized image."""
    crop_px: int = CROP_PX
    """Side of the square cut from the centre."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of red, green and blue in [0, 1], which is subtracted."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of red, green and blue, which is the divisor."""

    def __call__(
        self, image: Image.Image | UInt8[Tensor, "*n 3 h w"] | Float[Tensor, "*n 3 h w"]
    ) -> Float[Tensor, "*n 3 s s"]:
        """Preprocess an image, or a batch of equal size; the result for a Pillow image has no batch dimension.

        Args:
            image: a Pillow image of any mode, turned upright by its EXIF tag; or RGB as uint8 or as floats in [0, 1].

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
        """Subtract the mean and divide by the std, for floats in [0, 1] of any size."""
        return tv.normalize(image, list(self.mean), list(self.std))


def _require_unit_range(image: Tensor) -> None:
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"floats of an image must lie in [0, 1], got {low:.3g} to {high:.3g}; divide them by 255, or give uint8"
        )
