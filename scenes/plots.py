"""
Plots: figures of tables and numbers, shown and saved.

They compute nothing that a table could hold, and need no network to be opened.
"""

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import kaleido
import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from IPython.display import display
from kaleido.errors import ChromeNotFoundError
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix

import scenes
from scenes import files

# Okabe & Ito's colours, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/).
COLORS = dict(
    zip(
        scenes.CLASSES,
        ("#E69F00", "#009E73", "#56B4E9", "#D55E00", "#0072B2", "#CC79A7"),
        strict=True,
    )
)
TRAINING_COLOR, VALIDATION_COLOR = COLORS["sea"], COLORS["mountain"]


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


def _shade(color: str, opacity: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _line_and_band(
    x: Sequence, mean: pd.Series, spread: pd.Series, *, color: str, **line: object
) -> list[go.Scatter]:
    """Return a line and the band of one standard deviation around it."""
    spread = spread.fillna(0)
    band = go.Scatter(
        x=[*x, *reversed(list(x))],
        y=[*(mean + spread), *reversed(list(mean - spread))],
        mode="lines",  # else fewer than 20 points are drawn as points, too
        fill="toself",
        fillcolor=_shade(color, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=line.get("legendgroup"),
    )
    dash = line.pop("dash", "solid")
    return [
        band,
        go.Scatter(x=x, y=mean, mode="lines", line={"color": color, "dash": dash}, **line),
    ]


def plot_counts(images: pd.DataFrame) -> go.Figure:
    """Return bars of the number of labelled photos of each class, stacked by split."""
    counts = images.groupby(["split", "label"], observed=True).size().reset_index(name="photos")
    counts = counts.astype({"split": str, "label": str})  # plotly knows no categories
    figure = px.bar(
        counts,
        x="label",
        y="photos",
        color="split",
        text="photos",
        category_orders={"label": scenes.CLASSES, "split": scenes.SPLITS},
        color_discrete_map={"train": "#0072B2", "validation": "#56B4E9", "test": "#BFBFBF"},
        labels={"label": "class", "photos": "number of photos"},
    )
    figure.update_traces(textangle=0)
    return _style(figure, "The classes are of similar size")


def plot_features(
    features: np.ndarray, labels: Sequence[str], *, sample: int = 1200, seed: int = 0
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
    map_x, map_y = "t-SNE 1 (no unit)", "t-SNE 2 (no unit)"
    table = pd.DataFrame(places.round(2), columns=[map_x, map_y])
    figure = px.scatter(
        table.assign(**{"class": np.asarray(labels, dtype=str)[rows]}),
        x=map_x,
        y=map_y,
        color="class",
        symbol="class",
        category_orders={"class": scenes.CLASSES},
        color_discrete_map=COLORS,
        symbol_sequence=("circle", "square", "diamond", "cross", "x", "triangle-up"),
        render_mode="svg",  # WebGL does not draw everywhere
    )
    figure.update_traces(marker={"size": 6, "opacity": 0.8})
    title = f"The features of {len(rows)} training photos: the classes lie apart before training"
    return _style(figure, title, height=700)


def plot_grid_search(results: pd.DataFrame) -> go.Figure:
    """Return validation accuracy by epoch: a panel per dropout and learning rate."""
    rates, dropouts, decays = (sorted(results[name].unique()) for name in scenes.HYPERPARAMETERS)
    figure = make_subplots(
        len(dropouts),
        len(rates),
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=0.03,
        column_titles=[f"learning rate {rate:g}" for rate in rates],
        row_titles=[f"dropout {dropout:g}" for dropout in dropouts],
        x_title="epoch",
        y_title="validation accuracy",
    )
    palette = ["#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
    dashes = ["solid", "dash", "dot", "dashdot"]
    grouped = results.groupby([*scenes.HYPERPARAMETERS, "epoch"])["val_accuracy"].agg(
        ["mean", "std"]
    )
    for row, dropout in enumerate(dropouts, start=1):
        for column, rate in enumerate(rates, start=1):
            for i, decay in enumerate(decays):
                curve = grouped.loc[(rate, dropout, decay)]
                traces = _line_and_band(
                    curve.index,
                    curve["mean"],
                    curve["std"],
                    color=palette[i % len(palette)],
                    dash=dashes[i % len(dashes)],
                    name=f"{decay:g}",
                    legendgroup=f"{decay:g}",
                    showlegend=row == column == 1,
                )
                figure.add_traces(traces, rows=row, cols=column)
    figure.update_layout(legend={"title": "weight decay", "x": 1.06})
    title = "Grid search: mean validation accuracy over folds, with one standard deviation"
    return _style(figure, title, height=200 + 200 * len(dropouts))


def plot_grid_heatmap(summary: pd.DataFrame) -> go.Figure:
    """Return a heat map of the mean validation accuracy of each setting of `summarize`."""
    accuracy = summary.set_index(scenes.HYPERPARAMETERS)["val_accuracy"].sort_index()
    rates, dropouts, decays = accuracy.index.levels
    figure = px.imshow(
        100 * accuracy.to_numpy().reshape(accuracy.index.levshape),
        facet_col=0,
        x=[f"{decay:g}" for decay in decays],
        y=[f"{dropout:g}" for dropout in dropouts],
        labels={"x": "weight decay", "y": "dropout", "color": "accuracy (%)"},
        text_auto=".2f",
        aspect="auto",
        color_continuous_scale="Viridis",
    )
    figure.for_each_annotation(
        lambda note: note.update(text=f"learning rate {rates[int(note.text.split('=')[1])]:g}")
    )
    figure.update_xaxes(type="category").update_yaxes(type="category")
    return _style(figure, "Grid search: mean validation accuracy of each setting at its best epoch")


def plot_best(summary: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
    """Return a heat map of the highest mean validation accuracy for each pair of values."""
    best = 100 * summary.pivot_table(index=y, columns=x, values="val_accuracy", aggfunc="max")
    figure = px.imshow(
        best.to_numpy(),
        x=[f"{value:g}" for value in best.columns],
        y=[f"{value:g}" for value in best.index],
        labels={"x": x.replace("_", " "), "y": y.replace("_", " "), "color": "accuracy (%)"},
        text_auto=".2f",
        aspect="auto",
        color_continuous_scale="Viridis",
        zmin=np.nanquantile(best, 0.25),  # else the worst leave one colour for all others
        origin="lower",
    )
    figure.update_xaxes(type="category").update_yaxes(type="category")
    return _style(figure, title)


def plot_parallel(summary: pd.DataFrame, title: str) -> go.Figure:
    """Return parallel coordinates: a line for each setting, coloured by its accuracy."""
    dimensions = []
    for name in scenes.HYPERPARAMETERS:  # at equal distances, whatever the values
        values, places = np.unique(summary[name], return_inverse=True)
        ticks = [f"{value:g}" for value in values]
        dimensions.append({"values": places, "tickvals": [*range(len(ticks))], "ticktext": ticks})
    accuracy = 100 * summary["val_accuracy"]
    dimensions += [{"values": summary["epoch"]}, {"values": accuracy, "tickformat": ".2f"}]
    labels = [*scenes.HYPERPARAMETERS, "best epoch", "accuracy (%)"]
    for dimension, label in zip(dimensions, labels, strict=True):
        dimension["label"] = label.replace("_", " ")
    # The worst settings are far below the rest, which would all have one colour.
    line = {"color": accuracy, "colorscale": "Viridis", "cmin": accuracy.quantile(0.25)}
    line |= {"cmax": accuracy.max(), "showscale": True}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line))
    return _style(figure, title, height=600).update_layout(margin={"t": 110})


def plot_history(history: pd.DataFrame, title: str) -> go.Figure:
    """
    Return the curves of loss and accuracy, training and validation.

    Parameters
    ----------
    history : DataFrame
        What `train_head` or `fine_tune` returns; or those of several runs, concatenated:
        the lines are then their means, and bands show one standard deviation.
    title : str
        What the picture shows.
    """
    grouped = history.groupby("epoch")
    mean, spread = grouped.mean(numeric_only=True), grouped.std(numeric_only=True)
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    kinds = {
        "training": ("", TRAINING_COLOR, "dash"),
        "validation": ("val_", VALIDATION_COLOR, "solid"),
    }
    for column, metric in enumerate(("loss", "accuracy"), start=1):
        for name, (prefix, color, dash) in kinds.items():
            if prefix + metric in mean:
                traces = _line_and_band(
                    mean.index,
                    mean[prefix + metric],
                    spread[prefix + metric],
                    color=color,
                    dash=dash,
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                )
                figure.add_traces(traces, rows=1, cols=column)
        figure.update_yaxes(title=metric, col=column)
    return _style(figure.update_xaxes(title="epoch"), title)


def plot_confusion_matrix(
    labels: Sequence[str], predictions: Sequence[str], title: str
) -> go.Figure:
    """Return a heat map of true by predicted class, with counts and row percentages."""
    counts = confusion_matrix(labels, predictions, labels=scenes.CLASSES)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    text = [
        [f"{n}<br>{s:.1f}%" for n, s in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    figure = px.imshow(
        shares,
        x=scenes.CLASSES,
        y=scenes.CLASSES,
        labels={"x": "predicted class", "y": "true class", "color": "% of the<br>true class"},
        color_continuous_scale="Blues",
        zmin=0,
        zmax=100,
    )
    figure.update_traces(text=text, texttemplate="%{text}")
    return _style(figure, title, height=700)


def plot_calibration(tables: dict[str, pd.DataFrame], title: str) -> go.Figure:
    """Return the reliability diagram of tables of `calibration`, named in the legend."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": "#999999", "dash": "dot"},
        name="as often right as sure",
    )
    symbols = ("circle", "square", "diamond", "cross", "x", "triangle-up")
    styles = zip(COLORS.values(), symbols, strict=True)
    for (name, table), (color, symbol) in zip(tables.items(), itertools.cycle(styles)):
        figure.add_scatter(
            x=table["confidence"],
            y=table["accuracy"],
            customdata=table["photos"],
            mode="lines+markers",
            line={"color": color},
            marker={"symbol": symbol, "size": 9},
            name=name,
            hovertemplate="confidence %{x:.3f}, accuracy %{y:.3f}, %{customdata} photos",
        )
    figure.update_xaxes(title="confidence: probability of the predicted class")
    figure.update_yaxes(title="accuracy: share of the photos that it is right on")
    # Where no point lies, unless a classifier is often sure and seldom right.
    corner = {"x": 0.98, "y": 0.02, "xanchor": "right", "yanchor": "bottom"}
    return _style(figure, title, height=600).update_layout(legend=corner)


def save_figure(figure: go.Figure, name: str, folder: str | Path = "plotly_plots") -> None:
    """
    Write a figure as `name.html` and `name.png`, and show it.

    The HTML files of a folder share one `plotly.min.js` and need no network. The PNG needs
    Chrome or Chromium and is left out with a word where there is none. What is shown holds
    both forms: pages that run no scripts show the PNG.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "plotly.min.js"
    if not script.exists():
        with files.replacing(script) as beside:
            beside.write_text(get_plotlyjs(), encoding="utf-8")
    with files.replacing(folder / f"{name}.html") as beside:
        page = figure.to_html(include_plotlyjs="directory", div_id=name)
        beside.write_text(page, encoding="utf-8")
    shown = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    png = _png(figure)
    if png:
        with files.replacing(folder / f"{name}.png") as beside:
            beside.write_bytes(png)
        shown["image/png"] = png
    display(shown, raw=True)


@functools.cache
def start_chrome() -> bool:
    """Start the headless Chrome that draws PNGs, once, or say how to get one."""
    page = {"mathjax": False}  # else the page asks the network for a script
    try:
        kaleido.calc_fig_sync({"data": []}, kopts=page)  # the server does not report failures
    except ChromeNotFoundError:
        print("No PNGs: there is no Chrome. Install Chrome or Chromium, or run plotly_get_chrome.")
        return False
    kaleido.start_sync_server(silence_warnings=True, **page)
    return True


def _png(figure: go.Figure) -> bytes | None:
    if not start_chrome():
        return None
    # Not larger than the figure: JupyterLab shows it pixel by pixel until the mouse is over it.
    size = {"width": figure.layout.width, "height": figure.layout.height}
    return kaleido.calc_fig_sync(figure.to_dict(), opts={"format": "png", **size})
