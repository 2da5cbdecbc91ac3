"""Objects of a drawn devkit as images in class folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl import provenance
from orl.datasets.class_folders import read_train_val
from orl.pipeline.object_crops import cut_objects, widen

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """One image a split, of three or two classes, one difficult object and one small one."""
    root = tmp_path / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    objects = [("cat", 0, 11, 21, 50, 60), ("dog", 0, 1, 1, 30, 40), ("cat", 1, 1, 1, 60, 60), ("dog", 0, 1, 1, 9, 60)]
    for split, name, own in (
        ("trainval", "p1", [*objects, ("cow", 0, 1, 1, 50, 50)]),
        ("test", "p2", objects),
    ):
        pixels = np.random.default_rng(len(own)).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
        text = "".join(OBJECT.format(*each) for each in own)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
        (root / "ImageSets/Main" / f"{split}.txt").write_text(f"{name}\n")
    return root


def test_objects_become_images_of_their_class(devkit: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    # The cow is in one split only, the third object is difficult, the fourth is 9 px wide.
    assert cut_objects(devkit, out, quiet=True) == {"train": 2, "val": 2, "classes": 2, "unreadable": 0}
    train, val = read_train_val(out, "folder")
    assert train.names == ("cat/p1_0.png", "dog/p1_1.png")
    assert val.names == ("cat/p2_0.png", "dog/p2_1.png")
    image = np.array(Image.open(devkit / "JPEGImages" / "p1.png"))
    # VOC counts from 1 and includes the last pixel.
    np.testing.assert_array_equal(np.array(Image.open(train.paths[0])), image[20:60, 10:50])
    np.testing.assert_array_equal(np.array(Image.open(train.paths[1])), image[0:40, 0:30])


def test_a_margin_widens_every_side_up_to_the_image(devkit: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(widen(np.array([10, 20, 50, 60], np.float32), 0.1), [6, 16, 54, 64])
    cut_objects(devkit, tmp_path / "crops", margin=0.1, quiet=True)
    image = np.array(Image.open(devkit / "JPEGImages" / "p1.png"))
    found = np.array(Image.open(tmp_path / "crops" / "train" / "dog" / "p1_1.png"))
    np.testing.assert_array_equal(found, image[0:44, 0:33])


def test_a_killed_run_resumes(devkit: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    cut_objects(devkit, out, quiet=True)
    lost, kept = out / "train" / "cat" / "p1_0.png", out / "val" / "cat" / "p2_0.png"
    content, before = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    assert cut_objects(devkit, out, quiet=True)["train"] == 2
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == before


def test_unreadable_images_are_reported(devkit: Path, tmp_path: Path) -> None:
    (devkit / "JPEGImages" / "p2.png").write_bytes(b"")
    out = tmp_path / "crops"
    assert cut_objects(devkit, out, quiet=True) == {"train": 2, "val": 0, "classes": 2, "unreadable": 1}
    assert json.loads((out / "crops.json").read_text())["unreadable_images"] == {"JPEGImages/p2.png": "empty: 0 bytes"}


def test_an_object_outside_its_image_rejects_all_crops_of_the_image(devkit: Path, tmp_path: Path) -> None:
    path = devkit / "Annotations" / "p2.xml"
    path.write_text(
        path.read_text().replace("</annotation>", OBJECT.format("cat", 0, 300, 1, 340, 50) + "</annotation>")
    )
    out = tmp_path / "crops"
    assert cut_objects(devkit, out, quiet=True) == {"train": 2, "val": 0, "classes": 2, "unreadable": 1}
    assert "outside its image of 100x80" in (out / "crops.json").read_text()
    assert not list(out.glob("val/*/*.png"))


def test_changed_images_or_boxes_make_the_crops_stale(devkit: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "crops", devkit / "Annotations" / "p2.xml"
    cut_objects(devkit, out, quiet=True)
    path.write_text(path.read_text().replace("<xmin>11</xmin>", "<xmin>12</xmin>"))
    with pytest.raises(provenance.StaleResultError, match="images"):
        cut_objects(devkit, out, quiet=True)
    assert cut_objects(devkit, out, overwrite=True, quiet=True)["val"] == 2
    Image.new("RGB", (100, 80)).save(devkit / "JPEGImages" / "p2.png")
    with pytest.raises(provenance.StaleResultError, match="images"):
        cut_objects(devkit, out, quiet=True)
    (devkit / "JPEGImages" / "p2.png").unlink()
    with pytest.raises(
        ValueError, match=r"for 'val' of .* lists 1 images, of which 1 do not exist .*such as JPEGImages/p2\.jpg"
    ):
        cut_objects(devkit, out, quiet=True)


def test_data_without_objects_to_cut_are_refused(devkit: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    with pytest.raises(ValueError, match="of 0 classes only"):
        cut_objects(devkit, out, min_side_px=70, quiet=True)
    with pytest.raises(ValueError, match="min_side_px is 0"):
        cut_objects(devkit, out, min_side_px=0, quiet=True)
    with pytest.raises(ValueError, match="both 'test'"):
        cut_objects(devkit, out, train_split="test", quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ValueError, match="which orl did not write"):
        cut_objects(devkit, tmp_path / "mine", quiet=True)
    cut_objects(devkit, out, quiet=True)
    with pytest.raises(provenance.StaleResultError, match="margin: was 0"):
        cut_objects(devkit, out, margin=0.2, quiet=True)
