"""
Each plot shows its numbers, in one look, for any classes, and is saved to be opened
anywhere.
"""

import html
import io
import itertools
import json
import re
import shutil
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from conftest import ROOT
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from plotly.offline import get_plotlyjs
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

import scenes
from scenes import calibration, chrome, evaluation, look, plots

RATES, DROPOUTS, DECAYS, FOLDS, EPOCHS = [0.001, 0.01], [0.1, 0.3, 0.5], [0, 1e-4], 3, 4
LONG = "a name of a class that goes on and on and on"
ODD = [
    "<b>x</b>",
    "two words",
    "a, comma",
    "Zürich",
    "7 & <i>",
    "%{x} &amp;",
    "$a$",
    "100",
    LONG,
]


def names(number):
    """Return names of classes, the odd ones among them where there are enough."""
    if number == 6:
        return ["buildings", "forest", "glacier", "mountain", "sea", "street"]
    odd = ODD if number > len(ODD) else ODD[:1]
    return sorted([*odd, *(f"class {i:03}" for i in range(number - len(odd)))])


def draw_results(*values):
    """
    Return the results of a grid search with these hyperparameters, folds and epochs.
    """
    names = [*scenes.HYPERPARAMETERS, "fold", "epoch"]
    table = pd.DataFrame(itertools.product(*values), columns=names)
    accuracies = default_rng(0).uniform(0.5, 1, (len(table), len(scenes.METRICS)))
    return table.join(pd.DataFrame(accuracies.round(4), columns=list(scenes.METRICS)))


def draw_search(results):
    """Return the curves of the results of a grid search."""
    return plots.grid_search(evaluation.rank_epochs(results))


def draw_gaps(results):
    """Return the dots of the results of a grid search."""
    summary = evaluation.summarize(results)
    return plots.gaps(summary, evaluation.variation_shares(summary))


@pytest.fixture(scope="module")
def results():
    return draw_results(
        RATES, DROPOUTS, DECAYS, range(1, FOLDS + 1), range(1, EPOCHS + 1)
    )


@pytest.fixture(scope="module")
def history():
    """Return the history of a training of four epochs."""
    values = default_rng(0).uniform(0, 1, (4, 4))
    return pd.DataFrame(values, columns=list(scenes.METRICS)).assign(epoch=range(1, 5))


@pytest.fixture(scope="module")
def photos():
    """
    Return for numbers of classes a table, features that lie apart and predictions.
    """

    def draw(number):
        rng = default_rng(0)
        codes = rng.permutation(np.arange(max(120, 3 * number)) % number)
        labels = pd.Series(pd.Categorical.from_codes(codes, names(number)))
        splits = rng.choice(
            ["train", "validation", "test"], len(codes), p=[0.6, 0.2, 0.2]
        )
        features = rng.uniform(0, 6, (number, 1280))[codes]
        features = (features + rng.normal(0, 0.3, features.shape)).astype("float32")
        guesses = np.where(
            rng.random(len(codes)) < 0.7, codes, rng.integers(0, number, len(codes))
        )
        images = pd.DataFrame({"label": labels, "split": splits})
        return images, features, np.array(names(number), dtype=object)[guesses]

    return {number: draw(number) for number in (2, 6, 20, 100)}


def with_confidence(confidences: Sequence[float]) -> np.ndarray:
    """Return probabilities of ten classes, of which the first is the highest."""
    others = (1 - np.reshape(confidences, (-1, 1))) / 9
    return np.insert(others.repeat(9, axis=1), 0, confidences, axis=1)


@pytest.fixture(scope="module")
def judged():
    """
    Return the probabilities of an overconfident and of a calibrated classifier, each of
    ten confidences, and the true classes.
    """
    confidences = np.linspace(0.36, 0.94, 10)
    shares = (confidences**2).round(2)  # of the photos that are right
    y = np.concatenate([np.arange(200) >= 200 * share for share in shares])
    both = {"before": confidences, "after": shares + 0.01}
    both = {name: with_confidence(c.repeat(200)) for name, c in both.items()}
    return both, y.astype(int)


@pytest.fixture(scope="module", autouse=True)
def short_tsne():
    """Let t-SNE stop early, in one thread: of what it shows, these tests ask little."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(plots, "TSNE", partial(plots.TSNE, max_iter=300))
        yield


def draw_all(results, history, photos, judged):
    """
    Return one figure of each plot of numbers, and three for each number of classes.
    """
    trainings = pd.DataFrame({"photos": [100, 400, 100, 400, 100, 400, 800]})
    trainings["seed"] = [0, 0, 1, 1, 2, 2, 0]
    trainings["val_accuracy"] = [0.7, 0.8, 0.72, 0.83, 0.77, 0.83, 0.9]
    coverage = np.arange(1, 201) / 200
    curve = pd.DataFrame({"coverage": coverage, "accuracy": 1 - coverage / 10})
    curve = curve.assign(ci_low=curve["accuracy"] - 0.02, ci_high=1.0)
    drawn = {
        "grid_search": draw_search(results),
        "gaps": draw_gaps(results),
        "history": plots.history(history, "A training"),
        "learning_curve": plots.learning_curve(trainings),
        "reliability": plots.reliability(*judged),
        "coverage": plots.coverage(curve, 0.75),
    }
    for number, (images, features, predictions) in photos.items():
        labels = images["label"]
        drawn[f"counts {number}"] = plots.counts(images)
        drawn[f"feature_map {number}"] = plots.feature_map(
            features, labels, labels.astype(str) != predictions
        )
        drawn[f"confusion {number}"] = plots.confusion(labels, predictions)
    return drawn


@pytest.fixture(scope="module")
def figures(results, history, photos, judged):
    return draw_all(results, history, photos, judged)


AXES = {
    "counts 6": {"class", "photos"},
    "feature_map 6": {"t-SNE 1", "t-SNE 2"},
    "grid_search": {"epoch", "validation accuracy (%)"},
    "gaps": {"gap in validation accuracy (points)"},
    "history": {"epoch", "loss", "accuracy (%)"},
    "learning_curve": {"training photos (log scale)", "validation accuracy (%)"},
    "confusion 6": {"predicted class", "true class"},
    "reliability": {"confidence (%)", "accuracy (%)", "photos"},
    "coverage": {"coverage (%)", "selective accuracy (%)"},
}
TITLES = {
    "counts 6": "The classes are nearly balanced: 20 to 20 photos",
    "counts 100": "The classes are nearly balanced: 3 to 3 photos",
    "feature_map 6": "t-SNE map of 120 of 120 photos: only who is near whom means something",
    "history": "Validation accuracy after epoch 4: 17.6% (highest: 72.9% after epoch 2)",
    "learning_curve": "From 400 to 800 photos: +8.0 points",
    "reliability": "Temperature scaling lowers the calibration error from 19.1% to 1.0%",
    "coverage": "The model answers 75.0% of the photos, 92.5% of them correctly (target: 98%)",
}


def texts(figure):
    """Return the titles of the axes and all annotations."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    notes = {note.text for note in figure.layout.annotations}
    return notes | {axis.title.text for axis in axes if axis.title.text}


def read(shown):
    """Return a name as plotly shows it."""
    return html.unescape(str(shown))


def read_all(shown):
    return list(map(read, shown))


def title_of(figure):
    return figure.layout.title.text


def confusion_of(photos, number):
    """Return of how many photos of each class each class is predicted."""
    images, _, predicted = photos[number]
    classes = names(number)
    table = pd.crosstab(images["label"].astype(str), predicted)
    return table.reindex(index=classes, columns=classes, fill_value=0).to_numpy()


# --- One look -------------------------------------------------------------------------


@pytest.mark.parametrize("name", AXES)
def test_a_plot_has_a_title_named_axes_and_the_common_look(figures, name):
    figure, common = figures[name], figures["counts 6"].layout
    assert title_of(figure)
    assert texts(figure) >= AXES[name]
    assert figure.layout.template == common.template
    assert figure.layout.width == 850
    assert {trace.type for trace in figure.data} <= {
        "bar",
        "scatter",
        "heatmap",
    }  # no WebGL
    assert "epoch" not in AXES[name] or figure.layout.xaxis.dtick == 1


@pytest.mark.parametrize("name", TITLES)
def test_the_title_is_the_finding_and_the_subtitle_the_name(figures, name):
    title = figures[name].layout.title
    assert title.text == TITLES[name]
    assert bool(title.subtitle.text) == (not title.text.startswith("t-SNE"))


def test_what_a_reader_has_set_in_plotly_changes_no_figure(
    results, history, photos, judged, figures, monkeypatch
):
    monkeypatch.setattr(pio.templates, "default", "plotly_dark+presentation")
    monkeypatch.setattr(pio.templates["plotly_white"].layout, "paper_bgcolor", "red")
    theirs = {"template": "ggplot2", "width": 300, "line_dash_sequence": ["dot"]}
    theirs |= {"color_discrete_sequence": ["red"], "color_continuous_scale": "Reds"}
    for name, value in theirs.items():
        monkeypatch.setattr(px.defaults, name, value)
    some = {number: photos[number] for number in (2, 6)}
    for name, figure in draw_all(results, history, some, judged).items():
        assert figure.to_json() == figures[name].to_json()


def test_coverage_is_drawn_from_where_it_rests_on_some_photos_to_its_end():
    n = np.arange(1, 3001)
    table = pd.DataFrame({"coverage": n / 3000, "accuracy": 1.0})
    table = table.assign(ci_low=1 - 1 / n, ci_high=1.0)
    band, line = plots.coverage(table, 1).data
    assert (line.x[0], line.x[-1]) == (10, 100)  # to the left it is single photos
    assert_allclose(band.y[[0, -1]], [100 - 100 / 300, 100])


def test_balanced_accuracies_are_called_so(results, history):
    """In the title and beside the axis; the loss is called loss."""
    metric = "balanced accuracy"
    ranked = evaluation.rank_epochs(results)
    table = pd.DataFrame({"photos": [1], "seed": [0], "val_accuracy": [0.5]})
    search = plots.grid_search(ranked, metric=metric)
    training = plots.history(history, "A training", metric=metric)
    learning_curve = plots.learning_curve(table, metric=metric)
    assert f"validation {metric} (%)" in texts(search) & texts(learning_curve)
    assert texts(training) == {"epoch", "loss", f"{metric} (%)"}
    assert title_of(training).startswith(f"Validation {metric} after epoch 4")


# --- Any classes ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 6, 20, 100])
def test_classes_have_the_same_order_and_names_everywhere(figures, number):
    classes = names(number)
    for bars in figures[f"counts {number}"].data:
        assert read_all(bars.x) == classes
    if number <= 20:
        clouds = figures[f"feature_map {number}"].data[:number]
        hovers = [c.hovertemplate.removesuffix("<extra></extra>") for c in clouds]
        assert read_all(hovers) == classes
        heat = figures[f"confusion {number}"]
        assert read_all(heat.data[0].x) == read_all(heat.data[0].y) == classes
        assert heat.layout.yaxis.autorange == "reversed"


@pytest.mark.parametrize("number", [2, 6, 20])
def test_each_class_has_a_look_of_its_own_and_its_name_in_the_legend(figures, number):
    clouds = figures[f"feature_map {number}"].data[:number]
    looks = {(cloud.marker.color, cloud.marker.symbol) for cloud in clouds}
    assert len(looks) == number
    for cloud, name in zip(clouds, names(number), strict=True):
        assert read(cloud.name) in (name, f"{name[:23]}…")


def test_of_many_classes_those_that_mix_most_are_in_colour():
    """Among 25 classes, two look alike."""
    codes = np.arange(150) % 25
    rng = default_rng(0)
    centres = rng.uniform(0, 6, (25, 40))
    centres[9] = centres[5]
    features = centres[codes] + rng.normal(0, 0.1, (150, 40))
    labels = pd.Series(pd.Categorical.from_codes(codes, names(25)))
    figure = plots.feature_map(features, labels, codes < 0)
    others, *clouds, _ = figure.data
    assert others.name == "other classes"
    assert len({cloud.marker.color for cloud in clouds}) == len(clouds) == 8
    assert sum(len(cloud.x) for cloud in figure.data) == 150
    in_colour = {read(cloud.hovertemplate[:-15]) for cloud in clouds}
    assert in_colour >= {names(25)[5], names(25)[9]}
    assert set(read_all(others.text)) == {*names(25)} - in_colour
    title = read(title_of(figure))
    assert title.endswith(" mix most")
    assert names(25)[9] in title


def test_many_classes_are_counted_by_size_and_named_by_the_mouse(figures):
    counts, confusion = figures["counts 100"], figures["confusion 100"]
    axis = counts.layout.xaxis
    assert (axis.categoryorder, axis.showticklabels) == ("total descending", False)
    assert counts.data[0].texttemplate is None
    for axis in (confusion.layout.xaxis, confusion.layout.yaxis):
        assert axis.showticklabels is False
    assert figures["confusion 20"].layout.yaxis.showticklabels is None
    [heat] = confusion.data
    assert list(map(read, heat.x)) == names(100)
    assert heat.texttemplate is None


@pytest.mark.parametrize("number", [2, 20, 100])
def test_no_name_is_read_as_html_a_formula_or_a_template(figures, number):
    for kind in ("counts", "feature_map", "confusion"):
        text = figures[f"{kind} {number}"].to_json()
        text = re.sub(r"<extra>|</extra>|<br>|\\u003c(/?extra|br)\\u003e", "", text)
        assert not re.search(r"(<|\\u003c)/?[bi](>|\\u003e)|\$a|%\{x\} &", text)


@pytest.mark.parametrize("kind", ["counts", "confusion"])
def test_a_long_name_is_shown_short_and_stays_a_class_of_its_own(figures, kind):
    figure = figures[f"{kind} 20"]
    axis = figure.layout.xaxis
    assert read_all(axis.tickvals) == names(20)
    shown = [name if name != LONG else f"{LONG[:23]}…" for name in names(20)]
    assert read_all(axis.ticktext) == shown
    assert LONG in figure.data[0].x


# --- The photos and their features ----------------------------------------------------


@pytest.mark.parametrize("number", [2, 20])
def test_counts_shows_the_number_of_photos_of_each_class_and_split(
    figures, photos, number
):
    images, figure = photos[number][0], figures[f"counts {number}"]
    shown = {
        bars.name: dict(zip(read_all(bars.x), bars.y, strict=True))
        for bars in figure.data
    }
    assert list(shown) == ["train", "validation", "test"]
    for (split, label), rows in images.groupby(["split", "label"], observed=True):
        assert shown[split][label] == len(rows)
    assert sum(sum(row.values()) for row in shown.values()) == len(images) == 120
    assert figure.layout.barmode == "stack"
    assert {bars.textposition for bars in figure.data} == {
        "inside"
    }  # above, it looks like a sum


def test_feature_map_puts_photos_of_a_class_near_each_other(figures, photos):
    places = {
        t.name: np.stack([t.x, t.y], axis=1) for t in figures["feature_map 6"].data
    }
    assert not figures["feature_map 6"].layout.xaxis.showticklabels
    wrong = places.pop("misclassified")
    assert [len(rows) for rows in places.values()] == [20] * 6
    rows = np.concatenate([*places.values()])
    centres = rows.reshape(6, 20, 2).mean(axis=1)
    nearest = cdist(rows, centres).argmin(axis=1)
    assert_array_equal(nearest, np.repeat(np.arange(6), 20))
    images, _, predicted = photos[6]
    assert len(wrong) == (images["label"].astype(str) != predicted).sum() > 0
    assert set(map(tuple, wrong)) <= set(map(tuple, rows))


def test_feature_map_takes_a_sample_by_its_seed(photos):
    images, features, _ = photos[6]
    labels = images["label"]
    draw = partial(plots.feature_map, features, labels, labels == "", sample=20)
    first, again = draw(seed=1), draw(seed=1)
    assert first == again
    assert sum(len(trace.x) for trace in first.data) == 20


def test_feature_map_bears_features_that_are_all_alike(photos):
    """As those of a base model without weights are."""
    labels = photos[6][0]["label"][:12]
    figure = plots.feature_map(np.zeros((12, 1280)), labels, labels == "")
    assert sum(len(trace.x) for trace in figure.data) == 12


# --- The grid search ------------------------------------------------------------------


def curves_of(figure):
    """Return the grey curves of each panel by its title, from the upper left on."""
    titles = [n for n in figure.layout.annotations if n.text.startswith("learning")]
    titles.sort(key=lambda note: (-note.y, note.x))
    grey = figure.data[:-2]  # a missing value ends each curve
    curves = [np.reshape(trace.y, (-1, len(set(trace.x)))) for trace in grey]
    assert all(np.isnan(panel[:, -1]).all() for panel in curves)
    return {
        title.text: panel[:, :-1] for title, panel in zip(titles, curves, strict=True)
    }


def test_grid_search_shows_each_setting_in_the_panel_of_its_learning_rate(
    figures, results
):
    curves = curves_of(figures["grid_search"])
    by_setting = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"]
    expected = by_setting.mean().unstack()
    assert list(curves) == [f"learning rate {rate:g}" for rate in RATES]
    for rate, shown in zip(RATES, curves.values(), strict=True):
        assert_allclose(shown, 100 * expected.loc[rate], rtol=1e-6)
    assert list(figures["grid_search"].data[0].x)[:EPOCHS] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(("folds", "digits"), [(1, 1), (FOLDS, 4)])
def test_grid_search_shows_the_best_setting(results, folds, digits):
    """With one digit, many accuracies are equal, and the lower loss decides."""
    some = results[results["fold"] <= folds].round({"val_accuracy": digits})
    figure = draw_search(some)
    assert np.isfinite(figure.layout.yaxis.range).all()
    *grey, line, point = figure.data
    assert [trace.showlegend for trace in grey] == [True, False]
    best = evaluation.summarize(some).iloc[0]
    curve = some.set_index(scenes.HYPERPARAMETERS).loc[*best[scenes.HYPERPARAMETERS]]
    means = 100 * curve.groupby("epoch")["val_accuracy"].mean()
    assert_allclose(line.y, means, rtol=1e-6)
    rate, dropout, decay = best[scenes.HYPERPARAMETERS]
    setting = f"learning rate {rate:g}, dropout {dropout:g}, weight decay {decay:g}"
    assert line.name == f"best setting: {setting}"
    assert (*point.x, *point.y) == (
        best["epoch"],
        pytest.approx(100 * best["val_accuracy"]),
    )
    assert point.name == f"its best epoch: {best['epoch']:g}"
    [other] = {*RATES} - {rate}
    tops = some.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"].mean()
    assert title_of(figure) == (
        f"Highest accuracy: {best['val_accuracy']:.2%}, with learning rate {rate:g} "
        f"({other:g}: {tops[other].max():.2%})"
    )
    panel = grey[RATES.index(rate)]
    assert line.xaxis == point.xaxis == panel.xaxis
    assert {trace.line.color for trace in grey} == {"#BFBFBF"}
    assert line.marker.color == point.marker.color == look.RED


def test_the_accuracy_axis_leaves_out_the_first_epochs(results):
    """It shows the later half, but for the lowest twentieth, and says so."""
    rising = results.assign(val_accuracy=0.2 * results["epoch"])
    figure = draw_search(rising)
    axes = list(figure.select_yaxes())
    low, high = axes[0].range
    assert 58 < low < 60
    assert 80 < high < 82
    assert {axis.matches for axis in axes} <= {None, "y"}
    assert f"below {low:.1f}% is cut off" in figure.layout.title.subtitle.text


@pytest.mark.parametrize(("panels", "rows"), [(1, 1), (4, 1), (5, 2), (9, 3)])
def test_panels_are_wrapped_into_rows_of_at_most_four(panels, rows):
    rates = [10.0**-i for i in range(panels, 0, -1)]
    many = draw_results(rates, DROPOUTS, DECAYS, [1], [1, 2])
    titles = [f"learning rate {rate:g}" for rate in rates]
    figure = draw_search(many)
    assert list(curves_of(figure)) == titles
    assert len({(trace.xaxis, trace.yaxis) for trace in figure.data}) == panels
    assert len({axis.domain for axis in figure.select_yaxes()}) == rows
    columns = {axis.domain for axis in figure.select_xaxes()}
    assert len(columns) == -(-panels // rows)
    assert figure.layout.height == 320 + 240 * rows


def test_a_large_search_takes_little_room_in_the_notebook():
    """512 settings of 20 epochs, in the figure and not in its template of 7 kB."""
    decays = np.arange(8) / 1000
    large = draw_results(decays + 0.001, np.arange(8) / 10, decays, [1], range(1, 21))
    figure = draw_search(large)
    assert len(figure.data) == 10
    assert len(figure.to_json()) < 10 * len(large) + 20_000


def test_a_single_epoch_is_a_point_that_one_can_see(results, history):
    search = draw_search(results[results["epoch"] == 1])
    training = plots.history(history[:1], "One epoch")
    assert {trace.mode for trace in [*search.data, *training.data]} == {"markers"}
    low, high = search.layout.yaxis.range
    assert low < search.data[-1].y[0] < high


def test_gaps_shows_each_setting_and_which_are_not_measurably_worse():
    """In the folds, the slow ones are 3, 4, 2 points worse, the other 2, -1, 2."""
    rows = {(0.01, 0.5, 0): [0.9, 0.9, 0.9], (0.01, 0.1, 0): [0.88, 0.91, 0.88]}
    rows |= {(0.001, 0.5, 0): [0.87, 0.86, 0.88], (0.001, 0.1, 0): [0.87, 0.86, 0.88]}
    table = draw_results([0.001, 0.01], [0.1, 0.5], [0], [1, 2, 3], [1])
    keys = table.set_index(scenes.HYPERPARAMETERS).index
    folds = table["fold"]
    table["val_accuracy"] = [rows[k][f - 1] for k, f in zip(keys, folds, strict=True)]
    figure = draw_gaps(table)
    slow, fast = figure.data
    assert (slow.name, fast.name) == ("0.001", "0.01")
    assert_allclose(fast.x, [0, 1], atol=1e-9)
    assert_allclose(slow.x, [3, 3])
    half = 4.302653 * np.std([2, -1, 2], ddof=1) / 3**0.5  # t with two degrees
    assert_allclose(fast.error_x.array, [0, half], atol=1e-6)
    [ground] = figure.layout.shapes
    assert (ground.y0, ground.y1) == (-0.5, 1.5)
    assert list(fast.y) == [0, 1]
    assert title_of(figure) == (
        "Learning rate matters most; 1 of 3 others are not measurably worse than the "
        "best"
    )
    assert "learning rate 93%, dropout 4%" in figure.layout.title.subtitle.text
    alone = draw_gaps(table[keys == (0.01, 0.5, 0)])
    name = (
        "Gap of each setting to the best of 1, with the 95% interval of the difference"
    )
    assert title_of(alone) == name
    large = draw_results([0.01], np.arange(41) / 100, [0], [1, 2], [1])
    assert not draw_gaps(large).layout.yaxis.showticklabels


# --- Trainings and their models -------------------------------------------------------


def test_history_shows_training_and_validation(figures, history):
    lines = figures["history"].data
    metrics = ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert [line.name for line in lines] == ["training", "validation"] * 2
    assert [line.showlegend for line in lines] == [None, None, False, False]
    for line, metric in zip(lines, metrics, strict=True):
        assert list(line.x) == [1, 2, 3, 4]
        scale = 100 if "accuracy" in metric else 1
        assert_allclose(line.y, scale * history[metric])
    assert lines[0].line.color == lines[2].line.color != lines[1].line.color


def test_fine_tuning_is_compared_with_the_head_and_the_floor_of_the_loss(history):
    levels = {"head_accuracy": 0.9, "loss_floor": 0.42}
    figure = plots.history(history, "Fine-tuning", **levels)
    assert [(s.yref, s.y0) for s in figure.layout.shapes] == [("y", 0.42), ("y2", 90)]
    last = history["val_accuracy"].iloc[-1]
    gain = f"{100 * last - 90:+.1f} points against the head alone"
    assert title_of(figure).endswith(f"{last:.1%}, {gain}")


def test_learning_curve_shows_mean_and_range_over_seeds_by_number_of_photos(figures):
    figure = figures["learning_curve"]
    [line] = figure.data
    assert list(line.x) == list(figure.layout.xaxis.tickvals) == [100, 400, 800]
    assert figure.layout.xaxis.type == "log"
    assert_allclose(line.y, [73, 82, 90])
    one = np.nan  # draws not even the cap of an error bar
    assert_allclose(line.error_y.array, [4, 1, one], atol=1e-9)
    assert_allclose(line.error_y.arrayminus, [3, 2, one], atol=1e-9)
    two = pd.DataFrame({"photos": [1, 1, 2, 2], "val_accuracy": [0.5, 0.6, 0.7, 0.9]})
    title = title_of(plots.learning_curve(two))
    assert title == "From 1 to 2 photos: +25.0 points"


@pytest.mark.parametrize("number", [6, 20])
def test_confusion_shows_the_errors_in_colour(figures, photos, number):
    figure = figures[f"confusion {number}"]
    heat = figure.data[0]
    counts = confusion_of(photos, number)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    assert_allclose(heat.z, shares * (1 - np.eye(number)))
    for shown, n, share in zip(
        heat.customdata.flat, counts.flat, shares.flat, strict=True
    ):
        assert shown == f"{n}<br>{share:.1f}%"
    assert "%{customdata}" in heat.hovertemplate
    if number == 6:
        expected = np.where(shares < 0.5, "", heat.customdata)
        assert (heat.text == expected).all()
        assert (heat.text == "").any()
    assert heat.texttemplate == ("%{text}" if number == 6 else None)
    assert (heat.showscale is not False) == (number > 12)
    both = np.triu(counts + counts.T, 1)
    first, second = np.argwhere(both == both.max())[0]
    errors = counts.sum() - np.trace(counts)
    told = f"{both.max()} of {errors} errors are between "
    assert title_of(figure).startswith(told)
    if number == 6:
        pair = f"{names(6)[first]} and {names(6)[second]}"
        assert title_of(figure) == told + pair


def test_confusion_bears_a_class_without_photos_and_no_error():
    labels = pd.Series(pd.Categorical(["sea"], names(6)))
    figure = plots.confusion(labels, ["sea"])
    assert figure.data[0].customdata[4][4] == "1<br>100.0%"
    assert np.sum(figure.data[0].z) == 0
    assert title_of(figure) == "No error"


def test_reliability_shows_each_bin_with_its_interval_and_a_histogram(figures, judged):
    both, y = judged
    tables = {name: calibration.reliability(p, y) for name, p in both.items()}
    figure = figures["reliability"]
    titles = {note.text for note in figure.layout.annotations}
    assert titles == {"before: ECE 19.1%", "after: ECE 1.0%"}
    for column, table in enumerate(tables.values()):
        diagonal, points, steps = figure.data[3 * column : 3 * column + 3]
        assert list(diagonal.x) == list(diagonal.y)
        assert diagonal.yaxis == points.yaxis != steps.yaxis
        assert_allclose(points.x, 100 * table["confidence"])
        assert_allclose(points.y, 100 * table["accuracy"])
        above = points.y + points.error_y.array
        assert_allclose(above, 100 * table["ci_high"])
        below = points.y - points.error_y.arrayminus
        assert_allclose(below, 100 * table["ci_low"])
        assert list(points.customdata) == [200] * 10
        photos, edges = np.array(steps.y[:-1]), np.array(steps.x)
        assert photos.sum() == table["photos"].sum()
        inside = (100 * table["confidence"]).between(edges[3], edges[30])
        assert photos[3:30].sum() == table["photos"][inside].sum() > 0
        assert max(photos) < figure.layout.yaxis3.range[1]


def test_a_temperature_that_calibrates_no_better_is_no_finding(judged):
    both, y = judged
    figure = plots.reliability(dict(reversed(both.items())), y)
    assert title_of(figure) == "Reliability diagram"


def test_the_reliability_diagram_shows_all_that_is_in_it(figures, judged):
    both, y = judged
    tables = [calibration.reliability(p, y) for p in both.values()]
    layout = figures["reliability"].layout
    assert layout.xaxis.range == layout.yaxis.range == layout.xaxis4.range
    low, high = layout.xaxis.range
    lowest = 100 * min(table["ci_low"].min() for table in tables)
    assert lowest - 10 < low <= lowest < 100 < high


@pytest.mark.parametrize(
    "confidence",
    [
        [0.21, *np.linspace(0.85, 0.99, 44)],
        [0.3, 0.7],
        [np.nextafter(0.7, 0), 0.9],
        [0.5, 1 + 1e-7],
    ],
)
def test_the_histogram_of_confidence_holds_every_photo(confidence):
    """
    Those below the interval of the lowest bin, at an edge, and beyond 1 by rounding.
    """
    y = np.zeros(len(confidence), int)
    figure = plots.reliability({"head": with_confidence(confidence)}, y)
    assert sum(figure.data[2].y) == len(confidence)
    assert figure.layout.xaxis.range[0] <= 100 * min(confidence)


def test_a_model_that_always_abstains_is_given_no_selective_accuracy():
    table = pd.DataFrame({"coverage": [0.5, 1.0], "accuracy": [1.0, 0.5]})
    figure = plots.coverage(table.assign(ci_low=0.2, ci_high=1.0), 0.0)
    assert title_of(figure) == "The model always abstains"
    assert not figure.layout.annotations


def test_coverage_shows_the_accuracy_its_interval_the_target_and_the_chosen_one(
    figures,
):
    figure = figures["coverage"]
    band, line = figure.data
    assert_allclose(line.x, np.arange(20, 201) / 2)
    assert_allclose(line.y, 100 - line.x / 10)
    assert band.fill == "toself"
    assert_allclose(band.y[: len(line.y)], line.y - 2)
    assert_allclose(band.y[len(line.y) :], 100)
    [mark], [target] = figure.layout.annotations, figure.layout.shapes
    assert (mark.x, mark.y) == (75, pytest.approx(92.5))
    assert mark.text == "threshold: coverage 75.0%,<br>selective accuracy 92.5%"
    assert (target.y0, target.label.text) == (98, "target: 98%")


# --- Shown and saved ------------------------------------------------------------------


def test_a_saved_page_holds_the_figure_needs_no_network_and_replaces_what_is_older(
    figures, shown, tmp_path
):
    for name in ("gaps.png", "other.png", "plotly.min.js"):
        (tmp_path / name).write_bytes(b"older")
    pages = {}
    for name in ("counts 6", "gaps", "gaps"):
        plots.show(figures[name], name, tmp_path)
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert re.findall(r"(?:src|href)=[\"']?([^\"'> ]*)", page) == ["plotly.min.js"]
        assert not re.search(r"import\s*\(|fetch\s*\(|cdn", page, re.IGNORECASE)
        data = re.search(rf"(?s){name}\",\s*(\[.*?\}}\]),\s*\{{\"template", page)[1]
        assert json.loads(data) == json.loads(figures[name].to_json())["data"]
        assert len(page) < 200_000
        assert pages.setdefault(name, page) == page, "saved again, it is the same"
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pages = {"counts 6.html", "gaps.html"}
    assert set(found) == pages | {"README.md", "other.png", "plotly.min.js"}
    assert found["other.png"] == b"older"
    assert found["plotly.min.js"] == get_plotlyjs().encode()


@pytest.fixture
def picture(shown, monkeypatch):
    """Return the picture that is drawn of each figure, without a browser."""
    Image.new("RGB", (40, 20), "#0072B2").save(file := io.BytesIO(), "PNG")
    monkeypatch.setattr(chrome, "draw", lambda figure: (file.getvalue(), None))
    return file.getvalue()


def test_a_picture_is_saved_and_shown_at_half_its_size(
    figures, shown, picture, tmp_path
):
    """JupyterLab cuts off one that is larger than its figure."""
    plots.show(figures["gaps"], "heat", tmp_path)
    assert (tmp_path / "heat.png").read_bytes() == picture
    [data] = shown
    assert set(data) == {"application/vnd.plotly.v1+json", "image/png"}
    assert data["application/vnd.plotly.v1+json"] == json.loads(
        figures["gaps"].to_json()
    )
    with Image.open(io.BytesIO(data["image/png"])) as half:
        assert half.size == (20, 10)
        assert half.getcolors() == [(200, (0, 0x72, 0xB2))]


def test_without_chrome_the_first_figure_carries_the_reason_and_the_script_each_time(
    figures, shown, monkeypatch, tmp_path, printed
):
    monkeypatch.setattr(plots, "_first", {})
    for name in ("first", "second", "third", "first"):
        plots.show(figures["counts 20"], name, tmp_path)
    assert printed() == "No Chrome.\n" * 2
    assert {tuple(data) for data in shown} == {
        ("application/vnd.plotly.v1+json", "text/html")
    }
    assert [len(data["text/html"]) > 1e6 for data in shown] == [
        True,
        False,
        False,
        True,
    ]


def entitled(title):
    """Return a figure with a title."""
    return look.style(go.Figure(go.Bar(y=[1])), "its name", title)


def test_the_readme_of_a_folder_shows_each_picture_under_its_title(picture, tmp_path):
    odd = look.short("<b>a_b</b>\n# [c](d)")
    titles = {"second": "91.9% of all<br><sup>a note</sup>", "first": f"{odd} mix most"}
    for name, title in (*titles.items(), ("second", "92.0%: +0.1 points")):
        plots.show(entitled(title), name, tmp_path)
        if name == "first":
            earlier = (tmp_path / "README.md").read_text()
    assert "## [91.9% of all](second.html)\n" in earlier
    (tmp_path / "second.png").unlink()
    plots.show(entitled(""), "third", tmp_path)
    assert (tmp_path / "README.md").read_text() == (
        "# The plots and what they show\n\n"
        "Written by the code that draws the plots. "
        "The titles lead to the interactive plots.\n\n"
        "## [&lt;b&gt;a\\_b&lt;/b&gt; # \\[c\\](d) mix most](first.html)\n\n"
        "![first](first.png)\n\n"
        "## [92.0%: +0.1 points](second.html)\n\n"
        "## [its name](third.html)\n\n"
        "![third](third.png)\n"
    )


def test_the_readme_leaves_out_what_is_no_plot_with_a_title(picture, tmp_path):
    """Files of a user, of an interrupted run or of another version."""
    (tmp_path / "folder.html").mkdir()
    odd = [b"\xff", b"<p>Plotly</p>", b'Plotly.newPlot("call", figure)']
    for title in (b'"text"', b'{"text": 5}'):
        odd.append(b'Plotly.newPlot("other", [], {"title": %b}, {})' % title)
    odd.append(go.Figure().to_html(include_plotlyjs=False).encode())
    for number, content in enumerate(odd):
        (tmp_path / f"{number}.html").write_bytes(content)
    plots.show(entitled("A title"), "one", tmp_path)
    found = re.findall("(?m)^[#!].*", (tmp_path / "README.md").read_text())
    assert found[1:] == ["## [A title](one.html)", "![one](one.png)"]


@pytest.mark.parametrize("text", ["", "# The plots and what they show\n\nMine"])
def test_a_readme_that_no_run_has_written_stays_as_it_is(text, picture, tmp_path):
    (tmp_path / "README.md").write_text(text)
    plots.show(entitled("A title"), "one", tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_the_committed_readme_is_the_one_that_a_run_writes(tmp_path):
    there = ROOT / "plotly_plots"
    for path in [*there.glob("*.html"), *there.glob("*.png")]:
        shutil.copy(path, tmp_path)
    plots.write_contents(tmp_path)
    expected = (there / "README.md").read_bytes()
    assert (tmp_path / "README.md").read_bytes() == expected
