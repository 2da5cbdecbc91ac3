import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orl.datasets.sources import find_images, read_labels


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40)).save(path)
    return path


def test_a_folder_tree_gives_its_images_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.JPG", "deep/er/a.png", "deep/c d.jpeg"):
        image(tmp_path / name)
    for name in ("notes.txt", "labels.json", ".hidden.jpg", ".cache/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == (tmp_path, ["b.JPG", "deep/c d.jpeg", "deep/er/a.png"])
    assert read_labels(tmp_path) is None


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    image(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert find_images(tmp_path)[1] == ["a/x.png"]


def test_a_list_file_names_images_relative_to_itself(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / "y.png"
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "mine.txt"
    listed.write_text(f"# mine\n../a/x.png\n\n{outside}\n../a/x.png\n")
    root, names = find_images(listed)
    assert [root / name for name in names] == [tmp_path / "a" / "x.png", outside]


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        ("b c.png 3\na.png 0\n", "the labels of 2 lines, such as '3' of b c.png, are not used"),
        ("b c.png\tcat\na.png\tdog\n", "the labels of 2 lines, such as 'cat' of b c.png"),
        ("b c.png,0\na.png,12\n", "the labels of 2 lines, such as '0' of b c.png"),
        ('"b c.png",0\n"a.png",12\n', "the labels of 2 lines"),
        ("\"b c.png\"\n'a.png'\n", ""),
        ("b c.png\na.png 1 0 1\n", "the labels of 1 lines, such as '1 0 1' of a.png"),
        ("b c.png\n.\\a.png\n", "the backslashes of 1 names are read as slashes"),
    ],
)
def test_labels_and_quotes_in_a_list_are_recognised_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: str, note: str
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "mine.txt").write_text(lines)
    assert find_images(tmp_path / "mine.txt") == (tmp_path, ["a.png", "b c.png"])
    assert note in caplog.text
    assert bool(caplog.text) == bool(note)


def test_thumbnails_runs_and_unread_kinds_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    image(tmp_path / "a.png")
    # The layouts of a Synology share, of GNOME's and of QNAP's thumbnails.
    for name in ("@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", ".thumbnails/large/x.png", "deep/.@__thumb/default_x.jpg"):
        image(tmp_path / name)
    image(tmp_path / "runs" / "mine" / "report" / "figure.png")
    for name in ("run.json", "images.parquet"):
        (tmp_path / "runs" / "mine" / name).touch()
    image(tmp_path / "new" / "figure.png")
    for name in ("x.HEIC", "deep/y.heic", "z.cr2", "._w.heic"):
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path, out=tmp_path / "new") == (tmp_path, ["a.png"])
    assert "1 images; left out: 3 images of kinds that orl does not read (2 .heic, 1 .cr2): convert" in caplog.text
    assert "5 folders of thumbnails or of runs (.thumbnails, @eaDir, " in caplog.text
    assert find_images(tmp_path / "runs" / "mine")[1] == ["report/figure.png"], "a run given by name is read"


def test_a_folder_of_unread_kinds_alone_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no images, .*1 images of kinds .*\(1 \.heic\): convert them to JPEG"):
        find_images(tmp_path)


def test_the_folder_of_images_is_refused_as_output(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"--out is .*the folder of the images"):
        find_images(tmp_path, out=tmp_path / "x" / "..")


def coco(tmp_path: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | changes))
    for name in ("a.png", "b.png"):
        image(tmp_path / "train2017" / name)
    return path


def test_a_coco_json_finds_its_images_and_labels(tmp_path: Path) -> None:
    path = coco(tmp_path)
    assert find_images(path) == (tmp_path / "train2017", ["a.png", "b.png"])
    labels = read_labels(path)
    assert labels is not None
    assert labels.names == ("a.png", "b.png")
    assert labels.classes == ("cat", "dog")
    assert labels.labels.tolist() == [[-1, -1], [0, 1]]
    assert labels.boxes[1].tolist() == [[1, 2, 11, 22], [0, 0, 5, 5]]
    assert labels.box_classes[1].tolist() == [1, 0]
    assert labels.box_difficult[1].tolist() == [False, True]


def entries(*names: str) -> list[dict[str, object]]:
    return [{"id": number, "file_name": name} for number, name in enumerate(names)]


def test_backslashes_of_a_coco_json_are_read_as_slashes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = coco(tmp_path, images=entries("train2017\\b.png", "train2017\\a.png"), annotations=[])
    assert find_images(path) == (tmp_path, ["train2017/a.png", "train2017/b.png"])
    assert "the backslashes of 2 names are read as slashes" in caplog.text


def test_an_absolute_name_in_a_coco_json_leaves_the_others_where_they_are(tmp_path: Path) -> None:
    inside = str(tmp_path / "train2017" / "b.png")
    path = coco(tmp_path, images=entries("a.png", inside), annotations=[])
    assert find_images(path) == (tmp_path / "train2017", ["a.png", "b.png"])
    outside = image(tmp_path / "elsewhere" / "c.png")
    path = coco(tmp_path, images=entries(str(outside), "a.png"), annotations=[])
    assert find_images(path) == (tmp_path, ["elsewhere/c.png", "train2017/a.png"])
    path = coco(tmp_path, images=entries(str(outside), inside), annotations=[])
    assert find_images(path) == (tmp_path, ["elsewhere/c.png", "train2017/b.png"])


def test_the_folder_with_most_images_of_a_coco_json_is_taken(tmp_path: Path) -> None:
    image(tmp_path / "annotations" / "a.png")
    assert find_images(coco(tmp_path))[0] == tmp_path / "train2017"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, float("nan"), 4], "'bbox' must be four numbers"),
        ([1, 2, float("inf"), 4], "'bbox' must be four numbers"),
        ([1, 2, 10**400, 4], "'bbox' must be four numbers"),
        ([1, 2, True, 4], "'bbox' must be four numbers"),
        ([1, 2, -3, 4], r"1 annotations with a width or height below 0, .*such as .*\[1, 2, -3, 4\]"),
        ([1, 2, 1e30, 4], "a box far outside of every image"),
        ([-1e300, 2, 3, 4], "a box far outside of every image"),
        ([1, 2, 0, 4], r"1 of 1 boxes of .*train2017.json have no area within their image.*b.png \[1.0, 2.0, 1.0"),
    ],
)
def test_a_box_that_cannot_be_is_refused(tmp_path: Path, box: list[float], message: str) -> None:
    path = coco(tmp_path, annotations=[{"image_id": 7, "category_id": 9, "bbox": box}])
    with pytest.raises(ValueError, match=message):
        read_labels(path)


def test_an_area_below_0_is_refused(tmp_path: Path) -> None:
    path = coco(tmp_path, annotations=[{"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4], "area": -1}])
    with pytest.raises(ValueError, match="'area' must be a number of 0 or more"):
        read_labels(path)


@pytest.mark.parametrize("odd", [[40, 0, 9, 9], [1, 2, 0, 5], [0, 0, 99, 9], [-50, 0, 60, 9]])
def test_a_few_boxes_outside_their_image_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: list[float]
) -> None:
    sized = [{"id": 3, "file_name": "a.png", "width": 40, "height": 40}]
    boxes = [[0, 0, 9, 9]] * 1000 + [odd]
    path = coco(tmp_path, images=sized, annotations=[{"image_id": 3, "category_id": 9, "bbox": box} for box in boxes])
    labels = read_labels(path)
    assert labels is not None
    assert labels.boxes[0].tolist() == [[0, 0, 9, 9]] * 1000
    assert len(labels.box_classes[0]) == len(labels.box_difficult[0]) == 1000
    assert "1 of 1001 boxes of" in caplog.text
    assert "first a.png" in caplog.text


def test_a_coco_json_without_annotations_is_a_source_without_labels(tmp_path: Path) -> None:
    path = coco(tmp_path, annotations=[])
    assert len(find_images(path)[1]) == 2
    assert read_labels(path) is None


VOC_XML = """<annotation><object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>3</xmin><ymin>1</ymin><xmax>12</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def voc(tmp_path: Path, with_lists: bool = True) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for name, class_name, difficult in (("000001", "cat", 0), ("000002", "train", 1), ("000003", "cat", 1)):
        image(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(VOC_XML.format(name=class_name, difficult=difficult))
    (lists / "trainval.txt").write_text("000001\n000002\n")
    (lists / "train.txt").write_text("000001\n")
    (lists / "test.txt").write_text("000003\n")
    if with_lists:
        (lists / "cat_trainval.txt").write_text("000001  1\n000002 -1\n")
        (lists / "train_trainval.txt").write_text("000001 -1\n000002  0\n")
        (lists / "cat_test.txt").write_text("000003  0\n")
        (lists / "train_test.txt").write_text("000003 -1\n")
    return folder


@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_voc_devkit_is_found_from_above_and_gives_trainval(tmp_path: Path, above: int) -> None:
    folder = voc(tmp_path)
    source = [folder, folder.parent, folder.parent.parent][above]
    assert find_images(source) == (folder, ["JPEGImages/000001.jpg", "JPEGImages/000002.jpg"])
    assert find_images(source, "test")[1] == ["JPEGImages/000003.jpg"]
    assert find_images(source, "train")[1] == ["JPEGImages/000001.jpg"], "the split, not the class of that name"


@pytest.mark.parametrize("with_lists", [True, False])
def test_voc_labels_are_one_minus_one_and_zero_from_lists_or_annotations(tmp_path: Path, with_lists: bool) -> None:
    folder = voc(tmp_path, with_lists)
    labels = read_labels(folder)
    assert labels is not None
    assert labels.classes == ("cat", "train")
    assert labels.labels.tolist() == [[1, -1], [-1, 0]]
    assert labels.box_difficult[1].tolist() == [True]
    # XML counts from 1 and includes the last pixel.
    assert labels.boxes[0].tolist() == [[2, 0, 12, 20]]


def test_other_files_beside_the_images_of_a_devkit_are_not_taken_for_them(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    for name in ("000001.json", "000002.png", "000001.mask.png", "._000001.jpg"):
        (folder / "JPEGImages" / name).write_bytes(b"")
    # AppleDouble files, which macOS writes on foreign disks: 4 bytes of magic number, then binary data.
    for name in ("ImageSets/Main/._trainval.txt", "ImageSets/Main/._cat_trainval.txt", "Annotations/._000001.xml"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07\xff\xfe")
    assert find_images(folder) == (folder, ["JPEGImages/000001.jpg", "JPEGImages/000002.jpg"])
    for path in (folder / "ImageSets" / "Main").glob("[!.]*_*.txt"):
        path.unlink()
    labels = read_labels(folder)
    assert labels is not None
    assert (labels.classes, labels.labels.tolist()) == (("cat", "train"), [[1, -1], [-1, 0]])


def test_image_ids_of_a_devkit_may_have_blanks_and_its_lists_tabs(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    lists = folder / "ImageSets" / "Main"
    for old, new in (("000001", "my cat 1"), ("000002", "my train")):
        (folder / "JPEGImages" / f"{old}.jpg").rename(folder / "JPEGImages" / f"{new}.jpg")
        (folder / "Annotations" / f"{old}.xml").rename(folder / "Annotations" / f"{new}.xml")
    (lists / "trainval.txt").write_text("my cat 1\nmy train  1\n")
    (lists / "cat_trainval.txt").write_text("my cat 1\t1\nmy train\t-1\n")
    (lists / "train_trainval.txt").write_text("my cat 1 -1\nmy train  0\n")
    labels = read_labels(folder)
    assert labels is not None
    assert labels.names == ("JPEGImages/my cat 1.jpg", "JPEGImages/my train.jpg")
    assert labels.labels.tolist() == [[1, -1], [-1, 0]]
    assert [len(each) for each in labels.boxes] == [1, 1]


def test_a_split_whose_name_ends_in_that_of_another_hides_neither(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    lists = folder / "ImageSets" / "Main"
    (lists / "my_trainval.txt").write_text("000002\n")
    (lists / "cat_my_trainval.txt").write_text("000002 0\n")
    labels, mine = read_labels(folder), read_labels(folder, "my_trainval")
    assert labels is not None
    assert mine is not None
    assert (labels.classes, labels.labels.tolist()) == (("cat", "train"), [[1, -1], [-1, 0]])
    assert (mine.classes, mine.labels.tolist()) == (("cat", "train"), [[0, 0]])


def test_objects_are_found_in_xml_with_a_default_namespace(tmp_path: Path) -> None:
    folder = voc(tmp_path, with_lists=False)
    path = folder / "Annotations" / "000001.xml"
    path.write_text(path.read_text().replace("<annotation>", '<annotation xmlns="http://example.org/voc">'))
    labels = read_labels(folder)
    assert labels is not None
    assert labels.boxes[0].tolist() == [[2, 0, 12, 20]]
    assert labels.labels.tolist() == [[1, -1], [-1, 0]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>3<", "<xmin>nan<", r"000002\.xml is not a VOC annotation: the box of 'train' has xmin nan, ymin 1"),
        ("<xmax>12<", "<xmax>inf<", "the box of 'train' has xmin 3, ymin 1, xmax inf"),
        ("<xmax>12<", "<xmax>2<", "has xmin 3, ymin 1, xmax 2, ymax 20, which cannot be; repair or delete it"),
        ("<ymax>20<", "<ymax>1e300<", r"ymax 1e\+300, which cannot be"),
        ("<ymax>20<", "<ymax>2e6<", r"ymax 2e\+06, which cannot be"),
        ("<ymax>20<", "<ymax>twenty<", "could not convert string to float: 'twenty'"),
    ],
)
def test_a_voc_box_that_cannot_be_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = voc(tmp_path)
    path = folder / "Annotations" / "000002.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_labels(folder)


def test_a_voc_box_far_beyond_its_image_is_refused_where_the_size_is_known(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    path = folder / "Annotations" / "000002.xml"
    text = path.read_text().replace("<ymax>20<", "<ymax>700<")
    for size, is_known in (("", False), ("<size><width>0</width><height>0</height></size>", False), ("SIZE", True)):
        size = size.replace("SIZE", "<size><width>40</width><height>30</height></size>")
        path.write_text(text.replace("<object>", f"{size}<object>"))
        if not is_known:
            assert read_labels(folder) is not None
            continue
        with pytest.raises(ValueError, match=r"1 of 2 boxes of split 'trainval' .*far beyond it: first .*000002\.jpg"):
            read_labels(folder)


def test_the_real_devkit_has_its_published_numbers(real_data: Path) -> None:
    devkit = real_data / "voc07-small" / "VOC2007"
    for split in ("trainval", "test"):
        labels = read_labels(devkit, split)
        assert labels is not None
        assert len(labels) == 2250
        assert len(labels.classes) == 20
        # A class is present exactly where an object of it is not 'difficult', and ignored where all of it are.
        for row in range(0, 2250, 25):
            for column in range(20):
                difficult = labels.box_difficult[row][labels.box_classes[row] == column]
                expected = -1 if not len(difficult) else 0 if difficult.all() else 1
                assert labels.labels[row, column] == expected


def test_the_real_coco_images_are_found_with_boxes_inside_them(real_data: Path) -> None:
    path = real_data / "coco-mini" / "annotations" / "instances_val2017.json"
    root, names = find_images(path)
    labels = read_labels(path)
    assert labels is not None
    assert len(names) == 60
    assert len(labels.classes) == 80
    for name, boxes in zip(labels.names, labels.boxes):
        with Image.open(root / name) as opened:
            assert (boxes[:, 2:] <= np.array(opened.size) + 0.5).all()


@pytest.mark.parametrize(
    ("make", "split", "complaint"),
    [
        (lambda root: root / "nothing", None, "no images at .*nothing"),
        (lambda root: root, None, "has no images, only 0 other files"),
        (lambda root: image(root / "x.png").parent, "test", "has no split 'test'"),
        (lambda root: voc(root), "trainvla", "no split 'trainvla'.*did you mean 'trainval'"),
        (lambda root: coco(root, images=[]), None, "lists no image"),
        (lambda root: image(root / "x.png"), None, "is not a source of images"),
    ],
)
def test_an_unknown_source_is_refused_with_the_way_out(
    tmp_path: Path, make: object, split: str | None, complaint: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        find_images(make(tmp_path), split)


def test_a_near_name_is_suggested_for_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"did you mean .*/images\?"):
        find_images(tmp_path / "imgaes")


@pytest.mark.parametrize("text", ["{", "[]", '{"annotations": []}'])
def test_json_that_is_not_coco_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x.json is not (a COCO )?JSON"):
        find_images(tmp_path / "x.json")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="lists no image in its"):
        find_images(tmp_path / "x.txt")


def test_a_damaged_annotation_is_named(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    (folder / "Annotations" / "000002.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"000002.xml is not a VOC annotation"):
        read_labels(folder)
