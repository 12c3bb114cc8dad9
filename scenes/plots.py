"""
Plots: figures of tables and numbers, shown and saved.

A figure shows what it is given: titles come from the caller, classes from the labels.
Saved figures need no network. Computes no result, and knows nothing of photos and
networks.
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
TRAINING_COLOR, VALIDATION_COLOR = "#0072B2", "#D55E00"
LEGEND_CLASSES = 20  # more have no room in a legend: the mouse names them
NUMBERED_CLASSES = 12  # more have no room for numbers in the confusion matrix
NAMED_TICKS = 25  # of more classes, an axis names some
LETTERS = 24  # of a class's name that are shown; the mouse shows all


# --- What all have in common ----------------------------------------------------------


def _style(figure, title, subtitle="", *, height=500):
    """
    Give a figure the look that all have in common, as wide as a notebook's column.
    """
    smaller = {"text": subtitle, "font": {"size": 13, "color": "#666666"}}
    place = {"x": 0.02, "xanchor": "left", "y": 1 - 28 / height, "yanchor": "top"}
    figure.update_layout(title={"text": title, "subtitle": smaller} | place)
    font = {"family": "Liberation Sans, Arial, sans-serif", "size": 14}
    size = {
        "width": 850,
        "height": height,
        "margin": {"l": 80, "r": 30, "t": 100, "b": 70},
    }
    return figure.update_layout(template="plotly_white", font=font, **size)


def _legend_below(figure):
    """Put the legend of a figure below its axes, where long names have room."""
    place = {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"}
    return figure.update_layout(legend=place, margin_b=140)


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
    return _plain(name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…")


def _class_axis(classes):
    """
    Return an axis of classes, whose long names are short beside it and whole at the
    mouse.
    """
    few = classes[:: -(-len(classes) // NAMED_TICKS)]
    ticks = {"tickvals": few, "ticktext": [*map(_short, few)]}
    return {"type": "category", "automargin": True, **ticks}


def _epoch_axis(epochs):
    """Return an axis whose ticks are whole numbers, however few they are."""
    return {"dtick": 1} if np.ptp(epochs) < 6 else {}


def _wrap(panels):
    """
    Return how panels are wrapped into rows of at most four, and the height of the
    figure.
    """
    rows = -(-panels // 4)
    spacing = {"facet_col_spacing": 0.02, "facet_row_spacing": 0.2 / rows}
    return {"facet_col_wrap": -(-panels // rows)} | spacing, 260 + 240 * rows


def _heat(values, x, y, **options):
    """Return a heat map of accuracies in %, with a column and a row for each name."""
    look = {"aspect": "auto", "color_continuous_scale": "Viridis"} | options
    figure = px.imshow(values, x=list(x), y=list(y), **look)
    return figure.update_xaxes(type="category").update_yaxes(type="category")


# --- The photos and their features ----------------------------------------------------


def counts(images: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """Return bars of the number of labelled photos of each class, stacked by split."""
    classes = _classes(images["label"])
    table = (
        images.groupby(["split", "label"], observed=True)
        .size()
        .reset_index(name="photos")
    )
    table["label"] = table["label"].cat.rename_categories(classes)
    table = table.astype({"split": str, "label": str})  # plotly knows no categories
    look = {"color_discrete_map": SPLIT_COLORS}
    look["category_orders"] = {"label": classes, "split": list(SPLIT_COLORS)}
    look["labels"] = {"label": "class", "photos": "number of photos"}
    text = "photos" if len(classes) <= LEGEND_CLASSES else None
    figure = px.bar(table, "label", "photos", color="split", text=text, **look)
    # A number above a bar would look like the sum of all below it.
    figure.update_traces(textangle=0, textposition="inside").update_xaxes(
        **_class_axis(classes)
    )
    figure.update_layout(uniformtext={"minsize": 9, "mode": "hide"})
    return _style(figure, title, subtitle)


def feature_map(
    features: np.ndarray,
    labels: pd.Series,
    title: str,
    *,
    subtitle: str = "",
    sample: int = 1200,
    seed: int = 0,
) -> go.Figure:
    """
    Return a map of a sample of the features, coloured by class.

    t-SNE (van der Maaten & Hinton, 2008) puts photos with similar features near each
    other; the axes have no unit.
    """
    rows = np.random.default_rng(seed).permutation(len(features))[:sample]
    perplexity = min(30, (len(rows) - 1) / 3)
    # PCA finds no axis where all features are alike, as the zeros of random weights
    # are, and scikit-learn then crashes.
    init = "pca" if np.ptp(features[rows], axis=0).any() else "random"
    places = TSNE(init=init, perplexity=perplexity, random_state=seed).fit_transform(
        features[rows]
    )
    codes, classes = labels.cat.codes.to_numpy()[rows], _classes(labels)
    figure = go.Figure()
    for code, name in enumerate(classes):
        x, y = places[codes == code].round(2).T
        symbol = SYMBOLS[(code + code // len(PALETTE)) % len(SYMBOLS)]
        look = {
            "color": PALETTE[code % len(PALETTE)],
            "symbol": symbol,
            "size": 6,
            "opacity": 0.8,
        }
        whole = f"{name}<extra></extra>"
        figure.add_scatter(  # as SVG: WebGL does not draw everywhere
            x=x,
            y=y,
            mode="markers",
            marker=look,
            name=_short(name),
            hovertemplate=whole,
        )
    figure.update_xaxes(title="t-SNE 1", showticklabels=False)
    figure.update_yaxes(title="t-SNE 2", showticklabels=False)
    figure.update_layout(
        showlegend=len(classes) <= LEGEND_CLASSES, legend_title="class"
    )
    return _style(figure, title, subtitle, height=700)


# --- The grid search ------------------------------------------------------------------


def grid_search(results: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return mean validation accuracy over folds by epoch: a panel for each learning rate.

    The setting with the highest accuracy is in colour, with the standard deviation over
    folds at its best epoch. The axis begins where most curves are in the later half of
    the epochs.
    """
    by_epoch = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])
    means = by_epoch[["val_accuracy", "val_loss"]].mean().round(9)
    means = means.sort_values(
        ["val_accuracy", "val_loss"], ascending=[False, True], kind="stable"
    )
    (*best, epoch), top = means.index[0], means["val_accuracy"].iloc[0]
    std = np.nan_to_num(
        by_epoch["val_accuracy"].std()[*best, epoch]
    )  # NaN of a single fold
    curves = (
        means["val_accuracy"].unstack().astype("float32")
    )  # half the size in the notebook
    epochs, rates = list(curves.columns), list(curves.index.levels[0])
    # A missing value ends each line: one trace for a panel is smaller than one for each
    # line.
    lines = curves.reindex(columns=[*epochs, epochs[-1] + 1]).rename_axis(
        columns="epoch"
    )
    table = lines.stack(future_stack=True).rename("validation accuracy").reset_index()
    panels, height = _wrap(len(rates))
    panels |= {
        "facet_col": "learning_rate",
        "render_mode": "svg",
    }  # WebGL lies above the best
    figure = px.line(table, "epoch", "validation accuracy", **panels)
    figure.for_each_annotation(
        lambda note: note.update(text=note.text.replace("_rate=", " rate "))
    )
    mode = "lines" if len(epochs) > 1 else "markers"  # one point makes no line
    grey = {
        "line": {"color": "#BFBFBF", "width": 1},
        "mode": mode,
        "name": "each setting",
    }
    figure.update_traces(**grey, hovertemplate=None, hoverinfo="skip")
    figure.data[0].showlegend = True
    panel = figure.data[rates.index(best[0])]
    look = {"marker": {"color": VALIDATION_COLOR, "size": 9}, "xaxis": panel.xaxis}
    look |= {
        "yaxis": panel.yaxis,
        "hovertemplate": "epoch %{x}: %{y:.2%}<extra></extra>",
    }
    name = "best setting: learning rate {:g}, dropout {:g}, weight decay {:g}".format(
        *best
    )
    figure.add_scatter(x=epochs, y=curves.loc[*best], mode=mode, name=name, **look)
    name = f"its best epoch: {epoch} ({top:.2%}"
    name += f", standard deviation over folds {std:.2%})" if std else ")"
    bar = {"array": [std]}
    figure.add_scatter(
        x=[epoch], y=[top], error_y=bar, mode="markers", name=name, **look
    )
    low = min(curves.iloc[:, len(epochs) // 2 :].stack().quantile(0.05), top - std)
    margin = 0.05 * (top + std - low) + 0.001
    figure.update_yaxes(range=[low - margin, top + std + margin])
    room = 0.5 + 0.02 * np.ptp(epochs)
    figure.update_xaxes(
        range=[epochs[0] - room, epochs[-1] + room], **_epoch_axis(epochs)
    )
    return _legend_below(_style(figure, title, subtitle, height=height + 60))


def heatmap(summary: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return a heat map of the mean validation accuracy of each setting of `summarize`.
    """
    accuracy = summary.set_index(scenes.HYPERPARAMETERS)["val_accuracy"].sort_index()
    rates, dropouts, decays = accuracy.index.levels
    panels, height = _wrap(len(rates))
    numbers = (
        panels["facet_col_wrap"] * len(decays) <= 20
    )  # as far as one can read them
    values = 100 * accuracy.to_numpy().reshape(accuracy.index.levshape)
    x, y = ([f"{value:g}" for value in of_axis] for of_axis in (decays, dropouts))
    look = {"labels": {"x": "weight decay", "y": "dropout", "color": "accuracy (%)"}}
    look["text_auto"] = ".2f" if numbers else False
    figure = _heat(values, x, y, facet_col=0, **look, **panels)
    for note in figure.layout.annotations:  # "facet_col=0"
        note.text = f"learning rate {rates[int(note.text.split('=')[1])]:g}"
    figure.update_coloraxes(showscale=not numbers)
    return _style(figure, title, subtitle, height=height)


# --- Trainings and their models -------------------------------------------------------


def history(history: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return the curves of loss and accuracy, training and validation, of one training.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    mode = "lines" if len(history) > 1 else "markers"  # one point makes no line
    lines = {"training": ("", {"color": TRAINING_COLOR, "dash": "dash"})}
    lines["validation"] = ("val_", {"color": VALIDATION_COLOR})
    for column, metric in enumerate(("loss", "accuracy"), start=1):
        for name, (prefix, line) in lines.items():
            if prefix + metric in history:
                look = {
                    "name": name,
                    "mode": mode,
                    "line": line,
                    "showlegend": column == 1,
                }
                curve = history[prefix + metric].round(5).tolist()
                figure.add_scatter(
                    x=history["epoch"], y=curve, **look, row=1, col=column
                )
        figure.update_yaxes(title=metric, col=column)
    figure.update_xaxes(title="epoch", **_epoch_axis(history["epoch"]))
    return _style(figure, title, subtitle)


def learning_curve(table: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return validation accuracy by number of training photos: mean and range over seeds.

    Parameters
    ----------
    table : DataFrame
        A row for each training: its number of training `photos`, `seed` and
        `val_accuracy`.
    title, subtitle : str
    """
    ends = (
        table.groupby("photos")["val_accuracy"]
        .agg(["min", "mean", "max"])
        .reset_index()
    )
    y = "validation accuracy<br>(mean, range over seeds)"
    ends = ends.assign(
        above=ends["max"] - ends["mean"], below=ends["mean"] - ends["min"]
    )
    look = {"error_y": "above", "error_y_minus": "below", "markers": True}
    look["labels"] = {"photos": "number of training photos (log scale)", "mean": y}
    look["color_discrete_sequence"] = [VALIDATION_COLOR]
    figure = px.line(ends, "photos", "mean", **look)
    figure.update_xaxes(type="log", tickvals=ends["photos"], tickformat=",d")
    return _style(figure.update_yaxes(tickformat=".1%"), title, subtitle)


def confusion(
    labels: pd.Series, predictions: Sequence[str], title: str, *, subtitle: str = ""
) -> go.Figure:
    """Return a heat map of true by predicted class, with counts and row percentages."""
    classes = _classes(labels)
    counts = confusion_matrix(
        labels.astype(str), predictions, labels=list(labels.cat.categories)
    )
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    look = {
        "color_continuous_scale": "Blues",
        "aspect": "equal",
        "zmin": 0,
        "zmax": 100,
    }
    names = {
        "x": "predicted class",
        "y": "true class",
        "color": "% of the<br>true class",
    }
    figure = _heat(shares, classes, classes, labels=names, **look)
    cells = np.vectorize(lambda n, share: f"{n}<br>{share:.1f}%")(counts, shares)
    pointed = "predicted class: %{x}<br>true class: %{y}<br>%{text}<extra></extra>"
    numbers = "%{text}" if len(classes) <= NUMBERED_CLASSES else None
    figure.update_traces(text=cells, texttemplate=numbers, hovertemplate=pointed)
    figure.update_coloraxes(showscale=not numbers)
    figure.update_xaxes(**_class_axis(classes)).update_yaxes(**_class_axis(classes))
    return _style(figure, title, subtitle, height=700)


def calibration(
    tables: dict[str, pd.DataFrame],
    title: str,
    *,
    confidences: dict,
    subtitle: str = "",
) -> go.Figure:
    """
    Return a reliability diagram above a histogram of confidence.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Tables of `reliability` by the names that the legend shows; the error bars are
        their confidence intervals.
    title, subtitle : str
    confidences : dict of str to sequence of float
        The confidence for each photo, by the same names.
    """
    figure = make_subplots(
        2, 1, shared_xaxes=True, row_heights=[0.84, 0.16], vertical_spacing=0.03
    )
    lowest = min(
        table[["confidence", "ci_low"]].min(axis=None) for table in tables.values()
    )
    ends = [np.floor(10 * lowest) / 10, 1]
    line = {"color": "#999999", "dash": "dot"}
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=line, name="perfect calibration"
    )
    styles = itertools.cycle(zip(PALETTE, SYMBOLS, strict=False))
    hover = "confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata} photos"
    for (name, table), (color, symbol) in zip(tables.items(), styles, strict=False):
        x, y = table["confidence"], table["accuracy"]
        bars = {
            "array": table["ci_high"] - y,
            "arrayminus": y - table["ci_low"],
            "thickness": 1,
        }
        look = {
            "mode": "markers",
            "marker": {"color": color, "symbol": symbol, "size": 7},
        }
        look |= {"name": name, "customdata": table["photos"], "hovertemplate": hover}
        figure.add_scatter(x=x, y=y, error_y=bars, **look)
        photos, edges = np.histogram(confidences[name], bins=50, range=ends)
        look = {
            "mode": "lines",
            "line": {"color": color, "shape": "hv"},
            "showlegend": False,
        }
        figure.add_scatter(
            x=edges, y=[*photos, 0], row=2, col=1, **look, hoverinfo="skip"
        )
    axis = {"range": [ends[0], 1.02]}  # the markers of an accuracy of 1 are shown whole
    figure.update_xaxes(**axis, domain=[0.19, 0.81])  # so that the diagram is square
    figure.update_yaxes(**axis, title="accuracy", row=1).update_yaxes(
        title="photos", row=2
    )
    figure.update_xaxes(title="confidence (probability of the predicted class)", row=2)
    return _legend_below(_style(figure, title, subtitle, height=800))


def coverage(
    table: pd.DataFrame, title: str, *, answered: float, subtitle: str = ""
) -> go.Figure:
    """
    Return the accuracy-coverage curve of a table of `coverage_curve`.

    `answered` is the coverage at the abstention threshold, which is marked.
    """
    figure = px.line(
        table, "coverage", "accuracy", render_mode="svg"
    )  # as of `feature_map`
    hover = "coverage %{x:.1%}, accuracy %{y:.2%}<extra></extra>"
    figure.update_traces(line_color=TRAINING_COLOR, hovertemplate=hover)
    accuracy = np.interp(answered, table["coverage"], table["accuracy"])
    text = f"threshold: coverage {answered:.1%},<br>selective accuracy {accuracy:.2%}"
    figure.add_annotation(x=answered, y=accuracy, text=text, ax=-70, ay=60, arrowhead=6)
    figure.update_xaxes(title="coverage", tickformat=".0%")
    figure.update_yaxes(title="selective accuracy", tickformat=".1%")
    low = min(
        table["accuracy"].min(), 0.98
    )  # if all are correct, the axis ends at 100%, too
    figure.update_yaxes(range=[1.05 * low - 0.05, 1.05 - 0.05 * low])
    return _style(figure, title, subtitle)


# --- Shown and saved ------------------------------------------------------------------


_first: dict[
    str, str
] = {}  # for each reason that there is no PNG, the first figure without one


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
    (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
    png, problem = chrome.draw(
        figure
    )  # it may take long: the files of an older figure stay
    page = figure.to_html(include_plotlyjs="directory", div_id=name)
    contents = {
        folder / "plotly.min.js": get_plotlyjs().encode()
    }  # another plotly's is replaced
    contents |= {folder / f"{name}.html": page.encode(), folder / f"{name}.png": png}
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)  # it shows an older figure
        elif not path.exists() or path.read_bytes() != content:
            with files.replacing(path) as beside:
                beside.write_bytes(content)
    shown = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    if png:
        shown["image/png"] = chrome.halve(png)
    else:
        if _first.setdefault(problem, name) == name:
            print(problem)
        source = name in _first.values() or "cdn"
        shown["text/html"] = figure.to_html(
            full_html=False, include_plotlyjs=source, div_id=name
        )
    if get_ipython():  # else it would be printed, letter by letter
        display(shown, raw=True)
