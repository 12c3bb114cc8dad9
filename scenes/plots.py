"""
Plots: figures of tables and numbers, shown and saved.

A figure shows what it is given: titles come from the caller, classes from the labels. Saved
figures need no network. Computes no result, and knows nothing of photos and networks.
"""

import html
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from IPython import get_ipython
from IPython.display import display
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix

import scenes
from scenes import chrome, files

# Okabe & Ito's colours, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
# The first six are those of the six classes of the committed results.
PALETTE = ("#E69F00", "#009E73", "#56B4E9", "#D55E00", "#0072B2", "#CC79A7", "#000000", "#F0E442")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
# The same for lines with bands: yellow shows no lines, and the first differ in lightness.
CURVES = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot")
SPLIT_COLORS = {"train": "#0072B2", "validation": "#56B4E9", "test": "#BFBFBF"}
TRAINING_COLOR, VALIDATION_COLOR = "#0072B2", "#D55E00"
LEGEND_CLASSES = 20  # more have no room in a legend: the mouse names them
NUMBERED_CLASSES = 12  # more have no room for numbers in the confusion matrix
NAMED_TICKS = 25  # of more classes, an axis names some
LETTERS = 24  # of a class's name that are shown; the mouse shows all


# --- What all have in common ----------------------------------------------------------


def _style(figure: go.Figure, title: str, *, height: int = 500) -> go.Figure:
    """Give a figure the look that all have in common, as wide as a notebook's column."""
    return figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.02, "xanchor": "left"},
        font={"family": "Liberation Sans, Arial, sans-serif", "size": 14},
        width=850,
        height=height,
        margin={"l": 80, "r": 30, "t": 90, "b": 70},
    )


def _plain(name: str) -> str:
    """Return a name as plotly shows it letter by letter: not as HTML, a formula or a template."""
    return html.escape(name, quote=False).replace("$", "&#36;").replace("%", "&#37;")


def _classes(labels: pd.Series) -> list[str]:
    """Return the names of the classes in their order, as plotly shows them as they are."""
    return [_plain(str(name)) for name in labels.cat.categories]


def _short(name: str) -> str:
    """Return a name of `_classes` that takes no more room than a plot has, its end left out."""
    name = html.unescape(name)
    return _plain(name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…")


def _class_axis(classes: Sequence[str]) -> dict:
    """Return an axis of classes, whose long names are short beside it and whole at the mouse."""
    few = classes[:: -(-len(classes) // NAMED_TICKS)]
    ticks = {"tickvals": few, "ticktext": [*map(_short, few)]}
    return {"type": "category", "automargin": True, **ticks}


def _line_and_band(
    curve: pd.DataFrame, name: str, *, color: str, dash: str, legend: bool
) -> list[go.Scatter]:
    """Return a line of the `mean` and a band of one standard deviation (`std`) around it."""
    x, mean, spread = list(curve.index), curve["mean"], curve["std"].fillna(0)
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    band = go.Scatter(
        x=[*x, *reversed(x)],
        y=[*(mean + spread), *reversed(list(mean - spread))],
        mode="lines",  # else fewer than 20 points are drawn as points, too
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.18)",
        line={"width": 0},
        hoverinfo="skip",
    )
    line = go.Scatter(x=x, y=mean, line={"color": color, "dash": dash}, name=name)
    line.mode = "lines" if len(x) > 1 else "markers"  # one point makes no line
    band.update(legendgroup=name, showlegend=False)
    return [band, line.update(legendgroup=name, showlegend=legend)]


def _epoch_axis(epochs: pd.Series) -> dict:
    """Return an axis whose ticks are whole numbers, however few they are."""
    return {"dtick": 1} if np.ptp(epochs) < 6 else {}


def _heat(values: np.ndarray, x: Sequence, y: Sequence, **options: object) -> go.Figure:
    """Return a heat map of accuracies in %, with a column and a row for each name."""
    figure = px.imshow(
        values,
        x=list(x),
        y=list(y),
        **{"aspect": "auto", "color_continuous_scale": "Viridis", "text_auto": ".2f"} | options,
    )
    return figure.update_xaxes(type="category").update_yaxes(type="category")


# --- The photos and their features ----------------------------------------------------


def counts(images: pd.DataFrame, title: str) -> go.Figure:
    """Return bars of the number of labelled photos of each class, stacked by split."""
    classes = _classes(images["label"])
    table = images.groupby(["split", "label"], observed=True).size().reset_index(name="photos")
    table["label"] = table["label"].cat.rename_categories(classes)
    figure = px.bar(
        table.astype({"split": str, "label": str}),  # plotly knows no categories
        x="label",
        y="photos",
        color="split",
        text="photos" if len(classes) <= LEGEND_CLASSES else None,
        category_orders={"label": classes, "split": list(SPLIT_COLORS)},
        color_discrete_map=SPLIT_COLORS,
        labels={"label": "class", "photos": "number of photos"},
    )
    # A number above a bar would look like the sum of all below it.
    figure.update_traces(textangle=0, textposition="inside").update_xaxes(**_class_axis(classes))
    return _style(figure, title).update_layout(uniformtext={"minsize": 9, "mode": "hide"})


def feature_map(
    features: np.ndarray, labels: pd.Series, title: str, *, sample: int = 1200, seed: int = 0
) -> go.Figure:
    """
    Return a map of a sample of the features, coloured by class.

    t-SNE (van der Maaten & Hinton, 2008) puts photos with similar features near each
    other; the axes have no unit.
    """
    rows = np.random.default_rng(seed).permutation(len(features))[:sample]
    perplexity = min(30, (len(rows) - 1) / 3)
    # PCA finds no axis where all features are alike, as the zeros of random weights are, and
    # scikit-learn then crashes.
    init = "pca" if np.ptp(features[rows], axis=0).any() else "random"
    places = TSNE(init=init, perplexity=perplexity, random_state=seed).fit_transform(features[rows])
    codes, classes = labels.cat.codes.to_numpy()[rows], _classes(labels)
    figure = go.Figure()
    for code, name in enumerate(classes):
        x, y = places[codes == code].round(2).T
        symbol = SYMBOLS[(code + code // len(PALETTE)) % len(SYMBOLS)]
        look = {"color": PALETTE[code % len(PALETTE)], "symbol": symbol, "size": 6, "opacity": 0.8}
        whole = f"{name}<extra></extra>"
        figure.add_scatter(  # as SVG: WebGL does not draw everywhere
            x=x, y=y, mode="markers", marker=look, name=_short(name), hovertemplate=whole
        )
    figure.update_xaxes(title="t-SNE 1 (no unit)").update_yaxes(title="t-SNE 2 (no unit)")
    figure.update_layout(showlegend=len(classes) <= LEGEND_CLASSES, legend_title="class")
    return _style(figure, title, height=700)


# --- The grid search ------------------------------------------------------------------


def _rate_titles(rates: Sequence[float]) -> list[str]:
    """Return the titles of panels beside each other, which have no room for one line if many."""
    return [f"learning rate{'<br>' if len(rates) > 3 else ' '}{rate:g}" for rate in rates]


def grid_search(results: pd.DataFrame, title: str) -> go.Figure:
    """Return validation accuracy by epoch: a panel per dropout and learning rate."""
    rates, dropouts, decays = (sorted(results[n].unique()) for n in scenes.HYPERPARAMETERS)
    figure = make_subplots(
        len(dropouts),
        len(rates),
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=0.03,
        column_titles=_rate_titles(rates),
        row_titles=[f"dropout {dropout:g}" for dropout in dropouts],
        x_title="epoch",
        y_title="validation accuracy",
    )
    accuracy = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"]
    curves = accuracy.agg(["mean", "std"])
    for (i, rate), (j, dropout), (k, decay) in itertools.product(
        *map(enumerate, (rates, dropouts, decays))
    ):
        look = {"color": CURVES[k % len(CURVES)], "dash": DASHES[k % len(DASHES)]}
        curve = curves.loc[(rate, dropout, decay)]
        traces = _line_and_band(curve, f"{decay:g}", legend=i == j == 0, **look)
        figure.add_traces(traces, rows=j + 1, cols=i + 1)
    figure.update_layout(legend={"title": "weight decay", "x": 1.06})
    figure.update_xaxes(**_epoch_axis(results["epoch"]))
    return _style(figure, title, height=200 + 200 * len(dropouts))


def heatmap(summary: pd.DataFrame, title: str) -> go.Figure:
    """Return a heat map of the mean validation accuracy of each setting of `summarize`."""
    accuracy = summary.set_index(scenes.HYPERPARAMETERS)["val_accuracy"].sort_index()
    rates, dropouts, decays = accuracy.index.levels
    figure = _heat(
        100 * accuracy.to_numpy().reshape(accuracy.index.levshape),
        [f"{decay:g}" for decay in decays],
        [f"{dropout:g}" for dropout in dropouts],
        facet_col=0,
        labels={"x": "weight decay", "y": "dropout", "color": "accuracy (%)"},
        text_auto=".2f" if len(rates) * len(decays) <= 20 else False,  # as far as one can read it
    )
    for note, text in zip(figure.layout.annotations, _rate_titles(rates), strict=True):
        note.text = text
    return _style(figure, title)


# --- Trainings and their models -------------------------------------------------------


def history(history: pd.DataFrame, title: str) -> go.Figure:
    """
    Return the curves of loss and accuracy, training and validation.

    Parameters
    ----------
    history : DataFrame
        What `train_head` or `fine_tune` returns; or those of several runs, concatenated:
        the lines are then their means, and bands show one standard deviation.
    title : str
    """
    by_epoch = history.groupby("epoch")
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    kinds = {"training": ("", TRAINING_COLOR, "dash")}
    kinds["validation"] = ("val_", VALIDATION_COLOR, "solid")
    for column, metric in enumerate(("loss", "accuracy"), start=1):
        for name, (prefix, color, dash) in kinds.items():
            if prefix + metric in history:
                curve = by_epoch[prefix + metric].agg(["mean", "std"])
                look = {"color": color, "dash": dash, "legend": column == 1}
                figure.add_traces(_line_and_band(curve, name, **look), rows=1, cols=column)
        figure.update_yaxes(title=metric, col=column)
    return _style(figure.update_xaxes(title="epoch", **_epoch_axis(history["epoch"])), title)


def confusion(labels: pd.Series, predictions: Sequence[str], title: str) -> go.Figure:
    """Return a heat map of true by predicted class, with counts and row percentages."""
    classes = _classes(labels)
    counts = confusion_matrix(labels.astype(str), predictions, labels=list(labels.cat.categories))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _heat(
        shares,
        classes,
        classes,
        labels={"x": "predicted class", "y": "true class", "color": "% of the<br>true class"},
        color_continuous_scale="Blues",
        text_auto=False,
        aspect="equal",
        zmin=0,
        zmax=100,
    )
    cells = np.vectorize(lambda n, share: f"{n}<br>{share:.1f}%")(counts, shares)
    pointed = "predicted class: %{x}<br>true class: %{y}<br>%{text}<extra></extra>"
    numbers = "%{text}" if len(classes) <= NUMBERED_CLASSES else None
    figure.update_traces(text=cells, texttemplate=numbers, hovertemplate=pointed)
    figure.update_xaxes(**_class_axis(classes)).update_yaxes(**_class_axis(classes))
    return _style(figure, title, height=700)


def calibration(tables: dict[str, pd.DataFrame], title: str) -> go.Figure:
    """
    Return the reliability diagram of tables of `calibration`, named in the legend.

    The area of a point grows with its photos: a small one says little.
    """
    figure = go.Figure()
    line = {"color": "#999999", "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, name="as often right as sure")
    styles = itertools.cycle(zip(PALETTE, SYMBOLS, strict=False))
    most = max(table["photos"].max() for table in tables.values())
    for (name, table), (color, symbol) in zip(tables.items(), styles, strict=False):
        figure.add_scatter(
            x=table["confidence"],
            y=table["accuracy"],
            customdata=table["photos"],
            mode="lines+markers",
            line={"color": color},
            marker={"symbol": symbol, "size": 5 + 15 * np.sqrt(table["photos"] / most)},
            name=name,
            hovertemplate="confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata} photos",
        )
    figure.update_xaxes(title="confidence: probability of the predicted class")
    figure.update_yaxes(title="accuracy: share of the photos that it is right on")
    # Where no point lies, unless a classifier is often sure and seldom right.
    corner = {"x": 0.98, "y": 0.02, "xanchor": "right", "yanchor": "bottom"}
    return _style(figure, title, height=600).update_layout(legend=corner)


def coverage(table: pd.DataFrame, title: str, *, answered: float) -> go.Figure:
    """
    Return the accuracy-coverage curve of a table of `coverage_curve`.

    `answered` is the coverage at the abstention threshold, which is marked.
    """
    figure = px.line(table, "coverage", "accuracy", color_discrete_sequence=[TRAINING_COLOR])
    figure.update_traces(hovertemplate="coverage %{x:.1%}, accuracy %{y:.2%}<extra></extra>")
    accuracy = np.interp(answered, table["coverage"], table["accuracy"])
    text = f"threshold: coverage {answered:.1%},<br>selective accuracy {accuracy:.2%}"
    figure.add_annotation(x=answered, y=accuracy, text=text, ax=-70, ay=60, arrowhead=6)
    figure.update_xaxes(title="coverage", tickformat=".0%")
    figure.update_yaxes(title="selective accuracy", tickformat=".1%")
    low = min(table["accuracy"].min(), 0.98)  # if all are correct, the axis ends at 100%, too
    figure.update_yaxes(range=[1.05 * low - 0.05, 1.05 - 0.05 * low])
    return _style(figure, title)


# --- Shown and saved ------------------------------------------------------------------


_first: dict[str, str] = {}  # for each reason that there is no PNG, the first figure without one


def show(figure: go.Figure, name: str, folder: str | Path) -> None:
    """
    Show a figure, and write it as `name.html` and `name.png` into a folder.

    The HTML files of a folder share one `plotly.min.js` and need no network. The PNG needs
    Chrome or Chromium; without it, an older PNG is removed, and the first plot prints the
    reason, also when its cell runs again. What is shown holds the figure and, for pages made
    of the notebook, the PNG or, if there is none, an HTML form, which can be moved and opened
    without network: that of the first plot holds plotly's script, 5 MB, for the whole page.
    The others name the script's address, too, for Colab, where each output is a page.
    """
    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    png, problem = chrome.draw(figure)  # it may take long: the files of an older figure stay
    page = figure.to_html(include_plotlyjs="directory", div_id=name)
    contents = {folder / "plotly.min.js": get_plotlyjs().encode()}  # another plotly's is replaced
    contents |= {folder / f"{name}.html": page.encode(), folder / f"{name}.png": png}
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)  # it shows an older figure
        elif not path.exists() or path.read_bytes() != content:
            with files.replacing(path) as beside:
                beside.write_bytes(content)
    shown = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    if png:
        shown["image/png"] = png
    else:
        if _first.setdefault(problem, name) == name:
            print(problem)
        source = name in _first.values() or "cdn"
        shown["text/html"] = figure.to_html(full_html=False, include_plotlyjs=source, div_id=name)
    if get_ipython():  # else it would be printed, letter by letter
        display(shown, raw=True)
