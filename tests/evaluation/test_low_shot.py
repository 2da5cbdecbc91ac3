import json
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from tests.reference.average_precision import average_precision_by_thresholds

from orl.evaluation.low_shot import SHOTS, check_shots, fixed_cost, sample_labels, score_low_shot
from orl.evaluation.newton_svm import fit_svms

CLASSES = ("cat", "dog", "bird")
COSTS = (1.0, 10.0, 0.5**4, 0.5**8)


def problem(num_images=120, seed=0):
    """Return three classes that overlap in the features; some labels are ignored."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(num_images, 10)).astype(np.float32)
    labels = np.where(features[:, :3] + generator.normal(size=(num_images, 3)) > 0.7, 1, -1)
    labels[generator.random(labels.shape) < 0.1] = 0
    middle = num_images * 2 // 3
    return features[:middle], labels[:middle], features[middle:], labels[middle:]


def liblinear(features, labels, cost, others):
    svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, tol=1e-8, max_iter=200_000, dual=True, random_state=0)
    kept = labels != 0
    return svm.fit(features[kept], labels[kept]).decision_function(others)


def by_loops(parts, shots, num_samples, seed):
    """Return test AP at every cost and mean AP over folds, by one LIBLINEAR fit after another: (k, s, c, cost)."""
    train, train_labels, test, test_labels = parts
    train, test = (
        rows / (np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) + 1e-5) for rows in (train, test)
    )
    on_test, by_folds = (np.zeros((len(shots), num_samples, 3, len(COSTS))) for _ in range(2))
    for i, s, c, j in np.ndindex(on_test.shape):
        labels = sample_labels(train_labels, shots[i], num_samples, seed)[:, s, c]
        scores = liblinear(train, labels, COSTS[j], test)
        on_test[i, s, c, j] = average_precision_by_thresholds(scores.tolist(), test_labels[:, c].tolist())
        if shots[i] >= 3:
            rows, kept = train[labels != 0], labels[labels != 0]
            by_folds[i, s, c, j] = np.mean(
                [
                    average_precision_score(kept[out], liblinear(rows[used], kept[used], COSTS[j], rows[out]))
                    for used, out in StratifiedKFold(3).split(rows, kept)
                ]
            )
    return on_test, by_folds


def test_shots_are_those_of_the_protocol():
    assert SHOTS == (1, 2, 4, 8, 16, 32, 64, 96)


def test_scores_equal_loops_of_liblinear_fits(monkeypatch):
    monkeypatch.setattr("orl.evaluation.low_shot.fit_svms", partial(fit_svms, tol=1e-8))
    parts, shots = problem(), (2, 6)
    result = score_low_shot(*parts, CLASSES, shots=shots, num_samples=2, seed=5, costs=COSTS, quiet=True)
    on_test, by_folds = by_loops(parts, shots, 2, seed=5)
    for i, k in enumerate(("2", "6")):
        best = on_test[i].mean(axis=(0, 1)).argmax()
        assert result.best_cost_on_test[k] == COSTS[best]
        assert_allclose(result.mean_ap_best_cost_on_test[k], on_test[i, :, :, best].mean())
        assert_allclose(result.std_best_cost_on_test[k], on_test[i, :, :, best].mean(axis=1).std())
        chosen = [0, 0] if k == "2" else by_folds[i].mean(axis=1).argmax(axis=1)
        assert result.costs[k] == [COSTS[choice] for choice in chosen]
        aps = np.array([on_test[i, s, :, choice] for s, choice in enumerate(chosen)])
        assert_allclose(result.mean_ap[k], aps.mean())
        assert_allclose(result.std[k], aps.mean(axis=1).std())
        assert_allclose(list(result.per_class_ap[k].values()), aps.mean(axis=0))
        assert_allclose(list(result.per_class_ap_best_cost_on_test[k].values()), on_test[i, :, :, best].mean(axis=0))
    assert result.num_fits == 2 * 3 * 4 * (1 + 4)
    assert result.num_unconverged == 0


def test_the_best_cost_on_test_is_never_worse_and_more_shots_help():
    parts = problem(600)
    result = score_low_shot(*parts, CLASSES, shots=(1, 40), num_samples=3, costs=COSTS, quiet=True)
    for k in ("1", "40"):
        assert result.mean_ap_best_cost_on_test[k] >= result.mean_ap[k]
    assert result.mean_ap["40"] > result.mean_ap["1"] + 0.05


def test_samples_have_k_positives_and_so_many_negatives_for_each_other_class():
    _, labels, _, _ = problem()
    samples = sample_labels(labels, 4, 5, seed=0)
    assert ((samples == 1).sum(axis=0) == 4).all()
    assert ((samples == -1).sum(axis=0) == 8).all()
    assert ((samples == 0) | (samples == labels[:, None])).all()


def test_samples_depend_on_seed_k_sample_and_class_alone():
    _, labels, _, _ = problem()
    five = sample_labels(labels, 4, 5, seed=0)
    assert np.array_equal(sample_labels(labels, 4, 2, seed=0), five[:, :2])
    changed = labels.copy()
    changed[:, 0] = -changed[:, 0]
    assert np.array_equal(sample_labels(changed, 4, 5, seed=0)[:, :, 1:], five[:, :, 1:])
    assert not np.array_equal(sample_labels(labels, 4, 5, seed=1), five)
    assert len({five[:, sample].tobytes() for sample in range(5)}) == 5
    assert not ((sample_labels(labels, 2, 5, seed=0) == 1) <= (five == 1)).all()


def test_the_fixed_cost_is_one_or_the_nearest():
    assert fixed_cost((10.0, 1.0, 0.1)) == 1
    assert fixed_cost((100.0, 0.5)) == 0.5


def test_a_class_without_positive_test_images_is_skipped_but_counts_for_negatives():
    train, train_labels, test, test_labels = problem()
    test_labels[:, 1] = -1
    # One cost only: its choice depends on the scored classes, of which there are two here and three below.
    result = score_low_shot(
        train, train_labels, test, test_labels, CLASSES, shots=(2,), num_samples=2, costs=(1.0,), quiet=True
    )
    assert result.skipped == {"dog": "no positive test image"}
    assert list(result.per_class_ap["2"]) == ["cat", "bird"]
    all_scored = score_low_shot(*problem(), CLASSES, shots=(2,), num_samples=2, costs=(1.0,), quiet=True)
    assert_allclose(result.per_class_ap["2"]["bird"], all_scored.per_class_ap["2"]["bird"], rtol=1e-12)


def test_fits_that_stop_at_the_limit_are_counted(monkeypatch):
    monkeypatch.setattr("orl.evaluation.low_shot.fit_svms", partial(fit_svms, max_iter=1))
    result = score_low_shot(*problem(), CLASSES, shots=(6,), num_samples=2, costs=(100.0,), quiet=True)
    assert 0 < result.num_unconverged <= result.num_fits == 24


def test_too_few_images_with_a_class_are_refused_by_name():
    labels = np.full((40, 3), -1)
    labels[:10] = 1
    labels[7:10, 1] = -1
    with pytest.raises(ValueError, match=r"8 shots need 8 training images with 'dog', but there are 7; .* at most 7"):
        check_shots(labels, CLASSES, (1, 8))
    check_shots(labels, CLASSES, (1, 7))


def test_too_few_images_without_a_class_are_refused_by_name():
    labels = np.full((30, 3), -1)
    labels[:19] = 1
    labels[11:19, :2] = -1
    with pytest.raises(
        ValueError, match=r"6 shots need 12 training images without 'bird', but there are 11; .* most 5"
    ):
        score_low_shot(np.ones((30, 2)), labels, np.ones((30, 2)), labels, CLASSES, shots=(6,), quiet=True)


@pytest.mark.parametrize("shots", [(), (0, 1), (2, 2)])
def test_shots_that_make_no_sense_are_refused(shots):
    with pytest.raises(ValueError, match=r"shots are \["):
        check_shots(np.ones((3, 3), dtype=int), CLASSES, shots)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="num_samples is 0"):
        score_low_shot(*problem(), CLASSES, shots=(1,), num_samples=0, quiet=True)


def test_no_positive_test_image_at_all_is_refused():
    train, labels, test, test_labels = problem()
    with pytest.raises(ValueError, match="none of 3 classes has a positive test image"):
        score_low_shot(train, labels, test, np.full_like(test_labels, -1), CLASSES, shots=(1,), quiet=True)


def test_the_result_is_json():
    result = score_low_shot(*problem(), CLASSES, shots=(1, 4), num_samples=2, costs=COSTS, quiet=True)
    fields = json.loads(json.dumps(result.to_json()))
    assert fields["task"] == "low-shot"
    assert fields["shots"] == [1, 4]
    assert set(fields["mean_ap"]) == {"1", "4"}
    assert fields["mean_ap"]["4"] == pytest.approx(np.mean(list(fields["per_class_ap"]["4"].values())))
