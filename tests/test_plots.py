"""
Each plot shows its numbers, in one look, for any classes, and is saved to be opened
anywhere.
"""

import html
import io
import itertools
import json
import re
from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs
from threadpoolctl import threadpool_limits

import scenes
import scenes.chrome
import scenes.evaluation
import scenes.plots

RATES, DROPOUTS, DECAYS, FOLDS, EPOCHS = [0.001, 0.01], [0.1, 0.3, 0.5], [0, 1e-4], 3, 4
LOOK = {"title": "A title"}
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


def names(number: int) -> list[str]:
    """Return names of classes, the odd ones among them where there are enough."""
    if number == 6:
        return ["buildings", "forest", "glacier", "mountain", "sea", "street"]
    odd = ODD if number > len(ODD) else ODD[:1]
    return sorted([*odd, *(f"class {i:03}" for i in range(number - len(odd)))])


def draw_results(*values: Iterable[float]) -> pd.DataFrame:
    """
    Return the results of a grid search with these hyperparameters, folds and epochs.
    """
    names = [*scenes.HYPERPARAMETERS, "fold", "epoch"]
    table = pd.DataFrame(itertools.product(*values), columns=names)
    accuracies = np.random.default_rng(0).uniform(
        0.5, 1, (len(table), len(scenes.METRICS))
    )
    return table.join(pd.DataFrame(accuracies.round(4), columns=list(scenes.METRICS)))


def draw_search(results: pd.DataFrame, title: str) -> go.Figure:
    """Return the plot of the results of a grid search."""
    ranked = scenes.evaluation.rank_epochs(results)
    return scenes.plots.grid_search(ranked, title)


@pytest.fixture(scope="module")
def results():
    return draw_results(
        RATES, DROPOUTS, DECAYS, range(1, FOLDS + 1), range(1, EPOCHS + 1)
    )


@pytest.fixture(scope="module")
def history():
    """Return the history of a training of four epochs."""
    values = np.random.default_rng(0).uniform(0, 1, (4, 4))
    return pd.DataFrame(values, columns=list(scenes.METRICS)).assign(epoch=range(1, 5))


@pytest.fixture(scope="module")
def photos():
    """
    Return for numbers of classes a table, features that lie apart and predictions.
    """

    def draw(number: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
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


@pytest.fixture(scope="module")
def tables():
    """Return the reliability of two classifiers."""
    confidence = np.linspace(0.35, 0.95, 10)
    table = pd.DataFrame(
        {"confidence": confidence, "accuracy": confidence, "photos": 200}
    )
    tables = {
        "calibrated": table,
        "overconfident": table.assign(accuracy=confidence**2),
    }
    return {
        name: table.assign(
            ci_low=table["accuracy"] - 0.02, ci_high=table["accuracy"] + 0.01
        )
        for name, table in tables.items()
    }


@pytest.fixture(scope="module", autouse=True)
def short_tsne():
    """Let t-SNE stop early, in one thread: of what it shows, these tests ask little."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(scenes.plots, "TSNE", partial(scenes.plots.TSNE, max_iter=300))
        yield


def draw_all(results, history, photos, tables) -> dict[str, go.Figure]:
    """
    Return one figure of each plot of numbers, and three for each number of classes.
    """
    trainings = pd.DataFrame({"photos": [100, 400] * 3, "seed": [0, 0, 1, 1, 2, 2]})
    trainings["val_accuracy"] = [0.7, 0.8, 0.72, 0.83, 0.77, 0.83]
    confidences = {
        name: np.repeat(table["confidence"], 200) for name, table in tables.items()
    }
    answered = pd.DataFrame(
        {"coverage": [0.5, 0.75, 1.0], "accuracy": [1.0, 0.96, 0.9]}
    )
    drawn = {
        "grid_search": draw_search(results, **LOOK),
        "heatmap": scenes.plots.heatmap(scenes.evaluation.summarize(results), **LOOK),
        "history": scenes.plots.history(history, **LOOK),
        "learning_curve": scenes.plots.learning_curve(trainings, **LOOK),
        "calibration": scenes.plots.calibration(
            tables, confidences=confidences, **LOOK
        ),
        "coverage": scenes.plots.coverage(answered, answered=0.75, **LOOK),
    }
    for number, (images, features, predictions) in photos.items():
        labels = images["label"]
        drawn[f"counts {number}"] = scenes.plots.counts(images, **LOOK)
        drawn[f"feature_map {number}"] = scenes.plots.feature_map(
            features, labels, **LOOK
        )
        drawn[f"confusion {number}"] = scenes.plots.confusion(
            labels, predictions, **LOOK
        )
    return drawn


@pytest.fixture(scope="module")
def figures(results, history, photos, tables):
    return draw_all(results, history, photos, tables)


AXES = {
    "counts 6": {"class", "number of photos"},
    "feature_map 6": {"t-SNE 1", "t-SNE 2"},
    "grid_search": {"epoch", "validation accuracy"},
    "heatmap": {"weight decay", "dropout"},
    "history": {"epoch", "loss", "accuracy"},
    "learning_curve": {"number of training photos (log scale)"},
    "confusion 6": {"predicted class", "true class"},
    "calibration": {
        "confidence (probability of the predicted class)",
        "accuracy",
        "photos",
    },
    "coverage": {"coverage", "selective accuracy"},
}


def texts(figure: go.Figure) -> set[str]:
    """Return the titles of the axes and all annotations."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    notes = {note.text for note in figure.layout.annotations}
    return notes | {axis.title.text for axis in axes if axis.title.text}


def read(shown: object) -> str:
    """Return a name as plotly shows it."""
    return html.unescape(str(shown))


# --- One look -------------------------------------------------------------------------


@pytest.mark.parametrize("name", AXES)
def test_a_plot_has_the_title_it_is_given_named_axes_and_the_common_look(figures, name):
    figure, common = figures[name], figures["counts 6"].layout
    assert figure.layout.title.text == LOOK["title"]
    assert texts(figure) >= AXES[name]
    assert (figure.layout.font, figure.layout.template) == (
        common.font,
        common.template,
    )
    assert figure.layout.width == 850
    assert {trace.type for trace in figure.data} <= {
        "bar",
        "scatter",
        "heatmap",
    }  # no WebGL
    assert "epoch" not in AXES[name] or figure.layout.xaxis.dtick == 1


def test_what_a_reader_has_set_in_plotly_changes_no_figure(
    results, history, photos, tables, figures, monkeypatch
):
    monkeypatch.setattr(pio.templates, "default", "plotly_dark+presentation")
    monkeypatch.setattr(pio.templates["plotly_white"].layout, "paper_bgcolor", "red")
    theirs = {"template": "ggplot2", "width": 300, "line_dash_sequence": ["dot"]}
    theirs |= {"color_discrete_sequence": ["red"], "color_continuous_scale": "Reds"}
    for name, value in theirs.items():
        monkeypatch.setattr(px.defaults, name, value)
    some = {number: photos[number] for number in (2, 6)}
    for name, figure in draw_all(results, history, some, tables).items():
        assert figure.to_json() == figures[name].to_json()


def test_a_long_curve_is_drawn_without_webgl_and_whole(results):
    table = pd.DataFrame({"coverage": np.linspace(0, 1, 3000), "accuracy": 1.0})
    coverage = scenes.plots.coverage(table, "3,000 photos, all right", answered=1)
    long = pd.concat(
        [results.assign(epoch=results["epoch"] + 4 * i) for i in range(50)]
    )
    search = draw_search(long, "200 epochs")
    assert len(search.data[0].x) > 1000
    assert {trace.type for trace in [*coverage.data, *search.data]} == {"scatter"}
    low, high = coverage.layout.yaxis.range
    assert 0.97 < low < 1 < high < 1.01


# --- Any classes ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 6, 20, 100])
def test_classes_have_the_same_order_and_names_everywhere(figures, number):
    classes = names(number)
    for bars in figures[f"counts {number}"].data:
        assert [read(name) for name in bars.x] == classes
    clouds = figures[f"feature_map {number}"].data
    hovers = [
        read(cloud.hovertemplate.removesuffix("<extra></extra>")) for cloud in clouds
    ]
    assert hovers == classes
    heat = figures[f"confusion {number}"]
    assert [read(name) for name in heat.data[0].x] == classes
    assert [read(name) for name in heat.data[0].y] == classes
    assert heat.layout.yaxis.autorange == "reversed"


@pytest.mark.parametrize("number", [2, 6, 20])
def test_each_class_has_a_look_of_its_own_and_its_name_in_the_legend(figures, number):
    figure = figures[f"feature_map {number}"]
    looks = {(cloud.marker.color, cloud.marker.symbol) for cloud in figure.data}
    assert len(looks) == number
    assert figure.layout.showlegend
    for cloud, name in zip(figure.data, names(number), strict=True):
        assert read(cloud.name) in (name, f"{name[:23]}…")


def test_a_hundred_classes_are_named_by_the_mouse_alone(figures):
    assert not figures["feature_map 100"].layout.showlegend
    assert figures["counts 100"].data[0].texttemplate is None
    for number in (20, 100):
        assert figures[f"confusion {number}"].data[0].texttemplate is None
    for axis in ("counts 100", "confusion 100"):
        ticks = figures[axis].layout.xaxis.tickvals
        assert [read(name) for name in ticks] == names(100)[::4]


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
    assert [read(name) for name in axis.tickvals] == names(20)
    shown = [name if name != LONG else f"{LONG[:23]}…" for name in names(20)]
    assert [read(name) for name in axis.ticktext] == shown
    assert LONG in figure.data[0].x


# --- The photos and their features ----------------------------------------------------


@pytest.mark.parametrize("number", [2, 20])
def test_counts_shows_the_number_of_photos_of_each_class_and_split(
    figures, photos, number
):
    images, figure = photos[number][0], figures[f"counts {number}"]
    shown = {
        bars.name: dict(zip(map(read, bars.x), bars.y, strict=True))
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


def test_feature_map_puts_photos_of_a_class_near_each_other(figures):
    places = {
        t.name: np.stack([t.x, t.y], axis=1) for t in figures["feature_map 6"].data
    }
    assert not figures["feature_map 6"].layout.xaxis.showticklabels
    assert [len(rows) for rows in places.values()] == [20] * 6
    centres = {name: rows.mean(axis=0) for name, rows in places.items()}
    for name, rows in places.items():
        distances = {
            c: np.linalg.norm(rows - centre, axis=1) for c, centre in centres.items()
        }
        assert set(pd.DataFrame(distances).idxmin(axis=1)) == {name}


def test_feature_map_takes_a_sample_by_its_seed(photos):
    images, features, _ = photos[6]
    draw = partial(scenes.plots.feature_map, features, images["label"], "20", sample=20)
    first, again = draw(seed=1), draw(seed=1)
    assert first == again
    assert sum(len(trace.x) for trace in first.data) == 20


def test_feature_map_bears_features_that_are_all_alike(photos):
    """As those of a base model without weights are."""
    labels = photos[6][0]["label"][:12]
    figure = scenes.plots.feature_map(np.zeros((12, 1280), "float32"), labels, "Zeros")
    assert sum(len(trace.x) for trace in figure.data) == 12


# --- The grid search ------------------------------------------------------------------


def curves_of(figure: go.Figure) -> dict[str, list[np.ndarray]]:
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
        np.testing.assert_allclose(shown, expected.loc[rate], rtol=1e-6)
    assert list(figures["grid_search"].data[0].x)[:EPOCHS] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(("folds", "digits"), [(1, 1), (FOLDS, 4)])
def test_grid_search_shows_the_best_setting_and_its_standard_deviation(
    results, folds, digits
):
    """With one digit, many accuracies are equal, and the lower loss decides."""
    some = results[results["fold"] <= folds].round({"val_accuracy": digits})
    figure = draw_search(some, "The best in colour")
    assert np.isfinite(figure.layout.yaxis.range).all()
    *grey, line, point = figure.data
    assert [trace.showlegend for trace in grey] == [True, False]
    best = scenes.evaluation.summarize(some).iloc[0]
    curve = some.set_index(scenes.HYPERPARAMETERS).loc[*best[scenes.HYPERPARAMETERS]]
    np.testing.assert_allclose(
        line.y, curve.groupby("epoch")["val_accuracy"].mean(), rtol=1e-6
    )
    rate, dropout, decay = best[scenes.HYPERPARAMETERS]
    setting = f"learning rate {rate:g}, dropout {dropout:g}, weight decay {decay:g}"
    assert line.name == f"best setting: {setting}"
    assert (*point.x, *point.y) == (best["epoch"], pytest.approx(best["val_accuracy"]))
    told = f"its best epoch: {best['epoch']:g} ({best['val_accuracy']:.2%}"
    if folds > 1:
        told += f", standard deviation over folds {best['std']:.2%}"
        assert point.error_y.array[0] == pytest.approx(best["std"])
    assert point.name == f"{told})"
    panel = grey[RATES.index(rate)]
    assert line.xaxis == point.xaxis == panel.xaxis
    assert {trace.line.color for trace in grey} == {"#BFBFBF"}
    assert line.marker.color == point.marker.color == scenes.plots.VALIDATION_COLOR


def test_the_accuracy_axis_leaves_out_the_first_epochs(results):
    """It shows the later half, but for the lowest twentieth, and the error bar."""
    rising = results.assign(
        val_accuracy=0.2 * results["epoch"] + 0.05 * results["fold"]
    )
    axes = list(draw_search(rising, "From 0.3 to 0.9").select_yaxes())
    low, high = axes[0].range
    assert 0.65 < low < 0.7
    assert 0.95 < high < 1
    assert {axis.matches for axis in axes} <= {None, "y"}


@pytest.mark.parametrize(("panels", "rows"), [(1, 1), (4, 1), (5, 2), (9, 3)])
def test_panels_are_wrapped_into_rows_of_at_most_four(panels, rows):
    rates = [10.0**-i for i in range(panels, 0, -1)]
    many = draw_results(rates, DROPOUTS, DECAYS, [1], [1, 2])
    titles = [f"learning rate {rate:g}" for rate in rates]
    search = draw_search(many, "Many rates")
    heats = scenes.plots.heatmap(scenes.evaluation.summarize(many), "Many rates")
    assert list(curves_of(search)) == titles
    notes = {note.text for note in heats.layout.annotations}
    assert notes == {*titles, "weight decay", "dropout"}
    for figure in (search, heats):
        panel_axes = {(trace.xaxis, trace.yaxis) for trace in figure.data}
        assert len(panel_axes) == panels
        assert len({axis.domain for axis in figure.select_yaxes()}) == rows
        columns = {axis.domain for axis in figure.select_xaxes()}
        assert len(columns) == -(-panels // rows)
    assert heats.layout.height == search.layout.height - 60 == 260 + 240 * rows


def test_a_large_search_takes_little_room_in_the_notebook():
    """512 settings of 20 epochs, in the figure and not in its template of 7 kB."""
    decays = np.arange(8) / 1000
    large = draw_results(decays + 0.001, np.arange(8) / 10, decays, [1], range(1, 21))
    figure = draw_search(large, "512 settings")
    assert len(figure.data) == 10
    assert len(figure.to_json()) < 10 * len(large) + 20_000


def test_a_single_epoch_is_a_point_that_one_can_see(results, history):
    search = draw_search(results[results["epoch"] == 1], "One epoch")
    without_validation = history[["epoch", "loss", "accuracy"]][:1]
    training = scenes.plots.history(without_validation, "One epoch")
    assert {trace.mode for trace in [*search.data, *training.data]} == {"markers"}
    assert {trace.name for trace in training.data} == {"training"}
    low, high = search.layout.yaxis.range
    assert low < search.data[-1].y[0] < high


def test_heatmap_has_numbers_or_a_colour_bar(results):
    few = scenes.plots.heatmap(scenes.evaluation.summarize(results), "Four columns")
    many = draw_results(RATES, DROPOUTS, range(11), [1], [1])
    many = scenes.plots.heatmap(scenes.evaluation.summarize(many), "22 columns")
    assert [f.data[0].texttemplate for f in (few, many)] == ["%{z:.2f}", None]
    assert [f.layout.coloraxis.showscale for f in (few, many)] == [False, True]


def test_heatmap_shows_the_best_mean_accuracy_of_each_setting(figures, results):
    figure = figures["heatmap"]
    titles = [note.text for note in figure.layout.annotations]
    assert titles[: len(RATES)] == [f"learning rate {rate:g}" for rate in RATES]
    means = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"].mean()
    best = means.groupby(scenes.HYPERPARAMETERS).max()
    for rate, heat in zip(RATES, figure.data, strict=True):
        assert list(heat.x) == [f"{decay:g}" for decay in DECAYS]
        assert list(heat.y) == [f"{dropout:g}" for dropout in DROPOUTS]
        np.testing.assert_allclose(heat.z, 100 * best[rate].unstack(), atol=1e-6)


# --- Trainings and their models -------------------------------------------------------


def test_history_shows_training_and_validation(figures, history):
    lines = figures["history"].data
    metrics = ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert [line.name for line in lines] == ["training", "validation"] * 2
    assert [line.showlegend for line in lines] == [None, None, False, False]
    for line, metric in zip(lines, metrics, strict=True):
        assert list(line.x) == [1, 2, 3, 4]
        np.testing.assert_allclose(line.y, history[metric], atol=1e-5)
    assert lines[0].line.color == lines[2].line.color != lines[1].line.color


def test_learning_curve_shows_mean_and_range_over_seeds_by_number_of_photos(figures):
    figure = figures["learning_curve"]
    [line] = figure.data
    assert list(line.x) == list(figure.layout.xaxis.tickvals) == [100, 400]
    assert figure.layout.xaxis.type == "log"
    np.testing.assert_allclose(line.y, [0.73, 0.82])
    np.testing.assert_allclose(line.error_y.array, [0.04, 0.01])
    np.testing.assert_allclose(line.error_y.arrayminus, [0.03, 0.02])


@pytest.mark.parametrize("number", [6, 100])
def test_confusion_shows_counts_and_row_percentages(figures, photos, number):
    images, _, predicted = photos[number]
    heat = figures[f"confusion {number}"].data[0]
    counts = pd.crosstab(images["label"].astype(str), predicted)
    counts = counts.reindex(
        index=names(number), columns=names(number), fill_value=0
    ).to_numpy()
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(heat.z, shares)
    for shown, n, share in zip(heat.text.flat, counts.flat, shares.flat, strict=True):
        assert shown == f"{n}<br>{share:.1f}%"
    assert "%{text}" in heat.hovertemplate
    assert heat.texttemplate == ("%{text}" if number <= 12 else None)
    assert (heat.showscale is not False) == (number > 12)


def test_confusion_bears_a_class_without_photos():
    labels = pd.Series(pd.Categorical(["sea"], names(6)))
    heat = scenes.plots.confusion(labels, ["sea"], "One photo").data[0]
    assert heat.z[4][4] == np.sum(heat.z) == 100


def test_calibration_shows_each_bin_with_its_interval_and_a_histogram(figures, tables):
    diagonal, *traces = figures["calibration"].data
    assert list(diagonal.x) == list(diagonal.y)
    assert len({points.marker.color for points in traces[::2]}) == 2
    for points, steps, (name, table) in zip(
        traces[::2], traces[1::2], tables.items(), strict=True
    ):
        assert (points.name, points.mode, points.yaxis) == (name, "markers", None)
        np.testing.assert_allclose(points.x, table["confidence"])
        np.testing.assert_allclose(points.y, table["accuracy"])
        np.testing.assert_allclose(points.y + points.error_y.array, table["ci_high"])
        np.testing.assert_allclose(
            points.y - points.error_y.arrayminus, table["ci_low"]
        )
        assert (steps.line.color, steps.yaxis) == (points.marker.color, "y2")
        photos, edges = np.array(steps.y[:-1]), np.array(steps.x)
        assert photos.sum() == table["photos"].sum()
        inside = table["confidence"].between(edges[3], edges[30])
        assert photos[3:30].sum() == table["photos"][inside].sum() > 0


def test_the_reliability_diagram_shows_all_that_is_in_it(figures, tables):
    layout = figures["calibration"].layout
    assert layout.xaxis.range == layout.yaxis.range == layout.xaxis2.range
    low, high = layout.xaxis.range
    lowest = min(table["ci_low"].min() for table in tables.values())
    assert lowest - 0.1 < low <= lowest < 1 < high


@pytest.mark.parametrize(
    "confidence",
    [[0.21, 0.9, 0.95, 1], [0.3, 0.7], [np.nextafter(0.7, 0), 0.9], [0.5, 1 + 1e-7]],
)
def test_the_histogram_of_confidence_holds_every_photo(confidence):
    """Those below the mean of the lowest bin, at an edge, and beyond 1 by rounding."""
    table = pd.DataFrame({"confidence": [0.8], "accuracy": [0.9], "photos": [4]})
    table = table.assign(ci_low=0.75, ci_high=0.95)
    given = {"confidences": {"head": np.array(confidence)}}
    figure = scenes.plots.calibration({"head": table}, "One bin", **given)
    assert sum(figure.data[2].y) == len(confidence)
    assert figure.layout.xaxis.range[0] <= min(confidence)


def test_a_model_that_always_abstains_is_given_no_selective_accuracy():
    table = pd.DataFrame({"coverage": [0.5, 1.0], "accuracy": [1.0, 0.5]})
    figure = scenes.plots.coverage(table, "Unsure of all", answered=0.0)
    [mark] = figure.layout.annotations
    assert mark.text == "threshold: the model always abstains (coverage 0%)"
    assert not mark.showarrow


def test_coverage_shows_the_accuracy_of_each_share_and_marks_the_chosen_one(figures):
    [line], [mark] = figures["coverage"].data, figures["coverage"].layout.annotations
    assert list(line.x) == [0.5, 0.75, 1.0]
    assert list(line.y) == [1.0, 0.96, 0.9]
    assert (mark.x, mark.y) == (0.75, 0.96)
    assert mark.text == "threshold: coverage 75.0%,<br>selective accuracy 96.00%"


# --- Shown and saved ------------------------------------------------------------------


def test_a_saved_page_holds_the_figure_needs_no_network_and_replaces_what_is_older(
    figures, shown, tmp_path
):
    for name in ("heatmap.png", "other.png", "plotly.min.js"):
        (tmp_path / name).write_bytes(b"older")
    for name in ("counts 6", "heatmap"):
        scenes.plots.show(figures[name], name, tmp_path)
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert re.findall(r"(?:src|href)=[\"']?([^\"'> ]*)", page) == ["plotly.min.js"]
        assert not re.search(r"import\s*\(|fetch\s*\(|cdn", page, re.IGNORECASE)
        data = re.search(rf"(?s){name}\",\s*(\[.*?\}}\]),\s*\{{\"template", page)[1]
        assert json.loads(data) == json.loads(figures[name].to_json())["data"]
        assert len(page) < 200_000
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) == {"counts 6.html", "heatmap.html", "other.png", "plotly.min.js"}
    assert found["other.png"] == b"older"
    assert found["plotly.min.js"] == get_plotlyjs().encode()


def test_saving_a_figure_again_gives_the_same_bytes(figures, shown, tmp_path):
    folder = tmp_path / "a" / "b"
    for name in (*AXES, "counts 100", "confusion 100"):
        pages = set()
        for _ in range(2):
            scenes.plots.show(figures[name], name, folder)
            pages.add((folder / f"{name}.html").read_bytes())
        assert len(pages) == 1


def test_a_picture_is_saved_and_shown_at_half_its_size(
    figures, shown, monkeypatch, tmp_path
):
    """JupyterLab cuts off one that is larger than its figure."""
    Image.new("RGB", (40, 20), "#0072B2").save(picture := io.BytesIO(), "PNG")
    monkeypatch.setattr(
        scenes.chrome, "draw", lambda figure: (picture.getvalue(), None)
    )
    scenes.plots.show(figures["heatmap"], "heat", tmp_path)
    assert (tmp_path / "heat.png").read_bytes() == picture.getvalue()
    [data] = shown
    assert set(data) == {"application/vnd.plotly.v1+json", "image/png"}
    assert data["application/vnd.plotly.v1+json"] == json.loads(
        figures["heatmap"].to_json()
    )
    with Image.open(io.BytesIO(data["image/png"])) as half:
        assert half.size == (20, 10)
        assert half.getcolors() == [(200, (0, 0x72, 0xB2))]


def test_without_chrome_the_first_figure_carries_the_reason_and_the_script_each_time(
    figures, shown, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(scenes.plots, "_first", {})
    for name in ("first", "second", "third", "first"):
        scenes.plots.show(figures["counts 20"], name, tmp_path)
    assert capsys.readouterr().out == "No Chrome.\n" * 2
    assert {tuple(data) for data in shown} == {
        ("application/vnd.plotly.v1+json", "text/html")
    }
    assert [len(data["text/html"]) > 1e6 for data in shown] == [
        True,
        False,
        False,
        True,
    ]
