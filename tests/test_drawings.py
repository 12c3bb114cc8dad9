"""Photos under titles, and class activation maps over photos."""

import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import draw
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scenes import drawings


def seen(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def five_maps() -> Figure:
    """
    Return five photos, one of them upright, whose maps point at their lower right.
    """
    photos = [draw(i) for i in range(4)] + [draw(4, width=30, height=40)]
    values = np.add.outer(np.arange(7.0), np.arange(7.0)) - 5
    return drawings.maps(photos, [values] * 5, ["$a$ <b>", "b", "c", "d", "e"])


def titled_photo(title: str) -> Figure:
    return drawings.grid([draw(0)], [title], columns=1)


@pytest.fixture(scope="module")
def figure():
    return five_maps()


def test_maps_lie_over_the_whole_of_their_photos_under_their_titles(figure):
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn] == ["$a$ <b>", "b", "c", "d", "e"]
    assert not any(axis.axison for axis in figure.axes)
    for axis, (height, width) in zip(drawn, [(30, 40)] * 4 + [(40, 30)], strict=True):
        photo, over = axis.images
        assert photo.get_array().shape == (height, width)  # grey
        assert over.get_extent() == photo.get_extent()
        assert over.get_array().shape == (7, 7)
        low, high = over.get_clim()
        assert (over.get_array()[0, 0], over.get_array()[6, 6]) == (low, high)
    assert not plt.get_fignums(), "nor is it shown twice"


def test_long_titles_do_not_run_into_each_other():
    long = "Mediterranean Sea, in the evening_and_the_night_before_the_day"
    titles = [long, f"{long}\n{long}", "short", long]
    drawn = drawings.grid([draw(0)] * 4, titles, columns=2)
    texts = [axis.title for axis in drawn.axes]
    boxes = [part.get_window_extent() for part in [*texts, *drawn.axes]]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


def test_a_map_is_brightest_where_its_values_are_highest(figure):
    """In the pixels: the whole way from the map to what one sees."""
    pixels = seen(figure)[::-1, :, :3].astype(float)  # from below, as the box
    (left, low), (right, high) = (
        figure.axes[0].get_window_extent().get_points().round().astype(int)
    )
    inside = pixels[low:high, left:right, 0]
    height, width = (n // 3 for n in inside.shape)
    assert inside[:height, -width:].mean() > inside[-height:, :width].mean() + 20


def test_a_map_without_a_highest_place_is_drawn_without_a_word(recwarn):
    figure = drawings.maps([draw(0)], [np.zeros((7, 7))], ["flat"])
    assert np.ptp(figure.axes[0].images[1].get_array()) == 0
    assert not recwarn.list


OF_A_READER = {
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,
    "figure.facecolor": "black",
    "font.family": "serif",
    "font.sans-serif": ["DejaVu Serif"],
    "font.weight": "bold",
    "image.aspect": "auto",
    "image.cmap": "jet",
    "image.interpolation": "none",
    "image.origin": "lower",
    "path.sketch": (1, 100, 2),
    "text.color": "red",
    "text.usetex": True,
}


@pytest.mark.parametrize("drawing", [five_maps, lambda: titled_photo("two\nlines")])
def test_a_readers_configuration_of_matplotlib_changes_no_drawing(drawing):
    """Nor does it when they are shown, which is when they are drawn."""
    right = seen(drawing())
    with matplotlib.rc_context(OF_A_READER):
        again = seen(drawing())
        assert matplotlib.rcParams["image.origin"] == "lower"
    np.testing.assert_array_equal(again, right)


@pytest.fixture
def fonts(monkeypatch):
    """
    Return matplotlib's list of fonts, as if few were installed and one were deleted.
    """
    manager = font_manager.fontManager
    few = [font_manager.FontEntry("deleted.ttf", weight=400)]
    few += [font for font in manager.ttflist if font.name.startswith(("DejaVu", "Las"))]
    monkeypatch.setattr(manager, "ttflist", few)
    drawings._say_once.cache_clear()
    return manager


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("weight", "right"), [(400, "山"), (900, r"\u5c71")])
def test_a_title_is_drawn_in_a_font_that_has_it(
    weight, right, fonts, tmp_path, printed
):
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    pen.lineTo((500, 900))
    pen.lineTo((900, 0))
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "empty", "mountain"])
    font.setupCharacterMap({ord("谷"): "empty", ord("山"): "mountain"})
    empty = TTGlyphPen(None).glyph()
    font.setupGlyf({".notdef": empty, "empty": empty, "mountain": pen.glyph()})
    font.setupHorizontalMetrics(dict.fromkeys(font.font.getGlyphOrder(), (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Mountains", "styleName": "Regular"})
    font.setupOS2(usWeightClass=weight)
    font.setupPost()
    font.save(tmp_path / "mountains.ttf")
    fonts.addfont(tmp_path / "mountains.ttf")
    figure = titled_photo("山")
    assert figure.axes[0].get_title() == right
    assert not np.array_equal(seen(figure), seen(titled_photo("谷")))
    assert (printed() == "") == (weight == 400)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("one", "other"), ["猫狗", "山海", "मन", "ไน", "🐈🐕"])
def test_titles_that_no_font_has_differ_and_one_line_says_why(
    one, other, fonts, printed
):
    assert not np.array_equal(seen(titled_photo(one)), seen(titled_photo(other)))
    said = printed()
    assert said.count("\n") == 1
    assert "no installed font has" in said


@pytest.mark.filterwarnings("error")
def test_a_title_in_the_letters_of_the_first_font_stays(fonts, printed):
    figure = drawings.grid([draw(0)] * 2, ["кот\n37%", "بحر"], columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["кот\n37%", "بحر"]
    assert printed() == ""
