"""
Plots: figures of tables and numbers, shown and saved.

A figure shows what it is given: titles come from the caller, classes from the labels.
Saved figures need no network. Computes no result, and knows nothing of photos and
networks.

Everywhere, `labels` is a categorical Series of shape (n,), whose categories are the
classes in their order; accuracies, confidences and coverages are between 0 and 1;
`title` is text, in which plotly reads HTML.
"""

import html
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython import get_ipython
from IPython.display import display
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix

import scenes
from scenes import chrome, files

# Okabe & Ito's colours, which colour-blind readers can tell apart
# (https://jfly.uni-koeln.de/color/). The first six are those of the six classes of the
# committed results.
PALETTE = (
    "#E69F00",
    "#009E73",
    "#56B4E9",
    "#D55E00",
    "#0072B2",
    "#CC79A7",
    "#000000",
    "#F0E442",
)
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
SPLIT_COLORS = {"train": "#0072B2", "validation": "#56B4E9", "test": "#BFBFBF"}
TRAINING_COLOR = "#0072B2"
VALIDATION_COLOR = "#D55E00"
GREY = "#BFBFBF"
LEGEND_CLASSES = 20  # more have no room in a legend: the mouse names them
NUMBERED_CLASSES = 12  # more have no room for numbers in the confusion matrix
NAMED_TICKS = 25  # of more classes, an axis names some
LETTERS = 24  # of a class's name that are shown; the mouse shows all


# --- What all have in common ----------------------------------------------------------

# Of our own: a reader may have changed plotly's templates. (Nor are figures of
# plotly.express, whose defaults may be changed as well.)
TEMPLATE = go.layout.Template()
TEMPLATE.layout.font.family = "Liberation Sans, Arial, sans-serif"
TEMPLATE.layout.font.size = 14
TEMPLATE.layout.title = {"x": 0.02, "y": 1, "xanchor": "left", "yanchor": "top"}
TEMPLATE.layout.title.pad.t = 28
TEMPLATE.layout.margin = {"l": 80, "r": 30, "t": 100, "b": 70}
TEMPLATE.layout.xaxis = {"gridcolor": "#EBF0F8", "zeroline": False, "ticks": ""}
TEMPLATE.layout.xaxis.update(automargin=True, title_standoff=12)
TEMPLATE.layout.yaxis = TEMPLATE.layout.xaxis.to_plotly_json()
TEMPLATE.layout.annotationdefaults.arrowwidth = 1
TEMPLATE.layout.hovermode = "closest"
TEMPLATE.layout.plot_bgcolor = "white"


def style(figure: go.Figure, title: str, *, height: int = 500) -> go.Figure:
    """
    Return a figure with the look that all have in common, as wide as a notebook's
    column.

    Parameters
    ----------
    figure : Figure
        It is changed.
    title : str
    height : int
        In pixels.
    """
    figure.layout.template = TEMPLATE
    figure.layout.title.text = title
    figure.layout.width = 850
    figure.layout.height = height
    return figure


def _legend_below(figure):
    """Put the legend of a figure below its axes, where long names have room."""
    legend = {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"}
    figure.layout.legend = legend
    figure.layout.margin.b = 140


def _name_axes(figure, x, y):
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)


def _curve(x, y, color, name=None):
    """Return a line, or a point, since one point makes no line."""
    mode = "lines" if len(y) > 1 else "markers"
    curve = go.Scatter(x=x, y=y, mode=mode, name=name)
    curve.line.color = color
    curve.marker.color = color
    return curve


def _plain(name):
    """
    Return a name as plotly shows it letter by letter: not as HTML, a formula or a
    template.
    """
    return html.escape(name, quote=False).replace("$", "&#36;").replace("%", "&#37;")


def _classes(labels):
    """
    Return the names of the classes in their order, as plotly shows them as they are.
    """
    return [_plain(str(name)) for name in labels.cat.categories]


def _short(name):
    """
    Return a name of `_classes` that takes no more room than a plot has, its end left
    out.
    """
    name = html.unescape(name)
    if len(name) > LETTERS:
        name = f"{name[: LETTERS - 1]}…"
    return _plain(name)


def _class_ticks(classes, *axes):
    """
    Name classes beside axes of them: long names are short there, and whole at the
    mouse.
    """
    few = classes[:: -(-len(classes) // NAMED_TICKS)]
    texts = [_short(name) for name in few]
    for axis in axes:
        axis.update(type="category", automargin=True, tickvals=few, ticktext=texts)


def _whole_epochs(figure, epochs):
    """Let the ticks of epochs be whole numbers, however few they are."""
    if np.ptp(epochs) < 6:
        figure.update_xaxes(dtick=1)


def _panels(rates, x, y):
    """
    Return a figure with a panel for each learning rate, at most four a row, and the row
    and column of each.
    """
    rows = -(-len(rates) // 4)
    columns = -(-len(rates) // rows)
    figure = make_subplots(
        rows,
        columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[f"learning rate {rate:g}" for rate in rates],
        horizontal_spacing=0.02,
        vertical_spacing=0.2 / rows,
        x_title=x,
        y_title=y,
    )
    cells = itertools.product(range(1, rows + 1), range(1, columns + 1))
    return figure, list(cells)


# --- The photos and their features ----------------------------------------------------


def counts(images: pd.DataFrame, title: str) -> go.Figure:
    """
    Return bars of the number of labelled photos of each class, stacked by split.

    Parameters
    ----------
    images : DataFrame
        `split` and `label` of the photos.
    title : str
    """
    classes = _classes(images["label"])
    figure = go.Figure()
    for split, color in SPLIT_COLORS.items():
        labels = images["label"][images["split"] == split]
        photos = labels.value_counts(sort=False).to_numpy()
        figure.add_bar(x=classes, y=photos, name=split, marker_color=color)
    if len(classes) <= LEGEND_CLASSES:
        # A number above a bar would look like the sum of all below it.
        figure.update_traces(texttemplate="%{y}", textposition="inside", textangle=0)
    figure.update_layout(uniformtext={"minsize": 9, "mode": "hide"})
    figure.update_layout(barmode="stack", legend_title="split")
    figure.layout.legend.traceorder = "normal"
    _name_axes(figure, "class", "number of photos")
    _class_ticks(classes, figure.layout.xaxis)
    return style(figure, title)


def feature_map(
    features: np.ndarray,
    labels: pd.Series,
    title: str,
    *,
    sample: int = 1200,
    seed: int = 0,
) -> go.Figure:
    """
    Return a map of a sample of the features, coloured by class.

    t-SNE (van der Maaten & Hinton, 2008) puts photos with similar features near each
    other; the axes have no unit.

    Parameters
    ----------
    features : ndarray, shape (n, n_features)
    labels : Series of categories, shape (n,)
    title : str
    sample : int
        The number of photos that are drawn.
    seed : int
        Of the sample and the map.
    """
    rows = np.random.default_rng(seed).permutation(len(features))[:sample]
    places = _tsne(features[rows], seed).round(2)
    codes = labels.cat.codes.to_numpy()[rows]
    classes = _classes(labels)
    figure = go.Figure()
    for code, name in enumerate(classes):
        x, y = places[codes == code].T
        cloud = go.Scatter(x=x, y=y, mode="markers", name=_short(name))
        cloud.hovertemplate = f"{name}<extra></extra>"
        cloud.marker.color = PALETTE[code % len(PALETTE)]
        cloud.marker.symbol = SYMBOLS[(code + code // len(PALETTE)) % len(SYMBOLS)]
        figure.add_trace(cloud)  # as SVG: WebGL does not draw everywhere
    figure.update_traces(marker={"size": 6, "opacity": 0.8})
    _name_axes(figure, "t-SNE 1", "t-SNE 2")
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False)
    figure.layout.showlegend = len(classes) <= LEGEND_CLASSES
    figure.layout.legend.title.text = "class"
    return style(figure, title, height=700)


def _tsne(features, seed):
    """Return the two coordinates of each row in a t-SNE map."""
    # PCA finds no axis where all features are alike, as the zeros of random weights
    # are, and scikit-learn then crashes.
    init = "pca" if np.ptp(features, axis=0).any() else "random"
    perplexity = min(30, (len(features) - 1) / 3)
    tsne = TSNE(init=init, perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(features)


# --- The grid search ------------------------------------------------------------------


def grid_search(ranked: pd.DataFrame, title: str) -> go.Figure:
    """
    Return mean validation accuracy over folds by epoch: a panel for each learning rate.

    The setting with the highest accuracy is in colour, with the standard deviation over
    folds at its best epoch. The axis begins where most curves are in the later half of
    the epochs.

    Parameters
    ----------
    ranked : DataFrame
        That of `evaluation.rank_epochs`: a row for each setting and epoch, the best
        first.
    title : str
    """
    curves = ranked.pivot(
        index=scenes.HYPERPARAMETERS, columns="epoch", values="val_accuracy"
    )
    curves = curves.astype("float32")  # half the size in the notebook
    epochs = list(curves.columns)
    rates = list(curves.index.levels[0])
    figure, cells = _panels(rates, "epoch", "validation accuracy")
    # A missing value ends each line: one trace for a panel is smaller than one for each
    # line.
    ended = curves.reindex(columns=[*epochs, epochs[-1] + 1])
    for rate, (row, column) in zip(rates, cells, strict=False):
        lines = ended.loc[rate]
        grey = _curve(np.tile(lines.columns, len(lines)), np.ravel(lines), GREY)
        figure.add_trace(grey, row=row, col=column)
    mode = "lines" if len(epochs) > 1 else "markers"
    figure.update_traces(mode=mode, line_width=1, hoverinfo="skip", showlegend=False)
    figure.data[0].update(name="each setting", showlegend=True)
    best = ranked.iloc[0]
    row, column = cells[rates.index(best["learning_rate"])]
    _add_best(figure, best, curves, row, column)
    std = np.nan_to_num(best["std"])  # NaN of a single fold
    later = curves[epochs[len(epochs) // 2 :]]
    low = min(later.stack().quantile(0.05), best["val_accuracy"] - std)
    high = best["val_accuracy"] + std
    margin = 0.05 * (high - low) + 0.001
    figure.update_yaxes(range=[low - margin, high + margin])
    room = 0.5 + 0.02 * np.ptp(epochs)
    figure.update_xaxes(range=[epochs[0] - room, epochs[-1] + room])
    _whole_epochs(figure, epochs)
    _legend_below(figure)
    return style(figure, title, height=320 + 240 * cells[-1][0])


def _add_best(figure, best, curves, row, column):
    """Add the curve of the best setting, and its best epoch, to its panel."""
    setting = tuple(best[scenes.HYPERPARAMETERS])
    name = "best setting: learning rate {:g}, dropout {:g}, weight decay {:g}"
    curve = _curve(curves.columns, curves.loc[setting], VALIDATION_COLOR)
    curve.name = name.format(*setting)
    point = _curve([best["epoch"]], [best["val_accuracy"]], VALIDATION_COLOR)
    point.name = f"its best epoch: {best['epoch']:g} ({best['val_accuracy']:.2%})"
    if best["std"] > 0:
        point.error_y.array = [best["std"]]
        std = f", standard deviation over folds {best['std']:.2%})"
        point.name = point.name.replace(")", std)
    for trace in (curve, point):
        trace.marker.size = 9
        trace.hovertemplate = "epoch %{x}: %{y:.2%}<extra></extra>"
        figure.add_trace(trace, row=row, col=column)


def heatmap(summary: pd.DataFrame, title: str) -> go.Figure:
    """
    Return a heat map of the mean validation accuracy of each setting of `summarize`.
    """
    accuracy = summary.set_index(scenes.HYPERPARAMETERS)["val_accuracy"].sort_index()
    rates, dropouts, decays = accuracy.index.levels
    figure, cells = _panels(rates, "weight decay", "dropout")
    columns = max(column for _, column in cells)
    numbers = columns * len(decays) <= 20  # as far as one can read them
    for rate, (row, column) in zip(rates, cells, strict=False):
        values = 100 * accuracy[rate].unstack()
        heat = go.Heatmap(z=values, coloraxis="coloraxis")
        heat.x = [f"{value:g}" for value in decays]
        heat.y = [f"{value:g}" for value in dropouts]
        heat.texttemplate = "%{z:.2f}" if numbers else None
        figure.add_trace(heat, row=row, col=column)
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    bar = {"title": {"text": "accuracy (%)"}}
    figure.layout.coloraxis = {"colorscale": "Viridis", "colorbar": bar}
    figure.layout.coloraxis.showscale = not numbers
    return style(figure, title, height=260 + 240 * cells[-1][0])


# --- Trainings and their models -------------------------------------------------------


def history(history: pd.DataFrame, title: str) -> go.Figure:
    """
    Return the curves of loss and accuracy, training and validation, of one training.

    Parameters
    ----------
    history : DataFrame
        A row for each `epoch`: `loss`, `accuracy` and, if there is a validation set,
        `val_loss` and `val_accuracy`.
    title : str
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    epochs = history["epoch"]
    for column, metric in enumerate(("loss", "accuracy"), start=1):
        training = _curve(epochs, history[metric], TRAINING_COLOR, "training")
        training.line.dash = "dash"
        figure.add_trace(training, row=1, col=column)
        if f"val_{metric}" in history:
            values = history[f"val_{metric}"]
            validation = _curve(epochs, values, VALIDATION_COLOR, "validation")
            figure.add_trace(validation, row=1, col=column)
        figure.update_yaxes(title=metric, col=column)
    figure.update_traces(showlegend=False, col=2)
    figure.update_xaxes(title="epoch")
    _whole_epochs(figure, epochs)
    return style(figure, title)


def learning_curve(table: pd.DataFrame, title: str) -> go.Figure:
    """
    Return validation accuracy by number of training photos: mean and range over seeds.

    Parameters
    ----------
    table : DataFrame
        A row for each training: its number of training `photos`, `seed` and
        `val_accuracy`.
    title : str
    """
    ends = table.groupby("photos")["val_accuracy"].agg(["min", "mean", "max"])
    curve = _curve(ends.index, ends["mean"], VALIDATION_COLOR)
    curve.mode = "lines+markers"
    curve.error_y.array = ends["max"] - ends["mean"]
    curve.error_y.arrayminus = ends["mean"] - ends["min"]
    figure = go.Figure(curve)
    accuracy = "validation accuracy<br>(mean, range over seeds)"
    _name_axes(figure, "number of training photos (log scale)", accuracy)
    figure.update_xaxes(type="log", tickvals=ends.index, tickformat=",d")
    figure.update_yaxes(tickformat=".1%")
    return style(figure, title)


def confusion(
    labels: pd.Series, predictions: Sequence[str], title: str, *, subtitle: str = ""
) -> go.Figure:
    """
    Return a heat map of true by predicted class, with counts and row percentages.

    Parameters
    ----------
    labels : Series of categories, shape (n,)
    predictions : sequence of str, shape (n,)
        The predicted class of each image.
    title : str
    """
    names = list(labels.cat.categories)
    counts = confusion_matrix(labels.astype(str), predictions, labels=names)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = _classes(labels)
    heat = go.Heatmap(x=classes, y=classes, z=shares, zmin=0, zmax=100)
    heat.text = np.vectorize("{}<br>{:.1f}%".format)(counts, shares)
    heat.hovertemplate = (
        "predicted class: %{x}<br>true class: %{y}<br>%{text}<extra></extra>"
    )
    heat.colorscale = "Blues"
    heat.colorbar.title.text = "% of the<br>true class"
    if len(names) <= NUMBERED_CLASSES:
        heat.texttemplate = "%{text}"
        heat.showscale = False
    figure = go.Figure(heat)
    _name_axes(figure, "predicted class", "true class")
    figure.update_xaxes(constrain="domain")
    figure.update_yaxes(constrain="domain", autorange="reversed", scaleanchor="x")
    _class_ticks(classes, figure.layout.xaxis, figure.layout.yaxis)
    return style(figure, title, height=700)


def calibration(
    tables: dict[str, pd.DataFrame],
    title: str,
    *,
    confidences: dict[str, Sequence[float]],
) -> go.Figure:
    """
    Return a reliability diagram above a histogram of confidence.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Tables of `reliability` by the names that the legend shows; the error bars are
        their confidence intervals.
    title : str
    confidences : dict of str to sequence of float
        The confidence for each photo, by the same names.
    """
    figure = make_subplots(
        2, 1, shared_xaxes=True, row_heights=[0.84, 0.16], vertical_spacing=0.03
    )
    lowest = min(table["ci_low"].min() for table in tables.values())
    lowest = min(lowest, *map(np.min, confidences.values()))
    ends = [np.floor(10 * lowest) / 10, 1]
    diagonal = _curve(ends, ends, "#999999", "perfect calibration")
    diagonal.line.dash = "dot"
    figure.add_trace(diagonal)
    looks = itertools.cycle(zip(PALETTE, SYMBOLS, strict=False))
    for (name, table), (color, symbol) in zip(tables.items(), looks, strict=False):
        points = _bins(table, name)
        points.marker = {"color": color, "symbol": symbol, "size": 7}
        figure.add_trace(points)
        # Rounding may have put a confidence beyond the ends; each photo is counted.
        inside = np.clip(confidences[name], *ends)
        photos, edges = np.histogram(inside, bins=50, range=ends)
        steps = _curve(edges, [*photos, 0], color)
        steps.line.shape = "hv"
        steps.update(hoverinfo="skip", showlegend=False)
        figure.add_trace(steps, row=2, col=1)
    shown = [ends[0], 1.02]  # the markers of an accuracy of 1 are shown whole
    figure.update_xaxes(range=shown, domain=[0.19, 0.81])  # so the diagram is square
    figure.update_yaxes(range=shown, title="accuracy", row=1)
    figure.update_yaxes(title="photos", row=2)
    figure.update_xaxes(title="confidence (probability of the predicted class)", row=2)
    _legend_below(figure)
    return style(figure, title, height=800)


def _bins(table, name):
    """Return the points of a table of `reliability`, with their intervals."""
    points = go.Scatter(x=table["confidence"], y=table["accuracy"], name=name)
    points.mode = "markers"
    points.error_y.array = table["ci_high"] - table["accuracy"]
    points.error_y.arrayminus = table["accuracy"] - table["ci_low"]
    points.error_y.thickness = 1
    points.customdata = table["photos"]
    points.hovertemplate = (
        "confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata} photos"
    )
    return points


def coverage(
    table: pd.DataFrame, title: str, *, answered: float, subtitle: str = ""
) -> go.Figure:
    """
    Return the accuracy-coverage curve of a table of `coverage_curve`.

    Parameters
    ----------
    table : DataFrame
        `coverage` and selective `accuracy`.
    title : str
    answered : float
        The coverage at the abstention threshold, which is marked.
    """
    line = _curve(table["coverage"], table["accuracy"], TRAINING_COLOR)
    line.hovertemplate = "coverage %{x:.1%}, accuracy %{y:.2%}<extra></extra>"
    figure = go.Figure(line)
    if answered:
        accuracy = np.interp(answered, table["coverage"], table["accuracy"])
        mark = {"x": answered, "y": accuracy, "ax": -70, "ay": 60, "arrowhead": 6}
        text = f"coverage {answered:.1%},<br>selective accuracy {accuracy:.2%}"
    else:
        mark = {"x": 0.5, "y": 0.05, "showarrow": False, "yref": "paper"}
        text = "the model always abstains (coverage 0%)"
    figure.add_annotation(mark, text=f"threshold: {text}")
    _name_axes(figure, "coverage", "selective accuracy")
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(tickformat=".1%")
    # If all are correct, the axis ends at 100%, too.
    low = min(table["accuracy"].min(), 0.98)
    figure.update_yaxes(range=[1.05 * low - 0.05, 1.05 - 0.05 * low])
    return style(figure, title)


# --- Shown and saved ------------------------------------------------------------------


# For each reason that there is no PNG, the first figure without one.
_first: dict[str, str] = {}


def show(figure: go.Figure, name: str, folder: str | Path) -> None:
    """
    Show a figure, and write it as `name.html` and `name.png` into a folder.

    The HTML files of a folder share one `plotly.min.js` and need no network. The PNG
    needs Chrome or Chromium; without it, an older PNG is removed, and the first plot
    prints the reason, also when its cell runs again. What is shown holds the figure
    and, for pages made of the notebook, the PNG at half its resolution or, if there is
    none, an HTML form, which can be moved and opened without network: that of the first
    plot holds plotly's script, 5 MB, for the whole page. The others name the script's
    address, too, for Colab, where each output is a page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, problem = chrome.draw(figure)  # it may take long: older files stay
    page = figure.to_html(include_plotlyjs="directory", div_id=name)
    _write(folder / "plotly.min.js", get_plotlyjs().encode())
    _write(folder / f"{name}.html", page.encode())
    shown = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    picture = folder / f"{name}.png"
    if png:
        _write(picture, png)
        shown["image/png"] = chrome.halve(png)
    else:
        picture.unlink(missing_ok=True)  # it shows an older figure
        if _first.setdefault(problem, name) == name:
            print(problem)
        source = name in _first.values() or "cdn"
        shown["text/html"] = figure.to_html(
            full_html=False, include_plotlyjs=source, div_id=name
        )
    if get_ipython():  # else it would be printed, letter by letter
        display(shown, raw=True)


def _write(path, content):
    """Replace a file, unless it holds this content already."""
    if not path.exists() or path.read_bytes() != content:
        with files.replacing(path) as beside:
            beside.write_bytes(content)
