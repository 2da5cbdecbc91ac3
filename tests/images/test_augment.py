import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from orl.images.augment import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment,
    gaussian_blur,
    gray,
    normalise,
    solarise,
)
from orl.images.colour import JITTER_ORDERS, ColourDistribution, ColourParameters, draw_colours

CPU = torch.device("cpu")


def images(count: int = 4, side: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def plain(count: int) -> dict[str, torch.Tensor]:
    """Parameters that change nothing."""
    return {
        "flip": torch.zeros(count, dtype=torch.bool),
        "jitter_order": torch.zeros(count, dtype=torch.int64),
        "brightness": torch.ones(count),
        "contrast": torch.ones(count),
        "saturation": torch.ones(count),
        "hue": torch.zeros(count),
        "gray": torch.zeros(count, dtype=torch.bool),
        "blur_sigma_px": torch.zeros(count),
        "solarise": torch.zeros(count, dtype=torch.bool),
    }


def test_no_change_is_normalisation_alone() -> None:
    crops = (images() * 255).to(torch.uint8)
    torch.testing.assert_close(augment(crops, ColourParameters(**plain(4)), CPU), normalise(crops))


def test_normalised_values_by_hand() -> None:
    crops = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(normalise(crops)[0, :, 0, 0], expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (adjust_brightness, TF.adjust_brightness, [0.6, 1.0, 1.2, 1.4]),
        (adjust_contrast, TF.adjust_contrast, [0.6, 1.0, 1.2, 1.4]),
        (adjust_saturation, TF.adjust_saturation, [0.8, 1.0, 1.1, 1.2]),
        (adjust_hue, TF.adjust_hue, [-0.1, 0.03, 0.1, -0.5]),
    ],
)
def test_each_jitter_equals_torchvisions_photo_by_photo(ours: object, theirs: object, factors: list[float]) -> None:
    batch = images()
    expected = torch.stack([theirs(image, factor) for image, factor in zip(batch, factors)])
    # torchvision goes through the same formulas in another order of operations.
    torch.testing.assert_close(ours(batch, torch.tensor(factors)), expected, atol=2e-6, rtol=1e-5)


def test_hue_of_gray_black_and_white_stays() -> None:
    values = torch.tensor([0.0, 0.5, 1.0])
    batch = values.view(3, 1, 1, 1).expand(3, 3, 2, 2)
    torch.testing.assert_close(adjust_hue(batch, torch.tensor([0.1, 0.3, -0.2])), batch)


def test_a_third_of_a_turn_makes_red_green() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    torch.testing.assert_close(adjust_hue(red, torch.tensor([1 / 3])).flatten(), torch.tensor([0.0, 1, 0]))


def test_gray_equals_torchvisions() -> None:
    batch = images()
    torch.testing.assert_close(gray(batch), TF.rgb_to_grayscale(batch))


def test_solarise_equals_torchvisions() -> None:
    batch = torch.arange(256, dtype=torch.float32).div(255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(solarise(batch), TF.solarize(batch, 128 / 255))


def test_blur_equals_torchvisions_photo_by_photo() -> None:
    batch, sigmas = images(), [0.1, 0.7, 1.3, 2.0]
    kernel = 2 * math.ceil(3 * 2.0) + 1
    expected = torch.stack([TF.gaussian_blur(image, [kernel, kernel], [sigma]) for image, sigma in zip(batch, sigmas)])
    torch.testing.assert_close(gaussian_blur(batch, torch.tensor(sigmas)), expected, atol=2e-6, rtol=1e-5)


def test_blur_of_one_photo_does_not_depend_on_its_batch_beyond_the_kernels_end() -> None:
    batch = images()
    alone = gaussian_blur(batch[:1], torch.tensor([0.5]))
    together = gaussian_blur(batch, torch.tensor([0.5, 2.0, 2.0, 2.0]))[:1]
    # The kernel alone ends at 3 sigma, in the batch at 12: the tail weighs less than 0.3%.
    torch.testing.assert_close(alone, together, atol=5e-3, rtol=0)


def test_jitter_follows_each_photos_own_order() -> None:
    crops = (images(len(JITTER_ORDERS)) * 255).to(torch.uint8)
    values = plain(len(crops)) | {"jitter_order": torch.arange(len(crops))}
    factors = {"brightness": 1.4, "contrast": 0.6, "saturation": 1.2, "hue": 0.1}
    values |= {name: torch.full((len(crops),), factor) for name, factor in factors.items()}
    found = augment(crops, ColourParameters(**values), CPU)
    operations = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
    for index, order in enumerate(JITTER_ORDERS):
        image = crops[index].float() / 255
        for operation in order:
            image = operations[operation](image, list(factors.values())[operation])
        expected = TF.normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(found[index], expected, atol=2e-5, rtol=1e-4)


def test_each_photo_is_changed_by_its_own_draw_only() -> None:
    crops = (images() * 255).to(torch.uint8)
    values = plain(4)
    values["flip"][0] = values["gray"][1] = values["solarise"][2] = True
    values["blur_sigma_px"][3] = 1.5
    found, base = augment(crops, ColourParameters(**values), CPU), crops.float() / 255
    expected = torch.stack(
        [
            base[0].flip(-1),
            TF.rgb_to_grayscale(base[1], 3),
            TF.solarize(base[2], 128 / 255),
            TF.gaussian_blur(base[3], [11, 11], [1.5]),
        ]
    )
    expected = TF.normalize(expected, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_the_distribution_equals_torchvisions_pipeline() -> None:
    distribution = ColourDistribution(blur_probability=0.5, blur_sigma_px=(0.1, 1.0), solarise_probability=0.2)
    count = 1500
    one = (images(1, 16) * 255).to(torch.uint8)
    draws = [draw_colours(distribution, np.random.default_rng([7, index])) for index in range(count)]
    parameters = ColourParameters(*(torch.tensor(column) for column in zip(*draws)))
    ours = augment(one.expand(count, -1, -1, -1), parameters, CPU)
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(7, (0.1, 1.0))], p=0.5),
            v2.RandomSolarize(128 / 255, 0.2),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([pipeline(one[0]) for _ in range(count)])
    # Statistics of 1,500 draws, whose standard errors are about 0.02.
    for statistic in (torch.mean, torch.std):
        assert statistic(ours).item() == pytest.approx(statistic(theirs).item(), abs=0.06)
    ours_means, theirs_means = ours.mean(dim=(2, 3)), theirs.mean(dim=(2, 3))
    torch.testing.assert_close(ours_means.mean(0), theirs_means.mean(0), atol=0.08, rtol=0)
    torch.testing.assert_close(ours_means.std(0), theirs_means.std(0), atol=0.08, rtol=0)
    torch.testing.assert_close(ours.std(dim=(2, 3)).mean(0), theirs.std(dim=(2, 3)).mean(0), atol=0.05, rtol=0)


def test_chances_are_obeyed() -> None:
    distribution = ColourDistribution(solarise_probability=0.2, blur_probability=0.1)
    draws = [draw_colours(distribution, np.random.default_rng(index)) for index in range(4000)]
    shares = {
        "flip": (np.mean([draw.flip for draw in draws]), 0.5),
        "gray": (np.mean([draw.gray for draw in draws]), 0.2),
        "solarise": (np.mean([draw.solarise for draw in draws]), 0.2),
        "blur": (np.mean([draw.blur_sigma_px > 0 for draw in draws]), 0.1),
        "jitter": (np.mean([draw.brightness != 1 for draw in draws]), 0.8),
    }
    for name, (found, expected) in shares.items():
        assert found == pytest.approx(expected, abs=0.03), name
    assert all((draw.hue != 0) == (draw.brightness != 1) for draw in draws), "all four change together or none"
    hues = np.array([draw.hue for draw in draws])
    assert hues.min() == pytest.approx(-0.1, abs=0.001)
    assert hues.max() == pytest.approx(0.1, abs=0.001)
    assert len({draw.jitter_order for draw in draws}) == 24
