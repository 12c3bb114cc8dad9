"""Class activation maps over photos."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import draw
from matplotlib.backends.backend_agg import FigureCanvasAgg

import scenes.drawings


@pytest.fixture(scope="module")
def figure():
    """
    Return five photos, one of them upright, whose maps point at their lower right.
    """
    photos = [draw(i) for i in range(4)] + [draw(4, width=30, height=40)]
    values = np.add.outer(np.arange(7.0), np.arange(7.0)) - 5
    return scenes.drawings.maps(photos, [values] * 5, ["$a$ <b>", "b", "c", "d", "e"])


def test_maps_lie_over_the_whole_of_their_photos_under_their_titles(figure):
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn] == ["$a$ <b>", "b", "c", "d", "e"]
    assert not any(axis.axison for axis in figure.axes)
    for axis, (height, width) in zip(drawn, [(30, 40)] * 4 + [(40, 30)], strict=True):
        photo, over = axis.images
        assert photo.get_array().shape == (height, width)  # grey
        assert tuple(over.get_extent()) == (0, width, height, 0)
        assert over.get_array().shape == (7, 7)
        assert (over.get_array()[0, 0], over.get_array()[6, 6]) == (0, 1)
    assert not plt.get_fignums(), "nor is it shown twice"


def test_a_map_is_brightest_where_its_values_are_highest(figure):
    """In the pixels: the whole way from the map to what one sees."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(
        float
    )  # from below, as the box
    (left, low), (right, high) = (
        figure.axes[0].get_window_extent().get_points().round().astype(int)
    )
    inside = pixels[low:high, left:right, 0]
    height, width = (n // 3 for n in inside.shape)
    assert inside[:height, -width:].mean() > inside[-height:, :width].mean() + 20


def test_a_map_without_a_highest_place_is_drawn_without_a_word(recwarn):
    figure = scenes.drawings.maps([draw(0)], [np.zeros((7, 7))], ["flat"])
    assert np.ptp(figure.axes[0].images[1].get_array()) == 0
    assert not recwarn.list
