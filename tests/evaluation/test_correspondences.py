import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.discovery_fractions import count_pairs, covered_class, expected_pair, top_pairs

from orl.datasets.labels import LabelledSplit
from orl.evaluation import correspondences as module
from orl.evaluation.correspondences import roi_classes, top_ranked
from orl.evaluation.pair_sizes import SIZE_GROUPS, area_fractions, size_groups, size_matched_outcomes

CAT, DOG = 0, 1
LEFT, RIGHT, CORNER = (0, 0, 40, 40), (60, 0, 100, 40), (0, 90, 10, 100)
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def score_correspondences(split, names, rois, pairs, **options):
    """Score pairs of images of 100 x 100 px."""
    sizes = {"sizes_wh": [(100, 100)] * len(names)}
    return module.score_correspondences(split, names, rois, pairs, **{**sizes, **options})


def labelled(objects, names=NAMES, difficult=False):
    """A split of images with the given (box, class) objects."""
    boxes = tuple(np.array([box for box, _ in each], dtype=np.float32).reshape(-1, 4) for each in objects)
    classes = tuple(np.array([index for _, index in each], dtype=np.int64) for each in objects)
    return LabelledSplit(
        root=Path("images"),
        names=names,
        classes=("cat", "dog"),
        labels=np.ones((len(names), 2), dtype=np.int8),
        boxes=boxes,
        box_classes=classes,
        box_difficult=tuple(np.full(len(each), difficult) for each in objects),
    )


def roi_table(*rois):
    return {
        "image_id": np.array([image_id for image_id, _ in rois], dtype=np.int32),
        "box": np.array([box for _, box in rois], dtype=np.float32).reshape(-1, 4),
    }


def pair_table(*pairs):
    image_ids, neighbour_ids, rois, neighbour_rois, similarities = zip(*pairs)
    return {
        "image_id": np.array(image_ids, dtype=np.int32),
        "neighbour_id": np.array(neighbour_ids, dtype=np.int32),
        "roi": np.array(rois, dtype=np.int64),
        "neighbour_roi": np.array(neighbour_rois, dtype=np.int64),
        "similarity": np.array(similarities, dtype=np.float32),
    }


SPLIT = labelled([[(LEFT, CAT), (RIGHT, DOG)], [(LEFT, CAT)], [(RIGHT, DOG)]])
# RoIs 0-2 on a cat, a dog and nothing; 3, 4 on a cat and nothing; 5, 6 on nothing and a dog (IoU 3/4).
ROIS = roi_table((0, LEFT), (0, RIGHT), (0, CORNER), (1, LEFT), (1, CORNER), (2, CORNER), (2, (60, 0, 100, 30)))
PAIRS = pair_table(
    (0, 1, 0, 3, 0.9),  # cat, cat: top
    (0, 1, 0, 4, 0.8),
    (0, 2, 2, 5, 0.1),
    (0, 2, 1, 6, 0.7),  # dog, dog: top
    (1, 0, 3, 1, 0.5),  # cat, dog: top
    (2, 1, 5, 3, 0.6),  # nothing, cat: top
)


def test_the_score_of_three_images_is_that_computed_by_hand():
    score = score_correspondences(SPLIT, NAMES, ROIS, PAIRS)
    assert (score.top.num_pairs, score.top.object_fraction, score.top.both_fraction) == (4, 3 / 4, 2 / 4)
    assert score.top.same_class_fraction == 2 / 3
    assert (score.kept.num_pairs, score.kept.object_fraction, score.kept.both_fraction) == (6, 3 / 6, 2 / 6)
    assert score.random.num_pairs == 4
    assert score.roi_object_fraction == 4 / 7
    assert (score.num_images, score.num_images_without_labels, score.num_pairs_without_labels) == (3, 0, 0)


def test_rois_cover_the_object_of_highest_iou_if_it_reaches_the_threshold():
    split = labelled([[((0, 0, 10, 10), CAT), ((0, 0, 10, 20), DOG)]], names=NAMES[:1])
    rois = roi_table((0, (0, 0, 10, 12)), (0, (0, 0, 10, 18)), (0, (0, 0, 5, 10)), (0, (0, 0, 4, 10)))
    classes, has_labels = roi_classes(split, NAMES[:1], rois, 0.5)
    assert classes.tolist() == [CAT, DOG, CAT, -1]
    assert has_labels.tolist() == [True]


def test_difficult_objects_can_be_covered():
    difficult = labelled([[(LEFT, CAT), (RIGHT, DOG)], [(LEFT, CAT)], [(RIGHT, DOG)]], difficult=True)
    assert score_correspondences(difficult, NAMES, ROIS, PAIRS) == score_correspondences(SPLIT, NAMES, ROIS, PAIRS)


def test_rois_of_an_image_without_objects_cover_none():
    split = labelled([[(LEFT, CAT)], [], []])
    score = score_correspondences(split, NAMES, ROIS, PAIRS)
    assert score.top.object_fraction == score.random.object_fraction == 0
    assert score.top.same_class_fraction is None
    assert score.lift is None
    assert score.intervals["same_class_fraction"] is None
    assert score.intervals["object_fraction"] == (0, 0)


def test_images_without_labels_are_left_out_and_counted():
    split = labelled([[(LEFT, CAT), (RIGHT, DOG)], [(LEFT, CAT)]], names=("a.jpg", "b.jpg"))
    score = score_correspondences(split, NAMES, ROIS, PAIRS)
    assert (score.num_images, score.num_images_without_labels, score.num_pairs_without_labels) == (2, 1, 3)
    assert (score.top.num_pairs, score.top.object_fraction, score.top.both_fraction) == (2, 1, 1 / 2)
    assert score.roi_object_fraction == 3 / 5


def test_labels_are_found_by_name_in_any_order():
    shuffled = labelled([[(RIGHT, DOG)], [(LEFT, CAT), (RIGHT, DOG)], [(LEFT, CAT)]], names=("c.jpg", "a.jpg", "b.jpg"))
    assert (
        score_correspondences(shuffled, NAMES, ROIS, PAIRS).top == score_correspondences(SPLIT, NAMES, ROIS, PAIRS).top
    )


def test_random_pairs_repeat_with_their_seed_and_change_with_it():
    scores = [score_correspondences(SPLIT, NAMES, ROIS, PAIRS, seed=seed) for seed in (0, 0, *range(1, 8))]
    assert scores[0] == scores[1]
    assert len({score.random.both_fraction for score in scores}) > 1
    assert len({score.top for score in scores}) == 1


def test_random_pairs_are_uniform_over_the_rois_of_the_same_two_images():
    """In image a 1 of 3 RoIs is on the cat, in image b 1 of 2: of many random pairs 1/6 match."""
    split = labelled([[(LEFT, CAT)], [(LEFT, CAT)], []])
    num_copies = 3000
    names = tuple(f"{index}.jpg" for index in range(2 * num_copies))
    split = labelled([[(LEFT, CAT)]] * len(names), names=names)
    rois = roi_table(
        *[
            (index, box)
            for index in range(len(names))
            for box in ((LEFT, CORNER, RIGHT) if index % 2 == 0 else (CORNER, LEFT))
        ]
    )
    pairs = pair_table(*[(index, index + 1, 0, 0, 1.0) for index in range(0, len(names), 2)])
    score = score_correspondences(split, names, rois, pairs)
    assert score.random.num_pairs == num_copies
    # Four standard deviations of a share of 3,000 draws.
    assert abs(score.random.both_fraction - 1 / 6) < 4 * np.sqrt(1 / 6 * 5 / 6 / num_copies)


def test_intervals_have_the_width_of_a_binomial_fraction():
    num_images = 400
    names = tuple(f"{index:03}.jpg" for index in range(num_images))
    split = labelled([[(LEFT, CAT)]] * num_images, names=names)
    rois = roi_table(*[(index, LEFT if index % 4 else CORNER) for index in range(num_images)])
    pairs = pair_table(*[(index, 1, index, 1, 1.0) for index in range(num_images) if index != 1])
    low, high = score_correspondences(split, names, rois, pairs).intervals["object_fraction"]
    assert low < 0.75 < high
    expected = 2 * 1.96 * np.sqrt(0.75 * 0.25 / num_images)
    # The bootstrap's quantiles of 1,000 draws scatter by about 5%.
    assert high - low == pytest.approx(expected, rel=0.2)


def test_lift_is_the_ratio_of_the_two_fractions():
    scores = [score_correspondences(SPLIT, NAMES, ROIS, PAIRS, seed=seed) for seed in range(8)]
    with_a_match = [score for score in scores if score.random.both_fraction > 0]
    assert with_a_match
    for score in with_a_match:
        assert score.lift == (2 / 4) / score.random.both_fraction


def test_identical_pairs_and_random_pairs_have_a_lift_of_one():
    rois = roi_table((0, LEFT), (1, LEFT), (2, RIGHT))
    score = score_correspondences(SPLIT, NAMES, rois, pair_table((0, 1, 0, 1, 0.5), (1, 0, 1, 0, 0.5)))
    assert score.top == score.random == score.kept
    assert score.lift == 1
    assert score.intervals["lift"] == (1, 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.3, 0.5, 0.75)))
def test_fractions_equal_a_loop_over_pairs(seed, threshold):
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 20, size=(4, 8, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 30, size=corners.shape)], axis=2)
    objects = [[(boxes[i, j].tolist(), int(generator.integers(2))) for j in range(3)] for i in range(4)]
    names = ("a", "b", "c", "d")
    rois = roi_table(*[(i, boxes[i, j]) for i in range(4) for j in range(2, 8)])
    rows = [(i, (i + step) % 4) for i in range(4) for step in (1, 2) for _ in range(3)]
    pairs = pair_table(
        *[(i, n, 6 * i + generator.integers(6), 6 * n + generator.integers(6), generator.integers(4)) for i, n in rows]
    )
    score = score_correspondences(labelled(objects, names), names, rois, pairs, iou_threshold=threshold)
    listed = [
        (int(i), rois["box"][roi].tolist(), int(n), rois["box"][other].tolist())
        for i, n, roi, other in zip(*[pairs[key] for key in ("image_id", "neighbour_id", "roi", "neighbour_roi")])
    ]
    top = top_pairs(list(zip(pairs["image_id"].tolist(), pairs["neighbour_id"].tolist(), pairs["similarity"])))
    for found, chosen in ((score.kept, listed), (score.top, [listed[row] for row in top])):
        num_pairs, num_objects, num_same = count_pairs(chosen, objects, threshold)
        assert (found.num_pairs, found.object_fraction) == (num_pairs, num_objects / num_pairs)
        assert found.both_fraction == num_same / num_pairs
        assert found.same_class_fraction == (num_same / num_objects if num_objects else None)
    covered = [covered_class(rois["box"][row].tolist(), objects[row // 6], threshold) for row in range(24)]
    assert score.roi_object_fraction == sum(each is not None for each in covered) / 24

    expected = []
    for row in top:
        i, n = int(pairs["image_id"][row]), int(pairs["neighbour_id"][row])
        own, other = [rois["box"][6 * k : 6 * k + 6].tolist() for k in (i, n)]
        chosen = int(pairs["roi"][row]) - 6 * i, int(pairs["neighbour_roi"][row]) - 6 * n
        expected.append(expected_pair(own, covered[6 * i : 6 * i + 6], other, covered[6 * n : 6 * n + 6], chosen))
    objects_expected, same_expected = np.mean(expected, axis=0)
    assert score.size_matched.object_fraction == pytest.approx(objects_expected)
    assert score.size_matched.both_fraction == pytest.approx(same_expected)
    assert sum(group.num_pairs for group in score.by_size.values()) == len(top)
    assert sum((group.size_matched_both_fraction or 0) * group.num_pairs for group in score.by_size.values()) == (
        pytest.approx(sum(same for _, same in expected))
    )


def test_a_matcher_that_only_prefers_large_boxes_has_a_size_matched_lift_of_one():
    # In each image a large RoI on a cat, and five small ones on nothing: the large pair is of one class.
    large, small = (0, 0, 60, 60), [(80, 10 * row, 90, 10 * row + 10) for row in range(5)]
    split = labelled([[((0, 0, 60, 60), CAT)]] * 3)
    rois = roi_table(*[(i, box) for i in range(3) for box in (large, *small)])
    pairs = pair_table(*[(i, (i + step) % 3, 6 * i, 6 * ((i + step) % 3), 0.9) for i in range(3) for step in (1, 2)])
    score = score_correspondences(split, NAMES, rois, pairs)
    assert score.top.both_fraction == 1
    # Of random pairs 1 in 36 is of the large boxes, so of six pairs often none.
    lifts = [score_correspondences(split, NAMES, rois, pairs, seed=seed).lift for seed in range(20)]
    assert min(lift for lift in lifts if lift is not None) > 1
    assert score.size_matched_lift == 1
    assert score.intervals["size_matched_lift"] == (1, 1)
    groups = {name: group.num_pairs for name, group in score.by_size.items()}
    assert groups == dict(zip(SIZE_GROUPS, (0, 0, 6)))
    assert score.by_size[SIZE_GROUPS[0]].size_matched_lift is None


def test_a_matcher_that_knows_classes_beats_pairs_of_the_same_sizes():
    # Two equal RoIs an image, on a cat and on a dog: of four pairs of the same sizes two are of one class.
    split = labelled([[(LEFT, CAT), (RIGHT, DOG)]] * 3)
    rois = roi_table(*[(i, box) for i in range(3) for box in (LEFT, RIGHT)])
    score = score_correspondences(
        split, NAMES, rois, pair_table((0, 1, 0, 2, 0.9), (1, 2, 3, 5, 0.8), (2, 0, 4, 0, 0.7))
    )
    assert score.size_matched.both_fraction == 1 / 2
    assert score.size_matched_lift == 2
    assert score.by_size[SIZE_GROUPS[1]].size_matched_lift == 2


def test_of_rois_of_one_size_the_size_matched_expectation_is_that_over_all_pairs():
    # Image 0 has cat, dog, nothing; image 1 cat, nothing, nothing: one pair in nine is of cats, two cover objects.
    nothing = [(0, 60, 40, 100), (60, 60, 100, 100)]
    split = labelled([[(LEFT, CAT), (RIGHT, DOG)], [(LEFT, CAT)]], NAMES[:2])
    rois = roi_table(*[(0, box) for box in (LEFT, RIGHT, nothing[0])], *[(1, box) for box in (LEFT, *nothing)])
    for pair in ((0, 3), (2, 5), (1, 4)):
        score = score_correspondences(split, NAMES[:2], rois, pair_table((0, 1, *pair, 0.9)))
        assert score.size_matched.object_fraction == pytest.approx(2 / 9)
        assert score.size_matched.both_fraction == pytest.approx(1 / 9)


def test_only_rois_of_half_to_twice_the_area_are_of_the_same_size():
    # Areas of 800, 400 and 1600 px are of the same size as 800; 399 and 1601 px are not.
    sides = [(40, 20), (20, 20), (40, 40), (21, 19), (1601 / 40, 40)]
    own = [(0, 0, *side) for side in sides]
    classes, fractions = (
        np.array([CAT, CAT, DOG, DOG, DOG, CAT]),
        area_fractions(np.array([*own, (0, 0, 30, 30)], dtype=np.float32), np.full((6, 2), (70, 90))),
    )
    found = size_matched_outcomes(np.array([[0, 5]]), np.array([[0, 5, 5, 6]]), classes, fractions)
    assert found[0].tolist() == pytest.approx([1, 1, 2 / 3])


def test_the_size_of_a_pair_is_the_geometric_mean_of_its_boxes_fractions():
    first, second = np.array([0.05, 0.05, 0.1, 0.3, 0.9, 0.2]), np.array([0.05, 0.21, 0.1, 0.3, 0.09, 0.8])
    assert size_groups(first, second).tolist() == [0, 1, 1, 2, 1, 2]


@pytest.mark.parametrize("block_pairs", [1, 3, 100])
def test_blocks_of_pairs_and_their_order_change_nothing(block_pairs, monkeypatch):
    generator = np.random.default_rng(5)
    classes, fractions = generator.integers(-1, 3, 30), generator.uniform(0.01, 1, 30)
    images = generator.integers(0, 5, size=(11, 2))
    pairs = 6 * images + generator.integers(0, 6, size=(11, 2))
    rows = np.stack([6 * images[:, 0], 6 * images[:, 0] + 6, 6 * images[:, 1], 6 * images[:, 1] + 6], axis=1)
    complete = size_matched_outcomes(pairs, rows, classes, fractions)
    assert 0 < complete[:, 2].sum() < complete[:, 1].sum()
    order = generator.permutation(11)
    monkeypatch.setattr("orl.evaluation.pair_sizes.BLOCK_PAIRS", block_pairs)
    assert np.array_equal(size_matched_outcomes(pairs[order], rows[order], classes, fractions), complete[order])


def test_permuted_correspondences_have_the_same_size_matched_lifts():
    score = score_correspondences(SPLIT, NAMES, ROIS, PAIRS)
    order = np.random.default_rng(1).permutation(len(PAIRS["roi"]))
    again = score_correspondences(SPLIT, NAMES, ROIS, {name: column[order] for name, column in PAIRS.items()})
    assert again.size_matched == score.size_matched
    assert again.by_size == score.by_size


def test_the_summary_names_the_size_matched_lift_first_and_missing_lifts_as_unknown():
    # All RoIs are small or middle-sized: there is no pair of large boxes.
    score = score_correspondences(SPLIT, NAMES, ROIS, PAIRS)
    text = score.summary()
    assert text.startswith("50.00% of the best pairs join objects of one class: size-matched lift 1.33")
    assert "unknown (boxes above 30%)" in text


def test_pairs_are_ranked_by_their_score_where_they_have_one():
    columns = {**PAIRS, "score": -PAIRS["similarity"]}
    assert top_ranked(PAIRS).tolist() != top_ranked(columns).tolist()
    assert top_ranked({**PAIRS, "score": 2 * PAIRS["similarity"]}).tolist() == top_ranked(PAIRS).tolist()


def test_of_equally_similar_pairs_the_first_is_top_ranked():
    pairs = pair_table((1, 0, 3, 0, 0.5), (0, 1, 0, 3, 0.5), (0, 1, 1, 3, 0.5), (0, 1, 2, 3, 0.4))
    assert top_ranked(pairs).tolist() == [1, 0]


def test_no_pair_between_labelled_images_is_refused_with_both_kinds_of_names():
    split = labelled([[(LEFT, CAT)]], names=("JPEGImages/a.jpg",))
    with pytest.raises(ValueError, match=r"0 of 6 .* 0 of 3 images have labels; .*'a.jpg'.*'JPEGImages/a.jpg'"):
        score_correspondences(split, NAMES, ROIS, PAIRS)


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(ValueError, match=f"IoU threshold is {threshold}"):
        score_correspondences(SPLIT, NAMES, ROIS, PAIRS, iou_threshold=threshold)


@pytest.mark.parametrize(
    ("rois", "pairs", "message"),
    [
        (ROIS, pair_table((0, 1, 0, 7, 0.5)), "name RoI 7, but there are 7"),
        (ROIS, pair_table((0, 3, 0, 3, 0.5)), "name image 3, but there are 3"),
        (roi_table((5, LEFT)), PAIRS, "RoI table names image 5, but there are 3"),
    ],
)
def test_tables_of_different_runs_are_refused(rois, pairs, message):
    with pytest.raises(ValueError, match=message):
        score_correspondences(SPLIT, NAMES, rois, pairs)


def test_the_score_is_json_with_the_top_ranked_pairs_first():
    fields = json.loads(json.dumps(score_correspondences(SPLIT, NAMES, ROIS, PAIRS).to_json(), allow_nan=False))
    assert fields["num_pairs"] == fields["random_num_pairs"] == 4
    assert fields["object_fraction"] == 3 / 4
    assert fields["kept_both_fraction"] == 2 / 6
    assert fields["object_fraction_interval_95"][0] <= 3 / 4 <= fields["object_fraction_interval_95"][1]
