"""
Plots: figures of tables and numbers, shown and saved.

The title of a figure is its finding, computed from what is drawn, and the subtitle its
name; where nothing stands out, the title is the name. Classes come from the labels.
Saved figures need no network. Knows nothing of photos and networks.

Everywhere, `labels` is a categorical Series of shape (n,), whose categories are the
classes in their order; accuracies, confidences and coverages are between 0 and 1; they
are drawn in percent. A `name` is text, in which plotly reads HTML.
"""

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
from sklearn.neighbors import NearestNeighbors

import scenes
from scenes import calibration, chrome, files, look

SPLIT_COLORS = {"train": look.BLUE, "validation": "#56B4E9", "test": look.GREY}
MANY_CLASSES = 20  # more have no room in a legend or beside an axis
NUMBERED_CLASSES = 12  # more have no room for numbers in the confusion matrix
NAMED_SETTINGS = 40  # more have no room beside an axis
NEIGHBOURS = 5  # that are looked at in a t-SNE map


# --- The photos and their features ----------------------------------------------------


def counts(images: pd.DataFrame) -> go.Figure:
    """
    Return bars of the number of labelled photos of each class, stacked by split.

    Many classes are sorted by their number, and named by the mouse alone.

    Parameters
    ----------
    images : DataFrame
        `split` and `label` of the photos.
    """
    labels = images["label"]
    classes = look.classes(labels)
    figure = go.Figure()
    for split, color in SPLIT_COLORS.items():
        photos = labels[images["split"] == split].value_counts(sort=False)
        figure.add_bar(x=classes, y=photos, name=split, marker_color=color)
    figure.update_traces(hovertemplate="%{x}: %{y:,} photos")
    figure.layout.barmode = "stack"
    figure.layout.legend.update(title="split", traceorder="normal")
    look.name_axes(figure, "class", "photos")
    figure.update_yaxes(tickformat=",")
    if len(classes) > MANY_CLASSES:
        figure.update_xaxes(title=f"{len(classes)} classes (the mouse names them)")
        figure.update_xaxes(categoryorder="total descending", showticklabels=False)
    else:
        # A number above a bar would look like the sum of all below it.
        figure.update_traces(texttemplate="%{y:,}", textposition="inside", textangle=0)
        figure.layout.uniformtext = {"minsize": 9, "mode": "hide"}
        figure.update_xaxes(look.class_ticks(classes))
    totals = labels.value_counts(sort=False).set_axis(classes)
    few, many = totals.agg(["min", "max"])
    if many <= 1.5 * few:
        finding = f"The classes are nearly balanced: {few:,} to {many:,} photos"
    else:
        rarest = look.short(totals.idxmin())
        largest = look.short(totals.idxmax())
        finding = f"{largest} has {many:,} photos, {rarest} {few:,}"
    return look.style(figure, "Photos by class and split", finding)


def feature_map(
    features: np.ndarray,
    labels: pd.Series,
    misclassified: Sequence[bool],
    *,
    sample: int = 1200,
    seed: int = 0,
) -> go.Figure:
    """
    Return a map of a sample of the features, coloured by class.

    t-SNE (van der Maaten & Hinton, 2008) puts photos with similar features near each
    other; the axes have no unit. Of many classes, those are in colour that mix most in
    the map.

    Parameters
    ----------
    features : ndarray, shape (n, n_features)
    labels : Series of categories, shape (n,)
    misclassified : sequence of bool, shape (n,)
        Which photos get a ring.
    sample : int
        The number of photos that are drawn.
    seed : int
        Of the sample and the map.
    """
    rows = np.random.default_rng(seed).permutation(len(features))[:sample]
    places = _tsne(features[rows], seed).round(2)
    codes = labels.cat.codes.to_numpy()[rows]
    classes = look.classes(labels)
    beside = _neighbours(places, codes, len(classes))
    shown = range(len(classes))
    figure = go.Figure()
    if len(classes) > MANY_CLASSES:
        foreign = beside.sum(axis=0) - beside.diagonal()
        most_mixed = np.argsort(-foreign)[: len(look.PALETTE)]
        shown = np.sort(most_mixed)
        others = ~np.isin(codes, shown)
        cloud = _cloud(places[others], look.GREY, "other classes")
        cloud.text = np.array(classes)[codes[others]]
        cloud.hovertemplate = "%{text}<extra></extra>"
        figure.add_trace(cloud)
    for code, (color, symbol) in zip(shown, look.markers(), strict=False):
        cloud = _cloud(places[codes == code], color, classes[code])
        cloud.marker.symbol = symbol
        figure.add_trace(cloud)
    is_wrong = np.asarray(misclassified)[rows]
    rings = _cloud(places[is_wrong], "black", "misclassified")
    rings.marker.update(symbol="circle-open", size=10)
    rings.hoverinfo = "skip"
    figure.add_trace(rings)
    look.name_axes(figure, "t-SNE 1", "t-SNE 2")
    figure.update_layout(xaxis_showticklabels=False, yaxis_showticklabels=False)
    figure.layout.legend.title.text = "class"
    photos = f"{len(rows):,} of {len(features):,} photos"
    name = f"t-SNE map of {photos}: only who is near whom means something"
    pair, mixed = _most_confused(beside, classes)
    finding = f"{pair} mix most" if mixed else ""
    return look.style(figure, name, finding, height=700)


def _cloud(places, color, name):
    """Return the photos of a class in the map."""
    cloud = look.curve(*places.T, color, look.short(name))
    cloud.mode = "markers"
    cloud.marker.update(size=6, opacity=0.8)
    cloud.hovertemplate = f"{name}<extra></extra>"
    return cloud


def _tsne(features, seed):
    """Return the two coordinates of each row in a t-SNE map."""
    # PCA finds no axis where all features are alike, as the zeros of random weights
    # are, and scikit-learn then crashes.
    init = "pca" if np.ptp(features, axis=0).any() else "random"
    perplexity = min(30, (len(features) - 1) / 3)
    tsne = TSNE(init=init, perplexity=perplexity, random_state=seed)
    return tsne.fit_transform(features)


def _neighbours(places, codes, n_classes):
    """
    Return how often a photo of a class (row) has one of another (column) beside it in
    the map.
    """
    number = min(NEIGHBOURS, len(places) - 1)
    tree = NearestNeighbors(n_neighbors=number).fit(places)
    neighbours = tree.kneighbors(return_distance=False)
    beside = codes[neighbours].ravel()
    return confusion_matrix(codes.repeat(number), beside, labels=range(n_classes))


def _most_confused(counts, classes):
    """
    Return the two classes that are confused most, in whichever direction, as 'a and b',
    and how often.

    `counts`, shape (n_classes, n_classes), are those of true by predicted class.
    """
    both = np.triu(counts + counts.T, k=1)
    pair = np.unravel_index(both.argmax(), both.shape)
    first, second = (look.short(classes[code]) for code in pair)
    return f"{first} and {second}", both.max()


# --- The grid search ------------------------------------------------------------------


def grid_search(ranked: pd.DataFrame, *, metric: str = "accuracy") -> go.Figure:
    """
    Return mean validation accuracy over folds by epoch: a panel for each learning rate.

    The setting with the highest accuracy is in colour. The axis begins where most
    curves are in the later half of the epochs.

    Parameters
    ----------
    ranked : DataFrame
        That of `evaluation.rank_epochs`: a row for each setting and epoch, the best
        first.
    metric : str
        What the accuracies are called.
    """
    names = scenes.HYPERPARAMETERS
    curves = ranked.pivot(index=names, columns="epoch", values="val_accuracy")
    curves = 100 * curves.astype("float32")  # half the size in the notebook
    epochs = list(curves.columns)
    rates = list(curves.index.levels[0])
    figure, cells = _panels(rates, f"validation {metric} (%)")
    # A missing value ends each line: one trace for a panel is smaller than one for each
    # line.
    ended = curves.reindex(columns=[*epochs, epochs[-1] + 1])
    for rate, cell in cells.items():
        lines = ended.loc[rate]
        x = np.tile(lines.columns, len(lines))
        trace = look.curve(x, np.ravel(lines), look.GREY)
        figure.add_trace(trace, *cell)
    best = ranked.iloc[0]
    setting = tuple(best[names])
    rate, dropout, decay = setting
    name = f"learning rate {rate:g}, dropout {dropout:g}, weight decay {decay:g}"
    epoch = int(best["epoch"])
    top = 100 * best["val_accuracy"]
    curve = look.curve(epochs, curves.loc[setting], look.RED, f"best setting: {name}")
    point = look.curve([epoch], [top], look.RED, f"its best epoch: {epoch}")
    mode = curve.mode  # one epoch makes no line
    figure.update_traces(mode=mode, line_width=1, hoverinfo="skip", showlegend=False)
    figure.data[0].update(name="each setting", showlegend=True)
    for trace in (curve, point):
        trace.marker.size = 9
        trace.hovertemplate = "epoch %{x}: %{y:.2f}%<extra></extra>"
        figure.add_trace(trace, *cells[rate])
    later = curves[epochs[len(epochs) // 2 :]]
    low = later.stack().quantile(0.05)
    margin = 0.05 * (top - low) + 0.1
    bottom = low - margin
    figure.update_yaxes(range=[bottom, top + margin])
    room = 0.5 + 0.02 * np.ptp(epochs)
    figure.update_xaxes(range=[epochs[0] - room, epochs[-1] + room])
    look.epoch_ticks(figure, epochs)
    look.legend_below(figure)
    name = f"Grid search: {len(curves)} settings, mean over folds"
    if (curves < bottom).any(axis=None):
        name = f"{name}; what is below {bottom:.1f}% is cut off"
    finding = f"Highest {metric}: {top:.2f}%, with learning rate {rate:g}"
    others = curves.drop(rate).max(axis=1)
    if len(others):
        other, *_ = others.idxmax()
        finding = f"{finding} ({other:g}: {others.max():.2f}%)"
    rows, _ = max(cells.values())
    return look.style(figure, name, finding, height=320 + 240 * rows)


def _panels(rates, y):
    """
    Return a figure with a panel for each learning rate, at most four a row, and the row
    and column of each.
    """
    rows = -(-len(rates) // 4)
    columns = -(-len(rates) // rows)
    titles = [f"learning rate {rate:g}" for rate in rates]
    figure = make_subplots(
        rows,
        columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=titles,
        horizontal_spacing=0.02,
        vertical_spacing=0.2 / rows,
        x_title="epoch",
        y_title=y,
    )
    cells = [(row + 1, column + 1) for row, column in np.ndindex(rows, columns)]
    return figure, dict(zip(rates, cells, strict=False))


def gaps(
    summary: pd.DataFrame, shares: pd.Series, *, metric: str = "accuracy"
) -> go.Figure:
    """
    Return a dot for each setting: by how much its accuracy is lower than the best.

    Settings that are not measurably worse, since the interval of their gap holds 0,
    come first, on a shaded ground.

    Parameters
    ----------
    summary : DataFrame
        That of `evaluation.summarize`.
    shares : Series
        That of `evaluation.variation_shares`.
    metric : str
        What the accuracies are called.
    """
    table = summary.assign(worse=summary["gap"] > summary["gap_margin"])
    table = table.sort_values(["worse", "gap"], ignore_index=True)
    describe = "dropout {:g}, weight decay {:g}".format
    table["setting"] = list(map(describe, table["dropout"], table["weight_decay"]))
    figure = go.Figure()
    by_rate = zip(table.groupby("learning_rate"), look.markers(), strict=False)
    for (rate, part), (color, symbol) in by_rate:
        points = look.curve(100 * part["gap"], part.index, color, f"{rate:g}")
        points.mode = "markers"
        points.marker.symbol = symbol
        points.error_x.array = 100 * part["gap_margin"]
        points.error_x.update(thickness=1, width=0)
        points.text = part["setting"]
        points.hovertemplate = "%{text}: %{x:.2f} points"
        figure.add_trace(points)
    figure.layout.legend.title.text = "learning rate"
    look.name_axes(figure, f"gap in validation {metric} (points)", None)
    figure.update_yaxes(autorange="reversed", showgrid=False, showticklabels=False)
    if len(table) <= NAMED_SETTINGS:
        ticks = {"tickvals": table.index, "ticktext": table["setting"]}
        figure.update_yaxes(ticks, showticklabels=True, tickfont_size=11)
    ties = (~table["worse"]).sum()  # with the best
    figure.add_hrect(-0.5, ties - 0.5, line_width=0, layer="below")
    text = "not measurably worse than the best"
    label = {"text": text, "textposition": "top right"}
    figure.update_shapes(fillcolor="#EBF0F8", label=label)
    n_others = len(table) - 1
    finding = f"{ties - 1} of {n_others} others are {text}" if n_others else ""
    shares = shares.rename(lambda key: key.replace("_", " "))
    if shares.max() > 0.5:
        finding = f"{shares.idxmax().capitalize()} matters most; {finding}"
    name = f"Gap of each setting to the best of {len(table)}, with the 95% interval"
    name = f"{name} of the difference"
    if len(shares):
        parts = [f"{key} {share:.0%}" for key, share in shares.items()]
        name = f"{name}<br>Shares of the variation: {', '.join(parts)}"
    return look.style(figure, name, finding, height=800)


# --- Trainings and their models -------------------------------------------------------


def history(
    history: pd.DataFrame,
    name: str,
    *,
    metric: str = "accuracy",
    head_accuracy: float | None = None,
    loss_floor: float | None = None,
) -> go.Figure:
    """
    Return the curves of loss and accuracy, training and validation, of one training.

    Parameters
    ----------
    history : DataFrame
        A row for each `epoch`: `loss`, `accuracy`, `val_loss` and `val_accuracy`.
    name : str
    metric : str
        What the accuracies are called.
    head_accuracy : float, optional
        The validation accuracy of the head alone, drawn as a line.
    loss_floor : float, optional
        The lowest loss that label smoothing allows, drawn as a line.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    epochs = history["epoch"]
    scales = {"loss": 1, "accuracy": 100}
    for column, (key, scale) in enumerate(scales.items(), start=1):
        values = scale * history[key]
        training = look.curve(epochs, values, look.BLUE, "training")
        training.line.dash = "dash"
        values = scale * history[f"val_{key}"]
        validation = look.curve(epochs, values, look.RED, "validation")
        figure.add_traces([training, validation], 1, column)
    figure.update_traces(showlegend=False, col=2)
    look.name_axes(figure, "epoch", "loss")
    figure.update_yaxes(title=f"{metric} (%)", col=2)
    look.epoch_ticks(figure, epochs)
    look.legend_below(figure)
    accuracies = history.set_index("epoch")["val_accuracy"]
    last = accuracies.iloc[-1]
    best = accuracies.max()
    finding = f"Validation {metric} after epoch {epochs.iloc[-1]}: {last:.1%}"
    if loss_floor:
        look.level(figure, loss_floor, "lowest possible", col=1)
    if head_accuracy:
        look.level(figure, 100 * head_accuracy, "head alone", col=2)
        gain = 100 * (last - head_accuracy)
        finding = f"{finding}, {gain:+.1f} points against the head alone"
    elif best > last:
        finding = f"{finding} (highest: {best:.1%} after epoch {accuracies.idxmax()})"
    return look.style(figure, name, finding)


def learning_curve(table: pd.DataFrame, *, metric: str = "accuracy") -> go.Figure:
    """
    Return validation accuracy by number of training photos: mean and range over seeds.

    Parameters
    ----------
    table : DataFrame
        A row for each training: its number of training `photos`, `seed` and
        `val_accuracy`. A number with one training is a dot without a range.
    metric : str
        What the accuracies are called.
    """
    accuracies = 100 * table.set_index("photos")["val_accuracy"]
    ends = accuracies.groupby("photos").agg(["count", "min", "mean", "max"])
    means = ends["mean"]
    ranges = ends.where(ends["count"] > 1)
    curve = look.curve(ends.index, means, look.RED)
    curve.mode = "lines+markers"
    look.error_bars(curve, ranges["min"], ranges["max"])
    curve.hovertemplate = "%{x:,} photos: %{y:.1f}%<extra></extra>"
    figure = go.Figure(curve)
    look.name_axes(figure, "training photos (log scale)", f"validation {metric} (%)")
    figure.update_xaxes(type="log", tickvals=ends.index, tickformat=",d")
    finding = ""
    if len(ends) > 1:
        before, after = ends.index[-2:]
        gain = means[after] - means[before]
        finding = f"From {before:,} to {after:,} photos: {gain:+.1f} points"
    return look.style(figure, "Learning curve: mean and range over seeds", finding)


def confusion(
    labels: pd.Series, predictions: Sequence[str], name: str = "Confusion matrix"
) -> go.Figure:
    """
    Return true by predicted class, the errors in colour, with counts and row
    percentages.

    The diagonal holds the recall; shares below 0.5% are left to the mouse, as are the
    names of many classes.

    Parameters
    ----------
    labels : Series of categories, shape (n,)
    predictions : sequence of str, shape (n,)
        The predicted class of each image.
    name : str
    """
    names = labels.cat.categories
    classes = look.classes(labels)
    counts = confusion_matrix(labels.astype(str), predictions, labels=names)
    supports = counts.sum(axis=1, keepdims=True).clip(1)  # a class may have no photo
    shares = 100 * counts / supports
    errors = counts - np.diag(counts.diagonal())
    texts = np.vectorize("{}<br>{:.1f}%".format)(counts, shares)
    shown = 100 * errors / supports
    heat = go.Heatmap(x=classes, y=classes, z=shown, zmin=0, customdata=texts)
    pointed = "predicted class: %{x}<br>true class: %{y}<br>%{customdata}"
    heat.hovertemplate = f"{pointed}<extra></extra>"
    heat.colorscale = [[0, "white"], [1, look.RED]]
    heat.colorbar.title.text = "% of the<br>true class"
    if len(classes) <= NUMBERED_CLASSES:
        heat.text = np.where(shares < 0.5, "", texts)
        heat.texttemplate = "%{text}"
        heat.showscale = False
    else:
        heat.colorbar.title.side = "right"  # above, it may touch a number
    figure = go.Figure(heat)
    look.name_axes(figure, "predicted class", "true class")
    axis = look.class_ticks(classes)
    axis.update(constrain="domain", showgrid=False)
    if len(classes) > MANY_CLASSES:
        axis.update(showticklabels=False)
    figure.update_xaxes(axis)
    figure.update_yaxes(axis, autorange="reversed", scaleanchor="x")
    finding = "No error"
    if errors.any():
        pair, both = _most_confused(errors, classes)
        finding = f"{both:,} of {errors.sum():,} errors are between {pair}"
    return look.style(figure, name, finding, height=700)


def reliability(
    probabilities: dict[str, np.ndarray],
    y: np.ndarray,
    name: str = "Reliability diagram",
) -> go.Figure:
    """
    Return a reliability diagram above a histogram of confidence, side by side for each
    kind of probabilities, as before and after temperature scaling.

    The bins are those of `calibration.reliability`, the error bars their intervals.

    Parameters
    ----------
    probabilities : dict of str to ndarray, shape (n, n_classes)
        By the names of their panels.
    y : ndarray of int, shape (n,)
        The column of each photo's label.
    name : str
    """
    tables = {key: calibration.reliability(p, y) for key, p in probabilities.items()}
    confidences = {key: p.max(axis=1) for key, p in probabilities.items()}
    measure = calibration.expected_calibration_error
    errors = [100 * measure(table) for table in tables.values()]
    panels = zip(tables, errors, strict=True)
    titles = [f"{key}: ECE {error:.1f}%" for key, error in panels]
    figure = make_subplots(
        2,
        len(tables),
        shared_xaxes=True,
        shared_yaxes=True,
        row_heights=[0.8, 0.2],
        vertical_spacing=0.04,
        horizontal_spacing=0.06,
        subplot_titles=titles,
    )
    lows = [table["ci_low"].min() for table in tables.values()]
    lows += [np.min(values) for values in confidences.values()]
    start = 10 * np.floor(10 * min(lows))
    ends = [start, 100]
    most = 0
    for column, (key, table) in enumerate(tables.items(), start=1):
        diagonal = look.curve(ends, ends, "#999999")
        diagonal.line.dash = "dot"
        points = _bins(table)
        figure.add_traces([diagonal, points], 1, column)
        percents = 100 * confidences[key]
        # Rounding may have put a confidence beyond the ends; each photo is counted.
        inside = np.clip(percents, start, 100)
        photos, edges = np.histogram(inside, bins=40, range=ends)
        most = max(most, photos.max())
        steps = look.curve(edges, [*photos, 0], look.BLUE)
        steps.line.shape = "hv"
        steps.update(fill="tozeroy", hoverinfo="skip")
        figure.add_trace(steps, 2, column)
    shown = [start, 102]  # the markers of an accuracy of 100% are shown whole
    figure.update_xaxes(range=shown)
    figure.update_xaxes(title="confidence (%)", row=2)
    figure.update_yaxes(range=shown, row=1)
    figure.update_yaxes(title="accuracy (%)", row=1, col=1)
    figure.update_yaxes(title="photos", row=2, col=1)
    # Axes that are shared begin and end too early by themselves.
    figure.update_yaxes(range=[0, 1.05 * most], row=2)
    figure.layout.showlegend = False
    finding = ""
    before, after = errors[0], errors[-1]
    if after < before:
        change = f"from {before:.1f}% to {after:.1f}%"
        finding = f"Temperature scaling lowers the calibration error {change}"
    return look.style(figure, name, finding, height=600)


def _bins(table):
    """
    Return the points of a table of `reliability`, in percent, with their intervals.
    """
    percents = 100 * table
    points = look.curve(percents["confidence"], percents["accuracy"], look.BLUE)
    points.mode = "markers"
    look.error_bars(points, percents["ci_low"], percents["ci_high"])
    points.error_y.thickness = 1
    points.customdata = table["photos"]
    pointed = "confidence %{x:.1f}%, accuracy %{y:.1f}%, %{customdata} photos"
    points.hovertemplate = f"{pointed}<extra></extra>"
    return points


def coverage(
    table: pd.DataFrame,
    answered: float,
    *,
    target: float = calibration.TARGET,
    name: str = "Accuracy-coverage curve",
) -> go.Figure:
    """
    Return the accuracy-coverage curve with its 95% interval.

    It begins where it rests on more than single photos.

    Parameters
    ----------
    table : DataFrame
        That of `calibration.coverage_curve`.
    answered : float
        The coverage at the abstention threshold, which is marked.
    target : float
        The selective accuracy that the threshold was chosen for.
    name : str
    """
    n = len(table)
    first = min(n, max(20, n // 10)) - 1
    rows = np.linspace(first, n - 1, 400, dtype=int)  # more make no other picture
    drawn = 100 * table.iloc[np.unique(rows)]
    x = drawn["coverage"]
    line = look.curve(x, drawn["accuracy"], look.BLUE)
    line.hovertemplate = "coverage %{x:.1f}%: %{y:.1f}% correct<extra></extra>"
    there_and_back = pd.concat([x, x[::-1]])
    edge = pd.concat([drawn["ci_low"], drawn["ci_high"][::-1]])
    band = go.Scatter(x=there_and_back, y=edge, mode="lines", fill="toself")
    band.update(line_width=0, fillcolor="rgba(0, 114, 178, 0.15)", hoverinfo="skip")
    figure = go.Figure([band, line])
    figure.layout.showlegend = False
    look.level(figure, 100 * target, f"target: {target:.0%}")
    finding = "The model always abstains"
    if answered:
        y = 100 * np.interp(answered, table["coverage"], table["accuracy"])
        text = f"threshold: coverage {answered:.1%},<br>selective accuracy {y:.1f}%"
        mark = {"x": 100 * answered, "y": y, "ax": -70, "ay": 60, "arrowhead": 6}
        figure.add_annotation(mark, text=text)
        finding = f"The model answers {answered:.1%} of the photos, {y:.1f}% of them"
        finding = f"{finding} correctly (target: {target:.0%})"
    look.name_axes(figure, "coverage (%)", "selective accuracy (%)")
    return look.style(figure, f"{name} with 95% intervals", finding)


# --- Shown and saved ------------------------------------------------------------------


# For each reason that there is no PNG, the first figure without one.
_first = {}
# So begins each README.md that `write_contents` has written.
CONTENTS = "# The plots and what they show\n\nWritten by the code that draws the plots"


def show(figure: go.Figure, name: str, folder: str | Path) -> None:
    """
    Show a figure, and write it as `name.html` and `name.png` into a folder.

    The HTML files of a folder share one `plotly.min.js` and need no network. The PNG
    needs Chrome or Chromium; without it, an older PNG is removed, and the first plot
    prints the reason, also when its cell runs again. What is shown holds the figure
    and, for pages made of the notebook, the PNG at half its resolution or, if there is
    none, an HTML form, which can be moved and opened without network: that of the first
    plot holds plotly's script, 5 MB, for the whole page. The others name the script's
    address, too, for Colab, where each output is a page. The folder's README.md shows
    all plots, see `write_contents`.
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
    write_contents(folder)
    if get_ipython():  # else it would be printed, letter by letter
        display(shown, raw=True)


def _write(path, content):
    """Replace a file, unless it holds this content already."""
    if not path.exists() or path.read_bytes() != content:
        with files.replacing(path) as beside:
            beside.write_bytes(content)


def write_contents(folder: Path) -> None:
    """
    Return nothing; write the README.md of a folder: each plot under its title.

    Titles are read from the saved figures, whichever run has drawn them. A README.md
    that was not written here stays as it is.
    """
    parts = [f"{CONTENTS}. The titles lead to the interactive plots.\n"]
    for page in sorted(folder.glob("*.html")):
        if title := look.read_title(page):
            parts.append(f"## [{title}]({page.name})\n")
            if page.with_suffix(".png").exists():
                parts.append(f"![{page.stem}]({page.stem}.png)\n")
    path = folder / "README.md"
    if not path.exists() or files.begins_with(path, CONTENTS.encode()):
        _write(path, "\n".join(parts).encode())
