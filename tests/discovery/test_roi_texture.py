"""Texture of RoIs against loops over pixels."""

import numpy as np

from orl.discovery.roi_texture import has_texture, roi_textures


def test_contrast_and_edges_equal_loops_over_the_pixels() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (12, 15, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 15, 12], [2.4, 3, 7, 8.6], [14, 11, 15, 12], [3, 2, 4, 9]], dtype=np.float32)
    for (left, top, right, bottom), (contrast, edges) in zip(boxes, roi_textures(image, boxes)):
        greys, differences = [], []
        for y in range(int(np.floor(top)), int(np.ceil(bottom))):
            for x in range(int(np.floor(left)), int(np.ceil(right))):
                grey = {
                    (j, i): (0.299 * image[j, i, 0] + 0.587 * image[j, i, 1] + 0.114 * image[j, i, 2]) / 255
                    for j, i in ((y, x), (max(y - 1, 0), x), (y, max(x - 1, 0)))
                }
                greys.append(grey[y, x])
                across = abs(grey[y, x] - grey[y, max(x - 1, 0)])
                down = abs(grey[y, x] - grey[max(y - 1, 0), x])
                differences.append((across + down) / 2)
        np.testing.assert_allclose(contrast, np.std(greys), atol=1e-6)
        np.testing.assert_allclose(edges, np.mean(differences), atol=1e-6)


def test_a_plain_surface_and_a_smooth_sky_have_no_texture_and_noise_has() -> None:
    plain = np.full((40, 60, 3), 200, dtype=np.uint8)
    sky = np.repeat(np.linspace(120, 200, 60)[None, :, None], 40, axis=0).repeat(3, axis=2).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    box = np.array([[5, 5, 50, 35]], dtype=np.float32)
    found = [bool(has_texture(roi_textures(image, box))[0]) for image in (plain, sky, noise)]
    assert found == [False, False, True]
