"""
Plots: figures of tables and numbers, shown and saved.

A figure shows what it is given: titles come from the caller, classes from the labels.
Saved figures need no network. Computes no result, and knows nothing of photos and
networks.

Everywhere, `labels` is a categorical Series of shape (n,), whose categories are the
classes in their order; accuracies, confidences and coverages are between 0 and 1;
`title` and `subtitle` are text, in which plotly reads HTML.
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
TRAINING_COLOR = "#0072B2"
VALIDATION_COLOR = "#D55E00"
GREY = "#BFBFBF"
LEGEND_CLASSES = 20  # more have no room in a legend: the mouse names them
NUMBERED_CLASSES = 12  # more have no room for numbers in the confusion matrix
NAMED_TICKS = 25  # of more classes, an axis names some
LETTERS = 24  # of a class's name that are shown; the mouse shows all


# --- What all have in common ----------------------------------------------------------


def style(
    figure: go.Figure, title: str, subtitle: str = "", *, height: int = 500
) -> go.Figure:
    """
    Return a figure with the look that all have in common, as wide as a notebook's
    column.

    Parameters
    ----------
    figure : Figure
        It is changed.
    title, subtitle : str
    height : int
        In pixels.
    """
    figure.update_layout(
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 13, "color": "#666666"}},
            "x": 0.02,
            "xanchor": "left",
            "y": 1 - 28 / height,
            "yanchor": "top",
        }
    )
    return figure.update_layout(
        template="plotly_white",
        font={"family": "Liberation Sans, Arial, sans-serif", "size": 14},
        width=850,
        height=height,
        margin={"l": 80, "r": 30, "t": 100, "b": 70},
    )


def _legend_below(figure):
    """Put the legend of a figure below its axes, where long names have room."""
    figure.update_layout(
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"}
    )
    return figure.update_layout(margin_b=140)


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


def _wrap(panels):
    """Return into how many rows and columns panels are wrapped, at most four a row."""
    rows = -(-panels // 4)
    return rows, -(-panels // rows)


def _mode(points):
    """Return how a curve is drawn: one point makes no line."""
    return "lines" if len(points) > 1 else "markers"


# --- The photos and their features ----------------------------------------------------


def counts(images: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return bars of the number of labelled photos of each class, stacked by split.

    Parameters
    ----------
    images : DataFrame
        `split` and `label` of the photos.
    title, subtitle : str
    """
    classes = _classes(images["label"])
    sizes = images.groupby(["split", "label"], observed=True).size()
    table = sizes.reset_index(name="photos")
    table["label"] = table["label"].cat.rename_categories(classes)
    table = table.astype({"split": str, "label": str})  # plotly knows no categories
    figure = px.bar(
        table,
        "label",
        "photos",
        color="split",
        text="photos" if len(classes) <= LEGEND_CLASSES else None,
        color_discrete_map=SPLIT_COLORS,
        category_orders={"label": classes, "split": list(SPLIT_COLORS)},
        labels={"label": "class", "photos": "number of photos"},
    )
    # A number above a bar would look like the sum of all below it.
    figure.update_traces(textangle=0, textposition="inside")
    figure.update_layout(uniformtext={"minsize": 9, "mode": "hide"})
    _class_ticks(classes, figure.layout.xaxis)
    return style(figure, title, subtitle)


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

    Parameters
    ----------
    features : ndarray, shape (n, n_features)
    labels : Series of categories, shape (n,)
    title, subtitle : str
    sample : int
        The number of photos that are drawn.
    seed : int
        Of the sample and the map.
    """
    rows = np.random.default_rng(seed).permutation(len(features))[:sample]
    classes = _classes(labels)
    codes = labels.cat.codes.to_numpy()[rows]
    places = _tsne(features[rows], seed).round(2)
    figure = go.Figure()
    for code, name in enumerate(classes):
        x, y = places[codes == code].T
        number = code + code // len(PALETTE)
        figure.add_scatter(  # as SVG: WebGL does not draw everywhere
            x=x,
            y=y,
            mode="markers",
            marker={
                "color": PALETTE[code % len(PALETTE)],
                "symbol": SYMBOLS[number % len(SYMBOLS)],
                "size": 6,
                "opacity": 0.8,
            },
            name=_short(name),
            hovertemplate=f"{name}<extra></extra>",
        )
    figure.update_xaxes(title="t-SNE 1", showticklabels=False)
    figure.update_yaxes(title="t-SNE 2", showticklabels=False)
    figure.update_layout(showlegend=len(classes) <= LEGEND_CLASSES)
    figure.update_layout(legend_title="class")
    return style(figure, title, subtitle, height=700)


def _tsne(features, seed):
    """Return the two coordinates of each row in a t-SNE map."""
    # PCA finds no axis where all features are alike, as the zeros of random weights
    # are, and scikit-learn then crashes.
    init = "pca" if np.ptp(features, axis=0).any() else "random"
    perplexity = min(30, (len(features) - 1) / 3)
    tsne = TSNE(init=init, perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(features)


# --- The grid search ------------------------------------------------------------------


def grid_search(ranked: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
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
    title, subtitle : str
    """
    curves = ranked.pivot(
        index=scenes.HYPERPARAMETERS, columns="epoch", values="val_accuracy"
    )
    curves = curves.astype("float32")  # half the size in the notebook
    epochs = list(curves.columns)
    figure = _curves_by_rate(curves)
    best = ranked.iloc[0]
    setting = tuple(best[scenes.HYPERPARAMETERS])
    panel = figure.data[curves.index.levels[0].get_loc(setting[0])]
    text = "best setting: learning rate {:g}, dropout {:g}, weight decay {:g}"
    figure.add_scatter(x=epochs, y=curves.loc[setting], name=text.format(*setting))
    epoch, top = int(best["epoch"]), best["val_accuracy"]
    std = float(np.nan_to_num(best["std"]))  # NaN of a single fold
    text = f", standard deviation over folds {std:.2%}" if std else ""
    figure.add_scatter(
        x=[epoch],
        y=[top],
        error_y={"array": [std]},
        name=f"its best epoch: {epoch} ({top:.2%}{text})",
    )
    for trace in figure.data[-2:]:
        trace.mode = _mode(trace.x)
        trace.marker = {"color": VALIDATION_COLOR, "size": 9}
        trace.hovertemplate = "epoch %{x}: %{y:.2%}<extra></extra>"
        trace.update(xaxis=panel.xaxis, yaxis=panel.yaxis)
    later = curves[epochs[len(epochs) // 2 :]]
    low = min(later.stack().quantile(0.05), top - std)
    margin = 0.05 * (top + std - low) + 0.001
    figure.update_yaxes(range=[low - margin, top + std + margin])
    room = 0.5 + 0.02 * np.ptp(epochs)
    figure.update_xaxes(range=[epochs[0] - room, epochs[-1] + room])
    _whole_epochs(figure, epochs)
    rows, _ = _wrap(len(curves.index.levels[0]))
    return _legend_below(style(figure, title, subtitle, height=320 + 240 * rows))


def _curves_by_rate(curves):
    """Return the curves of all settings in grey, a panel for each learning rate."""
    epochs = list(curves.columns)
    # A missing value ends each line: one trace for a panel is smaller than one for each
    # line.
    lines = curves.reindex(columns=[*epochs, epochs[-1] + 1])
    lines = lines.rename_axis(columns="epoch").stack(future_stack=True)
    rows, columns = _wrap(len(curves.index.levels[0]))
    figure = px.line(
        lines.rename("validation accuracy").reset_index(),
        "epoch",
        "validation accuracy",
        facet_col="learning_rate",
        facet_col_wrap=columns,
        facet_col_spacing=0.02,
        facet_row_spacing=0.2 / rows,
        render_mode="svg",  # WebGL lies above the best
    )
    for note in figure.layout.annotations:
        note.text = note.text.replace("_rate=", " rate ")
    figure.update_traces(
        line={"color": GREY, "width": 1},
        mode=_mode(epochs),
        name="each setting",
        hovertemplate=None,
        hoverinfo="skip",
    )
    figure.data[0].showlegend = True
    return figure


def heatmap(summary: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return a heat map of the mean validation accuracy of each setting of `summarize`.
    """
    accuracy = summary.set_index(scenes.HYPERPARAMETERS)["val_accuracy"].sort_index()
    rates, dropouts, decays = accuracy.index.levels
    rows, columns = _wrap(len(rates))
    numbers = columns * len(decays) <= 20  # as far as one can read them
    values = 100 * accuracy.to_numpy()
    figure = px.imshow(
        values.reshape(accuracy.index.levshape),
        x=[f"{value:g}" for value in decays],
        y=[f"{value:g}" for value in dropouts],
        labels={"x": "weight decay", "y": "dropout", "color": "accuracy (%)"},
        text_auto=".2f" if numbers else False,
        aspect="auto",
        color_continuous_scale="Viridis",
        facet_col=0,
        facet_col_wrap=columns,
        facet_col_spacing=0.02,
        facet_row_spacing=0.2 / rows,
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category")
    for note in figure.layout.annotations:  # "facet_col=0"
        number = int(note.text.split("=")[1])
        note.text = f"learning rate {rates[number]:g}"
    figure.update_coloraxes(showscale=not numbers)
    return style(figure, title, subtitle, height=260 + 240 * rows)


# --- Trainings and their models -------------------------------------------------------


def history(history: pd.DataFrame, title: str, *, subtitle: str = "") -> go.Figure:
    """
    Return the curves of loss and accuracy, training and validation, of one training.

    Parameters
    ----------
    history : DataFrame
        A row for each `epoch`: `loss`, `accuracy` and, if there is a validation set,
        `val_loss` and `val_accuracy`.
    title, subtitle : str
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    training = {"color": TRAINING_COLOR, "dash": "dash"}
    validation = {"color": VALIDATION_COLOR}
    for column, metric in enumerate(("loss", "accuracy"), start=1):
        _add_curve(figure, column, history, metric, "training", training)
        if f"val_{metric}" in history:
            _add_curve(
                figure, column, history, f"val_{metric}", "validation", validation
            )
        figure.update_yaxes(title=metric, col=column)
    figure.update_xaxes(title="epoch")
    _whole_epochs(figure, history["epoch"])
    return style(figure, title, subtitle)


def _add_curve(figure, column, history, metric, name, line):
    figure.add_scatter(
        x=history["epoch"],
        y=history[metric].round(5).tolist(),
        name=name,
        mode=_mode(history),
        line=line,
        showlegend=column == 1,
        row=1,
        col=column,
    )


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
    accuracies = table.groupby("photos")["val_accuracy"]
    means = accuracies.mean()
    curve = pd.DataFrame({"photos": means.index, "mean": means.to_numpy()})
    curve["above"] = (accuracies.max() - means).to_numpy()
    curve["below"] = (means - accuracies.min()).to_numpy()
    figure = px.line(
        curve,
        "photos",
        "mean",
        error_y="above",
        error_y_minus="below",
        markers=True,
        labels={
            "photos": "number of training photos (log scale)",
            "mean": "validation accuracy<br>(mean, range over seeds)",
        },
        color_discrete_sequence=[VALIDATION_COLOR],
    )
    figure.update_xaxes(type="log", tickvals=curve["photos"], tickformat=",d")
    figure.update_yaxes(tickformat=".1%")
    return style(figure, title, subtitle)


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
    title, subtitle : str
    """
    names = list(labels.cat.categories)
    counts = confusion_matrix(labels.astype(str), predictions, labels=names)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = np.vectorize(lambda n, share: f"{n}<br>{share:.1f}%")(counts, shares)
    pointed = "predicted class: %{x}<br>true class: %{y}<br>%{text}<extra></extra>"
    numbers = "%{text}" if len(names) <= NUMBERED_CLASSES else None
    classes = _classes(labels)
    figure = px.imshow(
        shares,
        x=classes,
        y=classes,
        labels={
            "x": "predicted class",
            "y": "true class",
            "color": "% of the<br>true class",
        },
        aspect="equal",
        color_continuous_scale="Blues",
        zmin=0,
        zmax=100,
    )
    figure.update_traces(text=cells, texttemplate=numbers, hovertemplate=pointed)
    figure.update_coloraxes(showscale=not numbers)
    _class_ticks(classes, figure.layout.xaxis, figure.layout.yaxis)
    return style(figure, title, subtitle, height=700)


def calibration(
    tables: dict[str, pd.DataFrame],
    title: str,
    *,
    confidences: dict[str, Sequence[float]],
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
    everything = pd.concat(tables.values())
    lowest = everything[["confidence", "ci_low"]].min(axis=None)
    ends = [np.floor(10 * lowest) / 10, 1]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": "#999999", "dash": "dot"},
        name="perfect calibration",
    )
    looks = itertools.cycle(zip(PALETTE, SYMBOLS, strict=False))
    for (name, table), (color, symbol) in zip(tables.items(), looks, strict=False):
        _add_bins(figure, table, name, {"color": color, "symbol": symbol, "size": 7})
        photos, edges = np.histogram(confidences[name], bins=50, range=ends)
        figure.add_scatter(
            x=edges,
            y=[*photos, 0],
            row=2,
            col=1,
            mode="lines",
            line={"color": color, "shape": "hv"},
            showlegend=False,
            hoverinfo="skip",
        )
    shown = [ends[0], 1.02]  # the markers of an accuracy of 1 are shown whole
    # So that the diagram is square.
    figure.update_xaxes(range=shown, domain=[0.19, 0.81])
    figure.update_yaxes(range=shown, title="accuracy", row=1)
    figure.update_yaxes(title="photos", row=2)
    figure.update_xaxes(title="confidence (probability of the predicted class)", row=2)
    return _legend_below(style(figure, title, subtitle, height=800))


def _add_bins(figure, table, name, marker):
    """Add the bins of a table of `reliability` to its diagram."""
    figure.add_scatter(
        x=table["confidence"],
        y=table["accuracy"],
        error_y={
            "array": table["ci_high"] - table["accuracy"],
            "arrayminus": table["accuracy"] - table["ci_low"],
            "thickness": 1,
        },
        mode="markers",
        marker=marker,
        name=name,
        customdata=table["photos"],
        hovertemplate="confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata} photos",
    )


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
    subtitle : str
    """
    figure = px.line(table, "coverage", "accuracy", render_mode="svg")
    figure.update_traces(
        line_color=TRAINING_COLOR,
        hovertemplate="coverage %{x:.1%}, accuracy %{y:.2%}<extra></extra>",
    )
    accuracy = np.interp(answered, table["coverage"], table["accuracy"])
    text = f"threshold: coverage {answered:.1%},<br>selective accuracy {accuracy:.2%}"
    figure.add_annotation(x=answered, y=accuracy, text=text, ax=-70, ay=60, arrowhead=6)
    figure.update_xaxes(title="coverage", tickformat=".0%")
    figure.update_yaxes(title="selective accuracy", tickformat=".1%")
    # If all are correct, the axis ends at 100%, too.
    low = min(table["accuracy"].min(), 0.98)
    figure.update_yaxes(range=[1.05 * low - 0.05, 1.05 - 0.05 * low])
    return style(figure, title, subtitle)


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
