"""Each plot shows its numbers, in one look, for any classes, and is saved to be opened anywhere."""

import html
import json
import re
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from conftest import find_browser
from plotly.offline import get_plotlyjs

import scenes
import scenes.chrome
import scenes.plots
import utils

RATES, DROPOUTS, DECAYS, FOLDS, EPOCHS = [0.001, 0.01], [0.1, 0.3, 0.5], [0, 1e-4], 3, 4
LONG = "a name of a class that goes on and on and on"
ODD = ["<b>x</b>", "two words", "a, comma", "Zürich", "7 & <i>", "%{x} &amp;", "$a$", "100", LONG]


def names(number: int) -> list[str]:
    """Return names of classes, the odd ones among them where there are enough."""
    if number == 6:
        return ["buildings", "forest", "glacier", "mountain", "sea", "street"]
    odd = ODD if number > len(ODD) else ODD[:1]
    return sorted([*odd, *(f"class {i:03}" for i in range(number - len(odd)))])


def draw_labels(number: int, photos: int) -> pd.Series:
    """Return the labels of photos of so many classes; each class has one."""
    codes = np.random.default_rng(0).permutation(np.arange(photos) % number)
    return pd.Series(pd.Categorical.from_codes(codes, names(number)))


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
def photos():
    """Return for numbers of classes a table, features that lie apart and predictions."""

    def draw(number: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        labels = draw_labels(number, max(120, 3 * number))
        splits = rng.choice(["train", "validation", "test"], len(labels), p=[0.6, 0.2, 0.2])
        codes = labels.cat.codes.to_numpy()
        features = rng.uniform(0, 6, (number, 1280))[codes]
        features = (features + rng.normal(0, 0.3, features.shape)).astype("float32")
        guesses = np.where(rng.random(len(codes)) < 0.7, codes, rng.integers(0, number, len(codes)))
        images = pd.DataFrame({"label": labels, "split": splits})
        return images, features, np.array(names(number), dtype=object)[guesses]

    return {number: draw(number) for number in (2, 6, 20, 100)}


@pytest.fixture(scope="module")
def tables():
    """Return the reliability of two classifiers."""
    confidence = np.linspace(0.05, 0.95, 10)
    table = pd.DataFrame({"confidence": confidence, "accuracy": confidence, "photos": 200})
    return {"honest": table, "boastful": table.assign(accuracy=confidence**2)}


@pytest.fixture(scope="module")
def answered():
    return pd.DataFrame({"coverage": [0.5, 0.75, 1.0], "accuracy": [1.0, 0.96, 0.9]})


class FirstTwo:
    """Stands in for t-SNE and is fast."""

    def __init__(self, **options):
        pass

    def fit_transform(self, features):
        return features[:, :2]


@pytest.fixture(scope="module", autouse=True)
def short_tsne():
    """Let t-SNE stop early: of what it shows, these tests ask little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes.plots, "TSNE", partial(scenes.plots.TSNE, max_iter=300))
        yield


@pytest.fixture(scope="module")
def figures(results, history, photos, tables, answered):
    """Return one figure of each plot of numbers, and three for each number of classes."""
    summary = utils.summarize(results)
    drawn = {
        "grid_search": scenes.plots.grid_search(results, "Two rates"),
        "heatmap": scenes.plots.heatmap(summary, "All settings"),
        "history": scenes.plots.history(history, "Three runs"),
        "calibration": scenes.plots.calibration(tables, "Two classifiers"),
        "coverage": scenes.plots.coverage(answered, "The surest first", answered=0.75),
    }
    for number, (images, features, predictions) in photos.items():
        labels = images["label"]
        drawn[f"counts {number}"] = scenes.plots.counts(images, "The photos")
        with pytest.MonkeyPatch.context() as patch:
            if number != 6:  # one map is enough to be looked at: t-SNE takes seconds
                patch.setattr(scenes.plots, "TSNE", FirstTwo)
            drawn[f"feature_map {number}"] = scenes.plots.feature_map(features, labels, "A map")
        drawn[f"confusion {number}"] = scenes.plots.confusion(labels, predictions, "Mistakes")
    return drawn


AXES = {
    "counts 6": {"class", "number of photos"},
    "feature_map 6": {"t-SNE 1 (no unit)", "t-SNE 2 (no unit)"},
    "grid_search": {"epoch", "validation accuracy"},
    "heatmap": {"weight decay", "dropout"},
    "history": {"epoch", "loss", "accuracy"},
    "confusion 6": {"predicted class", "true class"},
    "calibration": {
        "confidence: probability of the predicted class",
        "accuracy: share of the photos that it is right on",
    },
    "coverage": {"coverage", "selective accuracy"},
}
TITLES = ["The photos", "A map", "Two rates", "All settings", "Three runs", "Mistakes"]
TITLES += ["Two classifiers", "The surest first"]


def texts(figure: go.Figure) -> set[str]:
    """Return the titles of the axes and all annotations."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    notes = {note.text for note in figure.layout.annotations}
    return notes | {axis.title.text for axis in axes if axis.title.text}


def lines_of(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if not trace.fill]


def bands_of(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.fill]


def read(shown: object) -> str:
    """Return a name as plotly shows it."""
    return html.unescape(str(shown))


# --- One look -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "title"), list(zip(AXES, TITLES, strict=True)))
def test_a_plot_has_the_title_it_is_given_named_axes_and_the_common_look(figures, name, title):
    figure = figures[name]
    assert figure.layout.title.text == title
    assert texts(figure) >= AXES[name]
    common = figures["counts 6"].layout
    assert figure.layout.font == common.font
    assert figure.layout.template == common.template
    assert figure.layout.title.x == common.title.x
    assert figure.layout.width == 850
    assert figure.layout.height >= 400


@pytest.mark.parametrize("name", sorted(AXES))
def test_a_plot_is_drawn_without_webgl(figures, name):
    assert {trace.type for trace in figures[name].data} <= {"bar", "scatter", "heatmap"}


# --- Any classes ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 6, 20, 100])
def test_classes_have_the_same_order_and_names_everywhere(figures, number):
    classes = names(number)
    for bars in figures[f"counts {number}"].data:
        assert [read(name) for name in bars.x] == [n for n in classes if n in map(read, bars.x)]
    order = figures[f"counts {number}"].layout.xaxis.categoryarray
    assert [read(name) for name in order] == classes
    clouds = figures[f"feature_map {number}"].data
    hovers = [read(cloud.hovertemplate.removesuffix("<extra></extra>")) for cloud in clouds]
    assert hovers == classes
    heat = figures[f"confusion {number}"]
    assert [read(name) for name in heat.data[0].x] == classes
    assert [read(name) for name in heat.data[0].y] == classes
    assert heat.layout.yaxis.autorange == "reversed"


def test_the_six_classes_keep_their_colours(figures):
    colours = [cloud.marker.color for cloud in figures["feature_map 6"].data]
    assert colours == ["#E69F00", "#009E73", "#56B4E9", "#D55E00", "#0072B2", "#CC79A7"]


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
    assert figures["counts 100"].data[0].text is None
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
def test_counts_shows_the_number_of_photos_of_each_class_and_split(figures, photos, number):
    images, figure = photos[number][0], figures[f"counts {number}"]
    shown = {bars.name: dict(zip(map(read, bars.x), bars.y, strict=True)) for bars in figure.data}
    assert list(shown) == ["train", "validation", "test"]
    for (split, label), rows in images.groupby(["split", "label"], observed=True):
        assert shown[split][label] == len(rows)
    assert sum(sum(row.values()) for row in shown.values()) == len(images) == 120
    assert {bars.textposition for bars in figure.data} == {"inside"}  # above, it looks like a sum
    assert figure.layout.barmode in ("stack", "relative")


def test_feature_map_puts_photos_of_a_class_near_each_other(figures):
    places = {t.name: np.stack([t.x, t.y], axis=1) for t in figures["feature_map 6"].data}
    assert [len(rows) for rows in places.values()] == [20] * 6
    centres = {name: rows.mean(axis=0) for name, rows in places.items()}
    for name, rows in places.items():
        for row in rows:
            distances = {other: np.linalg.norm(row - centre) for other, centre in centres.items()}
            assert min(distances, key=distances.get) == name


def test_feature_map_takes_a_sample_by_its_seed(photos):
    images, features, _ = photos[6]
    first, again = (
        scenes.plots.feature_map(features, images["label"], "20", sample=20, seed=1)
        for _ in range(2)
    )
    assert first == again
    assert sum(len(trace.x) for trace in first.data) == 20


def test_feature_map_bears_features_that_are_all_alike(photos):
    """As those of a base model without weights are."""
    labels = photos[6][0]["label"][:12]
    figure = scenes.plots.feature_map(np.zeros((12, 1280), "float32"), labels, "Zeros")
    assert sum(len(trace.x) for trace in figure.data) == 12


# --- The grid search ------------------------------------------------------------------


def test_grid_search_shows_each_setting_with_mean_and_band(figures, results):
    figure = figures["grid_search"]
    lines, bands = lines_of(figure), bands_of(figure)
    assert len(lines) == len(bands) == len(RATES) * len(DROPOUTS) * len(DECAYS)
    assert {f"learning rate {rate:g}" for rate in RATES} <= texts(figure)
    assert {f"dropout {dropout:g}" for dropout in DROPOUTS} <= texts(figure)
    by_setting = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"]
    mean, std = by_setting.mean(), by_setting.std()
    left = iter(zip(lines, bands, strict=True))
    for column, rate in enumerate(RATES):
        for row, dropout in enumerate(DROPOUTS):
            for decay in DECAYS:
                line, band = next(left)
                expected, spread = mean[rate, dropout, decay], std[rate, dropout, decay]
                panel = row * len(RATES) + column + 1
                assert line.xaxis == band.xaxis == ("x" if panel == 1 else f"x{panel}")
                assert line.name == f"{decay:g}"
                assert list(line.x) == list(range(1, EPOCHS + 1))
                np.testing.assert_allclose(line.y, expected)
                np.testing.assert_allclose(band.y[:EPOCHS], expected + spread)
                np.testing.assert_allclose(band.y[EPOCHS:], (expected - spread)[::-1])


def test_grid_search_names_each_weight_decay_once_in_one_colour(figures):
    lines = lines_of(figures["grid_search"])
    assert [line.name for line in lines if line.showlegend] == [f"{decay:g}" for decay in DECAYS]
    for decay in DECAYS:
        same = {(t.line.color, t.line.dash) for t in lines if t.name == f"{decay:g}"}
        assert len(same) == 1


def test_grid_search_shares_its_axes(figures):
    for axes in (figures["grid_search"].select_xaxes, figures["grid_search"].select_yaxes):
        ranges = [axis.matches for axis in axes()]
        assert len(ranges) == len(RATES) * len(DROPOUTS)
        assert len({matched for matched in ranges if matched}) == ranges.count(None) == 1


@pytest.mark.parametrize("decays", [1, 7, 9])
def test_grid_search_takes_any_number_of_settings(results, decays):
    one = results.query("learning_rate == 0.001 and dropout == 0.1 and weight_decay == 0")
    many = pd.concat([one.assign(weight_decay=10.0**-i) for i in range(decays)])
    lines = lines_of(scenes.plots.grid_search(many, "Many"))
    assert len({(t.line.color, t.line.dash) for t in lines}) == len(lines) == decays
    assert len({t.line.color for t in lines}) == min(decays, 7)


def test_many_panels_have_titles_in_two_lines_and_many_cells_no_numbers(results):
    one = results.query("learning_rate == 0.001")
    many = pd.concat([one.assign(learning_rate=10.0**-i) for i in range(1, 6)])
    titles = {f"learning rate<br>{10.0**-i:g}" for i in range(1, 6)}
    assert titles <= texts(scenes.plots.grid_search(many, "Five rates"))
    heats = scenes.plots.heatmap(utils.summarize(many), "Five rates")
    assert titles <= texts(heats)
    assert heats.data[0].texttemplate
    more = pd.concat([many.assign(weight_decay=0.1 * i) for i in range(5)])
    more = more.drop_duplicates([*scenes.HYPERPARAMETERS, "fold", "epoch"])
    assert not scenes.plots.heatmap(utils.summarize(more), "25 columns").data[0].texttemplate


def test_heatmap_shows_the_best_mean_accuracy_of_each_setting(figures, results):
    figure = figures["heatmap"]
    assert [note.text for note in figure.layout.annotations][: len(RATES)] == [
        f"learning rate {rate:g}" for rate in RATES
    ]
    means = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"].mean()
    best = means.groupby(scenes.HYPERPARAMETERS).max()
    for rate, heat in zip(RATES, figure.data, strict=True):
        assert list(heat.x) == [f"{decay:g}" for decay in DECAYS]
        assert list(heat.y) == [f"{dropout:g}" for dropout in DROPOUTS]
        np.testing.assert_allclose(heat.z, 100 * best[rate].unstack(), atol=1e-6)


# --- Trainings and their models -------------------------------------------------------


def test_history_shows_means_and_bands_of_several_runs(figures, history):
    lines, bands = lines_of(figures["history"]), bands_of(figures["history"])
    metrics = ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert [line.name for line in lines] == ["training", "validation"] * 2
    for line, band, metric in zip(lines, bands, metrics, strict=True):
        by_epoch = history.groupby("epoch")[metric]
        assert list(line.x) == [1, 2, 3, 4]
        np.testing.assert_allclose(line.y, by_epoch.mean())
        np.testing.assert_allclose(band.y[:4], by_epoch.mean() + by_epoch.std())
    assert lines[0].line.color == lines[2].line.color != lines[1].line.color


def test_history_of_one_run_has_bands_without_width(history):
    one = history[history["run"] == 1]
    band = bands_of(scenes.plots.history(one, "One run"))[0]
    np.testing.assert_array_equal(band.y, [*one["loss"], *one["loss"][::-1]])


def test_history_of_one_epoch_is_a_point_that_one_can_see(history):
    figure = scenes.plots.history(history[history["epoch"] == 1], "One epoch")
    assert {line.mode for line in lines_of(figure)} == {"markers"}
    assert lines_of(figure)[1].line.color == scenes.plots.VALIDATION_COLOR  # and of the point


@pytest.mark.parametrize("name", ["grid_search", "history"])
def test_epochs_are_whole_numbers(figures, name):
    assert {axis.dtick for axis in figures[name].select_xaxes()} == {1}


def test_history_without_validation_shows_training_alone(history):
    figure = scenes.plots.history(history[["epoch", "loss", "accuracy"]], "No validation")
    assert {line.name for line in lines_of(figure)} == {"training"}


@pytest.mark.parametrize("number", [2, 6, 100])
def test_confusion_shows_counts_and_row_percentages(figures, photos, number):
    images, _, predicted = photos[number]
    heat = figures[f"confusion {number}"].data[0]
    counts = pd.crosstab(images["label"].astype(str), predicted)
    counts = counts.reindex(index=names(number), columns=names(number), fill_value=0).to_numpy()
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(heat.z, shares)
    for shown, n, share in zip(heat.text.flat, counts.flat, shares.flat, strict=True):
        assert shown == f"{n}<br>{share:.1f}%"
    assert "%{text}" in heat.hovertemplate
    assert heat.texttemplate == ("%{text}" if number <= 12 else None)


def test_confusion_bears_a_class_without_photos():
    labels = pd.Series(pd.Categorical(["sea"], names(6)))
    heat = scenes.plots.confusion(labels, ["sea"], "One photo").data[0]
    assert heat.z[4][4] == np.sum(heat.z) == 100


def test_calibration_shows_each_bin_under_its_name(figures, tables):
    diagonal, *lines = figures["calibration"].data
    assert list(diagonal.x) == list(diagonal.y) == [0, 1]
    assert len({line.line.color for line in lines}) == len(lines) == 2
    for line, (name, table) in zip(lines, tables.items(), strict=True):
        np.testing.assert_allclose(line.x, table["confidence"])
        np.testing.assert_allclose(line.y, table["accuracy"])
        assert line.name == name
        areas = (line.marker.size - 5) ** 2
        np.testing.assert_allclose(areas / areas.max(), table["photos"] / table["photos"].max())


def test_coverage_shows_the_accuracy_of_each_share_and_marks_the_chosen_one(figures):
    [line], [mark] = figures["coverage"].data, figures["coverage"].layout.annotations
    assert list(line.x) == [0.5, 0.75, 1.0]
    assert list(line.y) == [1.0, 0.96, 0.9]
    assert (mark.x, mark.y) == (0.75, 0.96)
    assert mark.text == "threshold: coverage 75.0%,<br>selective accuracy 96.00%"


def test_coverage_ends_at_100_percent_where_all_are_right():
    table = pd.DataFrame({"coverage": [0.5, 1.0], "accuracy": 1.0})
    low, high = scenes.plots.coverage(table, "All right", answered=1).layout.yaxis.range
    assert 0.97 < low < 1 < high < 1.01


# --- Shown and saved ------------------------------------------------------------------


def test_a_saved_page_needs_no_network_and_shares_its_script(figures, shown, tmp_path):
    for name in ("counts 6", "feature_map 6"):
        scenes.plots.show(figures[name], name, tmp_path)
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert re.findall(r"(?:src|href)=[\"']?([^\"'> ]*)", page) == ["plotly.min.js"]
        assert re.findall(r"<div id=\"([^\"]*)\"", page) == [name]
        assert not re.search(r"import\s*\(|fetch\s*\(|cdn", page, re.IGNORECASE)
        assert len(page) < 200_000
    assert (tmp_path / "plotly.min.js").stat().st_size > 1e6
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_older_stays_beside_a_page(figures, shown, tmp_path):
    """A picture of an older figure, or the script of another plotly."""
    for name in ("heat.png", "other.png", "plotly.min.js"):
        (tmp_path / name).write_bytes(b"older")
    scenes.plots.show(figures["heatmap"], "heat", tmp_path)
    assert not (tmp_path / "heat.png").exists()
    assert (tmp_path / "other.png").read_bytes() == b"older"
    assert (tmp_path / "plotly.min.js").read_bytes() == get_plotlyjs().encode()


@pytest.mark.parametrize("name", [*AXES, "counts 100", "confusion 100"])
def test_saving_a_figure_again_gives_the_same_bytes(figures, shown, tmp_path, name):
    pages = set()
    for _ in range(2):
        scenes.plots.show(figures[name], name, tmp_path)
        pages.add((tmp_path / f"{name}.html").read_bytes())
    assert len(pages) == 1


def test_a_page_holds_the_figure(figures, shown, tmp_path):
    scenes.plots.show(figures["heatmap"], "heat", tmp_path / "a" / "b")
    page = (tmp_path / "a" / "b" / "heat.html").read_text(encoding="utf-8")
    data = re.search(
        r"Plotly\.newPlot\(\s*\"heat\",\s*(\[.*?\}\]),\s*\{\"template", page, re.DOTALL
    )
    assert json.loads(data[1]) == json.loads(figures["heatmap"].to_json())["data"]


def test_a_picture_is_saved_and_shown_beside_the_figure(figures, shown, monkeypatch, tmp_path):
    monkeypatch.setattr(scenes.chrome, "draw", lambda figure: (b"a picture", None))
    scenes.plots.show(figures["heatmap"], "heat", tmp_path)
    assert (tmp_path / "heat.png").read_bytes() == b"a picture"
    figure = json.loads(figures["heatmap"].to_json())
    assert shown == [{"application/vnd.plotly.v1+json": figure, "image/png": b"a picture"}]


@pytest.fixture
def without_chrome(figures, shown, monkeypatch, tmp_path, capsys):
    """Return what three figures show without Chrome, the first of them once more at the end."""
    monkeypatch.setattr(scenes.plots, "_first", {})
    for name in ("first", "second", "third", "first"):
        scenes.plots.show(figures["counts 20"], name, tmp_path)
    return [data["text/html"] for data in shown]


def test_without_chrome_the_first_figure_carries_the_reason_and_the_script_each_time(
    without_chrome, shown, tmp_path, capsys
):
    assert capsys.readouterr().out == "No Chrome.\n" * 2
    assert {tuple(data) for data in shown} == {("application/vnd.plotly.v1+json", "text/html")}
    assert [len(form) > 1e6 for form in without_chrome] == [True, False, False, True]
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.browser
def test_a_page_made_of_the_html_forms_shows_each_plot_and_name_without_network(
    without_chrome, tmp_path
):
    """As nbconvert puts them into a page, which is then moved."""
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "moved").mkdir()
    page_path = tmp_path / "moved" / "page.html"
    page_path.write_text("<!DOCTYPE html><meta charset='utf-8'>" + "".join(without_chrome[:3]))
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=find_browser(), args=flags)
        page = browser.new_page()
        page.route(re.compile("^http"), lambda route: route.abort())
        page.goto(page_path.as_uri())
        for name in ("first", "second", "third"):
            page.wait_for_selector(f"#{name} .xtick text")
        ticks = page.locator("#third .xtick text").all_text_contents()
        browser.close()
    assert ticks == [name if name != LONG else f"{LONG[:23]}…" for name in names(20)]
