import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orl.figures.score_figures import LowShotLine, draw_class_bars, draw_low_shot


def bars_of(figure: Figure) -> list[dict[str, float]]:
    """For each backbone, the length of its bar at each class, found by the height that it lies at."""
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    places = axes.get_yticks()
    return [
        {
            names[int(np.abs(places - (bar.get_y() + bar.get_height() / 2)).argmin())]: round(bar.get_width(), 6)
            for bar in container
        }
        for container in axes.containers
    ]


def test_bars_are_the_ap_of_each_class_in_percent_the_easiest_first_below_the_mean():
    figure = draw_class_bars({"one": {"cat": 0.25, "dog": 0.5}, "two": {"cat": 0.75, "dog": 0.6}})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mean (mAP)", "dog", "cat"]
    assert bars_of(figure) == [
        {"mean (mAP)": 37.5, "dog": 50, "cat": 25},
        {"mean (mAP)": 67.5, "dog": 60, "cat": 75},
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top  # the mean stands at the top


def test_a_class_without_a_score_has_no_bar_and_does_not_count_in_the_mean():
    figure = draw_class_bars({"one": {"cat": 0.2, "dog": 0.4}, "two": {"dog": 0.1}})
    assert bars_of(figure) == [{"mean (mAP)": 30, "dog": 40, "cat": 20}, {"mean (mAP)": 10, "dog": 10}]


@pytest.mark.parametrize("num_backbones", [1, 3, 4])
def test_bars_do_not_overlap_and_have_numbers_while_there_is_room(num_backbones):
    classes = {"cat": 0.5, "dog": 0.4, "$a_b$": 0.3}
    figure = draw_class_bars({f"backbone {index}": classes for index in range(num_backbones)})
    bars = sorted((bar.get_y(), bar.get_height()) for container in figure.axes[0].containers for bar in container)
    assert len(bars) == 4 * num_backbones
    assert all(low + height <= higher for (low, height), (higher, _) in itertools.pairwise(bars))
    assert len(figure.axes[0].texts) == (len(bars) if num_backbones <= 3 else 0)


def lines_of(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        container.get_label(): (container.lines[0].get_xdata(), container.lines[0].get_ydata())
        for container in axes.containers
    }


def test_a_low_shot_line_has_its_means_and_its_bars_one_deviation_each_way():
    line = LowShotLine(shots=(1, 4, 16), mean_ap=(0.2, 0.3, 0.5), std=(0.05, 0.02, 0.01))
    (axes,) = draw_low_shot({"one": line}).axes
    shots, means = lines_of(axes)["one"]
    np.testing.assert_allclose(shots, [1, 4, 16])
    np.testing.assert_allclose(means, [20, 30, 50])
    segments = np.array(axes.containers[0].lines[2][0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], [[15, 25], [28, 32], [49, 51]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "16"]


def test_lines_of_several_backbones_are_told_apart():
    one = LowShotLine(shots=(1, 2), mean_ap=(0.2, 0.3), std=(0.0, 0.0))
    two = LowShotLine(shots=(2, 4), mean_ap=(0.4, 0.5), std=(0.1, 0.1))
    (axes,) = draw_low_shot({"one": one, "two": two}).axes
    found = lines_of(axes)
    np.testing.assert_allclose(found["two"][0], [2, 4], rtol=0.02)
    assert found["one"][0][1] < 2 < found["two"][0][0]  # both at 2, a little apart
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
