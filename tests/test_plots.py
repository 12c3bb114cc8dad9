"""Each plot shows its numbers, in one look, and is saved to be opened anywhere."""

import io
import json
import os
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from conftest import draw, read_table
from PIL import Image

import scenes
import scenes.plots
import utils

RATES, DROPOUTS, DECAYS, FOLDS, EPOCHS = [0.001, 0.01], [0.1, 0.3, 0.5], [0, 1e-4], 3, 4


@pytest.fixture(scope="module")
def results():
    """Return the results of a grid search, drawn by chance."""
    index = pd.MultiIndex.from_product(
        [RATES, DROPOUTS, DECAYS, range(1, FOLDS + 1), range(1, EPOCHS + 1)],
        names=[*scenes.HYPERPARAMETERS, "fold", "epoch"],
    )
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {name: rng.uniform(0.5, 1, len(index)).round(4) for name in scenes.METRICS}, index=index
    ).reset_index()


@pytest.fixture(scope="module")
def history():
    """Return the histories of three runs of four epochs."""
    rng = np.random.default_rng(0)
    runs = [
        pd.DataFrame({"epoch": range(1, 5), "run": run}).join(
            pd.DataFrame(rng.uniform(0, 1, (4, 4)), columns=list(scenes.METRICS))
        )
        for run in (1, 2, 3)
    ]
    return pd.concat(runs)


@pytest.fixture(scope="module")
def labels():
    """Return true and predicted classes of 200 photos."""
    rng = np.random.default_rng(0)
    true = rng.choice(CLASSES, 200)
    return true, np.where(rng.random(200) < 0.7, true, rng.choice(CLASSES, 200))


@pytest.fixture(scope="module")
def chances():
    """Return the probabilities of two classifiers for 2,000 photos, and the labels."""
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.full(6, 0.4), 2000)
    labels = np.array([rng.choice(6, p=chances) for chances in honest])
    boastful = honest**3 / (honest**3).sum(axis=1, keepdims=True)
    return {"honest": honest, "boastful": boastful}, labels


@pytest.fixture(scope="module")
def clouds():
    """Return the features of 20 photos of each class that lie apart, and their classes."""
    rng = np.random.default_rng(0)
    names = np.repeat(CLASSES, 20)
    centres = np.repeat(rng.uniform(0, 6, (6, 1280)), 20, axis=0)
    order = rng.permutation(len(names))
    features = centres + rng.normal(0, 0.3, centres.shape)
    return features.astype("float32")[order], names[order]


@pytest.fixture(scope="module", autouse=True)
def short_tsne():
    """Let t-SNE stop early: of what it shows, these tests ask little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes.plots, "TSNE", partial(scenes.plots.TSNE, max_iter=300))
        yield


@pytest.fixture(scope="module")
def images(drawn_once):
    table = read_table(drawn_once)
    return utils.create_validation(table[table["label"].notna()])


@pytest.fixture(scope="module")
def figures(results, history, labels, clouds, images, chances):
    """Return one figure of each plot function."""
    probabilities, true = chances
    tables = {name: utils.calibration(given, true) for name, given in probabilities.items()}
    return {
        "plot_counts": scenes.plots.plot_counts(images),
        "plot_features": scenes.plots.plot_features(*clouds),
        "plot_grid_search": scenes.plots.plot_grid_search(results),
        "plot_grid_heatmap": scenes.plots.plot_grid_heatmap(utils.summarize(results)),
        "plot_best": scenes.plots.plot_best(
            utils.summarize(results), "dropout", "epoch", "Each pair"
        ),
        "plot_parallel": scenes.plots.plot_parallel(utils.summarize(results), "Twelve settings"),
        "plot_history": scenes.plots.plot_history(history, "Three runs"),
        "plot_confusion_matrix": scenes.plots.plot_confusion_matrix(*labels, "The mistakes"),
        "plot_calibration": scenes.plots.plot_calibration(tables, "Two classifiers"),
    }


AXES = {
    "plot_counts": {"class", "number of photos"},
    "plot_features": {"t-SNE 1 (no unit)", "t-SNE 2 (no unit)"},
    "plot_grid_search": {"epoch", "validation accuracy"},
    "plot_grid_heatmap": {"weight decay", "dropout"},
    "plot_best": {"dropout", "epoch"},
    "plot_parallel": {"learning rate", "dropout", "weight decay", "best epoch", "accuracy (%)"},
    "plot_history": {"epoch", "loss", "accuracy"},
    "plot_confusion_matrix": {"predicted class", "true class"},
    "plot_calibration": {
        "confidence: probability of the predicted class",
        "accuracy: share of the photos that it is right on",
    },
}


def texts(figure: go.Figure) -> set[str]:
    """Return the titles of the axes and all annotations."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    notes = {note.text for note in figure.layout.annotations}
    notes |= {d.label for t in figure.select_traces({"type": "parcoords"}) for d in t.dimensions}
    return notes | {axis.title.text for axis in axes if axis.title.text}


def lines_of(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if not trace.fill]


def bands_of(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.fill]


# --- One look -------------------------------------------------------------------------


def test_every_plot_function_is_looked_at(figures):
    named = {name for name in vars(scenes.plots) if name.startswith("plot_")}
    assert named == set(figures) == set(AXES)


@pytest.mark.parametrize("name", AXES)
def test_a_plot_has_a_title_named_axes_and_the_common_look(figures, name):
    figure = figures[name]
    assert isinstance(figure, go.Figure)
    assert len(figure.layout.title.text) > 8
    assert texts(figure) >= AXES[name]
    common = figures["plot_counts"].layout
    assert figure.layout.font == common.font
    assert figure.layout.template == common.template
    assert figure.layout.title.x == common.title.x
    assert figure.layout.width >= 800
    assert figure.layout.height >= 400


@pytest.mark.parametrize("name", sorted(AXES.keys() - {"plot_parallel"}))
def test_a_plot_is_drawn_without_webgl(figures, name):
    """Plotly draws parallel coordinates with WebGL alone; the PNG shows them everywhere."""
    assert {trace.type for trace in figures[name].data} <= {"bar", "scatter", "heatmap"}


def test_classes_have_the_same_order_and_colours_everywhere(figures):
    counts, features, confusion = (
        figures[f"plot_{name}"] for name in ("counts", "features", "confusion_matrix")
    )
    for bars in counts.data:
        assert tuple(bars.x) == CLASSES
    assert tuple(trace.name for trace in features.data) == CLASSES
    assert [trace.marker.color for trace in features.data] == list(scenes.plots.COLORS.values())
    assert tuple(confusion.data[0].x) == tuple(confusion.data[0].y) == CLASSES
    assert confusion.layout.yaxis.autorange == "reversed"
    assert len(set(scenes.plots.COLORS.values())) == len(CLASSES)


# --- The numbers ----------------------------------------------------------------------


def test_plot_counts_shows_the_number_of_photos_of_each_class_and_split(figures, images):
    shown = {
        bars.name: dict(zip(bars.x, bars.y, strict=True)) for bars in figures["plot_counts"].data
    }
    assert set(shown) == {"train", "validation", "test"}
    for (split, label), rows in images.groupby(["split", "label"], observed=True):
        assert shown[split][label] == len(rows)
    assert sum(sum(row.values()) for row in shown.values()) == len(images) == 54
    assert figures["plot_counts"].layout.barmode in ("stack", "relative")


def test_plot_features_puts_photos_of_a_class_near_each_other(figures):
    places = {t.name: np.stack([t.x, t.y], axis=1) for t in figures["plot_features"].data}
    assert [len(rows) for rows in places.values()] == [20] * 6
    centres = {name: rows.mean(axis=0) for name, rows in places.items()}
    for name, rows in places.items():
        for row in rows:
            distances = {other: np.linalg.norm(row - centre) for other, centre in centres.items()}
            assert min(distances, key=distances.get) == name


def test_plot_features_takes_a_sample_by_its_seed(clouds):
    first, again = (scenes.plots.plot_features(*clouds, sample=20, seed=1) for _ in range(2))
    assert first == again
    assert sum(len(trace.x) for trace in first.data) == 20
    assert "features of 20 training photos" in first.layout.title.text


def test_plot_features_bears_features_that_are_all_alike(clouds):
    """As those of a trunk without weights are."""
    figure = scenes.plots.plot_features(np.zeros((12, 1280), "float32"), clouds[1][:12])
    assert sum(len(trace.x) for trace in figure.data) == 12


def test_plot_grid_search_shows_each_setting_with_mean_and_band(figures, results):
    figure = figures["plot_grid_search"]
    lines, bands = lines_of(figure), bands_of(figure)
    assert len(lines) == len(bands) == len(RATES) * len(DROPOUTS) * len(DECAYS)
    assert {f"learning rate {rate:g}" for rate in RATES} <= texts(figure)
    assert {f"dropout {dropout:g}" for dropout in DROPOUTS} <= texts(figure)
    by_setting = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"]
    mean, std = by_setting.mean(), by_setting.std()
    left = iter(zip(lines, bands, strict=True))
    for dropout in DROPOUTS:
        for rate in RATES:
            for decay in DECAYS:
                line, band = next(left)
                expected, spread = mean[rate, dropout, decay], std[rate, dropout, decay]
                assert line.name == f"{decay:g}"
                assert list(line.x) == list(range(1, EPOCHS + 1))
                np.testing.assert_allclose(line.y, expected)
                np.testing.assert_allclose(band.y[:EPOCHS], expected + spread)
                np.testing.assert_allclose(band.y[EPOCHS:], (expected - spread)[::-1])


def test_plot_grid_search_names_each_weight_decay_once_in_one_colour(figures):
    lines = lines_of(figures["plot_grid_search"])
    assert [line.name for line in lines if line.showlegend] == [f"{decay:g}" for decay in DECAYS]
    for decay in DECAYS:
        same = {(t.line.color, t.line.dash) for t in lines if t.name == f"{decay:g}"}
        assert len(same) == 1


def test_plot_grid_search_shares_its_axes(figures):
    for axes in (
        figures["plot_grid_search"].select_xaxes,
        figures["plot_grid_search"].select_yaxes,
    ):
        ranges = [axis.matches for axis in axes()]
        assert len(ranges) == len(RATES) * len(DROPOUTS)
        assert len({matched for matched in ranges if matched}) == ranges.count(None) == 1


@pytest.mark.parametrize("decays", [1, 9])
def test_plot_grid_search_takes_any_number_of_settings(results, decays):
    one = results.query("learning_rate == 0.001 and dropout == 0.1 and weight_decay == 0")
    many = pd.concat([one.assign(weight_decay=10.0**-i) for i in range(decays)])
    lines = lines_of(scenes.plots.plot_grid_search(many))
    assert len({(t.line.color, t.line.dash) for t in lines}) == len(lines) == decays


def test_plot_grid_heatmap_shows_the_best_mean_accuracy_of_each_setting(figures, results):
    figure = figures["plot_grid_heatmap"]
    assert [note.text for note in figure.layout.annotations][: len(RATES)] == [
        f"learning rate {rate:g}" for rate in RATES
    ]
    means = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"].mean()
    best = means.groupby(scenes.HYPERPARAMETERS).max()
    for rate, heat in zip(RATES, figure.data, strict=True):
        assert list(heat.x) == [f"{decay:g}" for decay in DECAYS]
        assert list(heat.y) == [f"{dropout:g}" for dropout in DROPOUTS]
        np.testing.assert_allclose(heat.z, 100 * best[rate].unstack(), atol=1e-6)


def test_plot_best_shows_the_highest_accuracy_of_each_pair(figures, results):
    summary = utils.summarize(results)
    [heat] = figures["plot_best"].data
    assert list(heat.x) == [f"{dropout:g}" for dropout in DROPOUTS]
    assert list(heat.y) == [f"{epoch}" for epoch in sorted(summary["epoch"].unique())]
    for row, epoch in enumerate(sorted(summary["epoch"].unique())):
        for column, dropout in enumerate(DROPOUTS):
            same = summary[(summary["epoch"] == epoch) & (summary["dropout"] == dropout)]
            shown = heat.z[row][column]
            if len(same):
                assert shown == pytest.approx(100 * same["val_accuracy"].max())
            else:
                assert np.isnan(shown)


def test_plot_parallel_gives_each_setting_its_line(figures, results):
    summary = utils.summarize(results)
    [lines] = figures["plot_parallel"].data
    dimensions = dict(
        zip([*scenes.HYPERPARAMETERS, "epoch", "accuracy"], lines.dimensions, strict=True)
    )
    for name in scenes.HYPERPARAMETERS:
        ticks = np.array(dimensions[name].ticktext, dtype=float)
        assert list(ticks) == sorted(summary[name].unique())
        np.testing.assert_array_equal(ticks[np.array(dimensions[name]["values"])], summary[name])
    np.testing.assert_array_equal(dimensions["epoch"]["values"], summary["epoch"])
    for shown in (dimensions["accuracy"]["values"], lines.line.color):
        np.testing.assert_allclose(shown, 100 * summary["val_accuracy"])


def test_plot_history_shows_means_and_bands_of_several_runs(figures, history):
    lines, bands = lines_of(figures["plot_history"]), bands_of(figures["plot_history"])
    metrics = ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert [line.name for line in lines] == ["training", "validation"] * 2
    for line, band, metric in zip(lines, bands, metrics, strict=True):
        by_epoch = history.groupby("epoch")[metric]
        assert list(line.x) == [1, 2, 3, 4]
        np.testing.assert_allclose(line.y, by_epoch.mean())
        np.testing.assert_allclose(band.y[:4], by_epoch.mean() + by_epoch.std())
    assert lines[0].line.color == lines[2].line.color != lines[1].line.color


def test_plot_history_of_one_run_has_bands_without_width(history):
    one = history[history["run"] == 1]
    figure = scenes.plots.plot_history(one, "One run")
    band = bands_of(figure)[0]
    np.testing.assert_array_equal(band.y, [*one["loss"], *one["loss"][::-1]])


def test_plot_history_without_validation_shows_training_alone(history):
    figure = scenes.plots.plot_history(history[["epoch", "loss", "accuracy"]], "No validation")
    assert {line.name for line in lines_of(figure)} == {"training"}


def test_plot_confusion_matrix_shows_counts_and_row_percentages(figures, labels):
    heat = figures["plot_confusion_matrix"].data[0]
    np.testing.assert_allclose(np.sum(heat.z, axis=1), 100)
    true, predicted = labels
    for i, row in enumerate(CLASSES):
        for j, column in enumerate(CLASSES):
            n = int(np.sum((true == row) & (predicted == column)))
            share = 100 * n / np.sum(true == row)
            assert heat.text[i][j] == f"{n}<br>{share:.1f}%"
            assert heat.z[i][j] == pytest.approx(share)


def test_plot_confusion_matrix_bears_a_class_without_photos():
    heat = scenes.plots.plot_confusion_matrix(["sea"], ["sea"], "One photo").data[0]
    assert heat.z[4][4] == 100
    assert np.sum(heat.z) == 100


# --- Photos ---------------------------------------------------------------------------


def test_calibration_compares_confidence_and_accuracy_bin_by_bin():
    """Two photos at 0.6, one right; three at 0.95, all right; one at 1.0, wrong."""
    labels = np.array([0, 1, 2, 3, 4, 0])
    sure = [0.6, 0.6, 0.95, 0.95, 0.95, 1.0]
    predicted = [0, 0, 2, 3, 4, 5]
    probabilities = np.repeat((1 - np.array(sure))[:, None] / 5, 6, axis=1)
    probabilities[np.arange(6), predicted] = sure
    table = utils.calibration(probabilities, labels)
    np.testing.assert_allclose(table["confidence"], [0.6, 3.85 / 4])
    np.testing.assert_allclose(table["accuracy"], [0.5, 0.75])
    assert list(table["photos"]) == [2, 4]
    expected = (2 * 0.1 + 4 * (3.85 / 4 - 0.75)) / 6
    assert utils.calibration_error(table) == pytest.approx(expected)


def test_the_calibration_error_tells_honest_from_boastful(chances):
    probabilities, labels = chances
    honest, boastful = (
        utils.calibration_error(utils.calibration(given, labels))
        for given in probabilities.values()
    )
    assert honest < 0.04
    assert boastful > 0.1


def test_plot_calibration_shows_each_bin_under_its_name(figures, chances):
    probabilities, labels = chances
    diagonal, *lines = figures["plot_calibration"].data
    assert list(diagonal.x) == list(diagonal.y) == [0, 1]
    assert len({line.line.color for line in lines}) == len(lines) == 2
    for line, (name, given) in zip(lines, probabilities.items(), strict=True):
        table = utils.calibration(given, labels)
        np.testing.assert_allclose(line.x, table["confidence"])
        np.testing.assert_allclose(line.y, table["accuracy"])
        assert line.name == name


@pytest.fixture
def gallery(tmp_path):
    """Return the paths of seven photos."""
    for seed in range(7):
        Image.fromarray(draw(seed)).save(tmp_path / f"{seed}.png")
    return [tmp_path / f"{seed}.png" for seed in range(7)]


def test_show_images_shows_each_photo_under_its_title(gallery):
    titles = [f"photo {i}" for i in range(7)]
    figure = utils.show_images(gallery, titles, columns=3)
    assert len(figure.axes) == 9
    assert not any(axis.axison for axis in figure.axes)
    for seed, axis in enumerate(figure.axes[:7]):
        assert axis.get_title() == titles[seed]
        np.testing.assert_array_equal(axis.images[0].get_array(), draw(seed))
    assert not any(axis.images for axis in figure.axes[7:])


def test_show_images_leaves_no_figure_for_the_notebook_to_show_twice(gallery):
    utils.show_images(gallery, ["a"] * 7)
    assert not plt.get_fignums()


def test_show_images_turns_photos_as_all_helpers_do(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw(0)).save(tmp_path / "turned.png", exif=exif)
    axis = utils.show_images([tmp_path / "turned.png"], ["turned"]).axes[0]
    assert axis.images[0].get_array().shape == (40, 30, 3)


# --- Saved ----------------------------------------------------------------------------


class Scripts(HTMLParser):
    """Collects the scripts of a page and the addresses of all it refers to."""

    def __init__(self, page: str):
        super().__init__()
        self.addresses, self.ids = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if tag == "div" and "id" in attrs else []


def test_a_saved_page_needs_no_network_and_shares_its_script(figures, shown, tmp_path):
    for name in ("plot_counts", "plot_features"):
        scenes.plots.save_figure(figures[name], name, tmp_path)
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        scripts = Scripts(page)
        assert scripts.addresses == ["plotly.min.js"]
        assert scripts.ids == [name]
        assert not re.search(r"import\s*\(|fetch\s*\(|cdn", page, re.IGNORECASE)
        assert len(page) < 200_000
    assert (tmp_path / "plotly.min.js").stat().st_size > 1e6
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", AXES)
def test_saving_a_figure_again_gives_the_same_bytes(figures, shown, tmp_path, name):
    pages = set()
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        scenes.plots.save_figure(figures[name], name, folder)
        pages.add((folder / f"{name}.html").read_bytes())
    assert len(pages) == 1


def test_a_page_holds_the_figure(figures, shown, tmp_path):
    scenes.plots.save_figure(figures["plot_grid_heatmap"], "heat", tmp_path)
    page = (tmp_path / "heat.html").read_text(encoding="utf-8")
    data = re.search(
        r"Plotly\.newPlot\(\s*\"heat\",\s*(\[.*?\}\]),\s*\{\"template", page, re.DOTALL
    )
    assert json.loads(data[1]) == json.loads(figures["plot_grid_heatmap"].to_json())["data"]


def test_figures_go_to_a_folder_that_is_made(figures, shown, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    scenes.plots.save_figure(figures["plot_counts"], "counts")
    scenes.plots.save_figure(figures["plot_counts"], "counts", "a/b")
    assert Path("plotly_plots/counts.html").is_file()
    assert Path("a/b/counts.html").is_file()


def test_without_chrome_the_figure_is_shown_without_a_picture(figures, shown, tmp_path):
    scenes.plots.save_figure(figures["plot_counts"], "counts", tmp_path)
    assert [set(data) for data in shown] == [{"application/vnd.plotly.v1+json"}]
    assert not (tmp_path / "counts.png").exists()


WITHOUT_CHROME = """
import plotly.graph_objects as go
import scenes
import scenes.plots
import utils
for name in ("first", "second"):
    scenes.plots.save_figure(go.Figure(go.Bar(y=[1, 2])), name, "plots")
"""


def test_a_machine_without_chrome_gets_pages_and_one_line_of_advice(tmp_path):
    (tmp_path / "nothing").mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("BROWSER_PATH", "PATH")},
        "PATH": str(tmp_path / "nothing"),
        "BROWSER_PATH": str(tmp_path / "nothing" / "chrome"),
        "PYTHONPATH": str(Path(utils.__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CHROME],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    advice = [line for line in done.stdout.splitlines() if "Chrome" in line]
    assert len(advice) == 1
    assert "No PNGs" in advice[0]
    assert "plotly_get_chrome" in advice[0]
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["first.html", "plotly.min.js", "second.html"]


@pytest.mark.browser
@pytest.mark.parametrize("name", ["plot_counts", "plot_grid_search"])
def test_with_chrome_a_picture_is_saved_and_shown_beside_the_figure(
    figures, monkeypatch, tmp_path, name
):
    shown = []
    monkeypatch.setattr(scenes.plots, "display", lambda data, raw: shown.append((data, raw)))
    figure = figures[name]
    scenes.plots.save_figure(figure, "plot", tmp_path)
    content = (tmp_path / "plot.png").read_bytes()
    ((data, raw),) = shown
    assert raw
    assert set(data) == {"application/vnd.plotly.v1+json", "image/png"}
    assert data["image/png"] == content
    assert data["application/vnd.plotly.v1+json"] == json.loads(figure.to_json())
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        scale = picture.width / figure.layout.width
        assert 1 <= scale <= 2
        assert picture.height == scale * figure.layout.height
        colours = picture.convert("RGB").getcolors(picture.width * picture.height)
    blue = max(n for n, colour in colours if colour[2] > colour[0] + 60)
    assert blue > 500  # the bars or lines are drawn
