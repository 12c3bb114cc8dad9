"""
Look: what all figures have in common, and the names of classes in them.

Knows nothing of what a figure shows.
"""

import contextlib
import html
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

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
BLUE = "#0072B2"
RED = "#D55E00"
GREY = "#BFBFBF"
LETTERS = 24  # of a class's name that are shown; the mouse shows all

# Of our own: a reader may have changed plotly's templates. (Nor are figures of
# plotly.express, whose defaults may be changed as well.)
TEMPLATE = go.layout.Template()
TEMPLATE.layout.font.family = "Liberation Sans, Arial, sans-serif"
TEMPLATE.layout.font.size = 14
TEMPLATE.layout.title = {"x": 0.02, "y": 1}
TEMPLATE.layout.title.pad.t = 28
TEMPLATE.layout.title.subtitle.font = {"size": 13, "color": "#666666"}
TEMPLATE.layout.margin = {"l": 80, "r": 30, "t": 115, "b": 70}
TEMPLATE.layout.xaxis = {"gridcolor": "#EBF0F8", "zeroline": False, "ticks": ""}
TEMPLATE.layout.xaxis.update(automargin=True, title_standoff=12, ticklabelstandoff=4)
TEMPLATE.layout.yaxis = TEMPLATE.layout.xaxis.to_plotly_json()
TEMPLATE.layout.annotationdefaults.arrowwidth = 1
TEMPLATE.layout.plot_bgcolor = "white"


def style(
    figure: go.Figure, name: str, finding: str = "", *, height: int = 500
) -> go.Figure:
    """
    Return a figure with the look that all have in common, as wide as a notebook's
    column.

    Parameters
    ----------
    figure : Figure
        It is changed.
    name : str
        The subtitle or, without a finding, the title.
    finding : str
    height : int
        In pixels.
    """
    figure.layout.template = TEMPLATE
    figure.layout.title.text = finding or name
    figure.layout.title.subtitle.text = name if finding else ""
    figure.layout.width = 850
    figure.layout.height = height
    return figure


def markers() -> Iterator[tuple[str, str]]:
    """Yield pairs of a colour and a symbol without end; the first 56 all differ."""
    colors = itertools.cycle(PALETTE)
    symbols = itertools.cycle(SYMBOLS)
    return zip(colors, symbols, strict=True)


def read_title(page: Path) -> str | None:
    """
    Return the first line of the title of a figure that is saved as HTML, in Markdown;
    None if the file is no such figure, or has no title.
    """
    # What is no such file fails in many ways.
    failures = AttributeError, LookupError, OSError, TypeError, ValueError
    with contextlib.suppress(*failures):
        text = page.read_text(encoding="utf-8")
        arguments = re.search(r"(?s)Plotly\.newPlot\((.*)\)", text)[1]
        _, _, layout, _ = json.loads(f"[{arguments}]")
        title, _, _ = layout["title"]["text"].partition("<br>")
        title = " ".join(title.split())
        return re.sub(r"([\\`*_~\[\]])", r"\\\1", title)
    return None


def legend_below(figure: go.Figure) -> None:
    """Put the legend of a figure below its axes, where long names have room."""
    legend = {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"}
    figure.layout.legend = legend
    figure.layout.margin.b = 140


def name_axes(figure: go.Figure, x: str, y: str) -> None:
    """Name all horizontal and all vertical axes of a figure."""
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)


def curve(
    x: Sequence[float], y: Sequence[float], color: str, name: str | None = None
) -> go.Scatter:
    """
    Return a line, or a point, since one point makes no line.

    It is drawn as SVG: WebGL does not draw everywhere, and lies above all else.
    """
    mode = "lines" if len(y) > 1 else "markers"
    line = go.Scatter(x=x, y=y, mode=mode, name=name)
    line.line.color = color
    line.marker.color = color
    return line


def error_bars(points: go.Scatter, low: pd.Series, high: pd.Series) -> None:
    """Let the error bar of each point of a curve reach from a low to a high value."""
    points.error_y.array = high - points.y
    points.error_y.arrayminus = points.y - low


def level(figure: go.Figure, y: float, text: str, col: int | str = "all") -> None:
    """Draw a value as a dotted line, with its name, in a column of panels or in all."""
    line = {"color": "#666666", "dash": "dot", "width": 1}
    figure.add_hline(y, line=line, row="all", col=col)
    figure.layout.shapes[-1].label = {"text": text, "textposition": "end"}


def _plain(name):
    """
    Return a name as plotly shows it letter by letter: not as HTML, a formula or a
    template.
    """
    name = html.escape(name, quote=False)
    return name.replace("$", "&#36;").replace("%", "&#37;")


def classes(labels: pd.Series) -> list[str]:
    """
    Return the names of the categories of labels in their order, as plotly shows them as
    they are.
    """
    return [_plain(str(name)) for name in labels.cat.categories]


def short(name: str) -> str:
    """
    Return a name of `classes` that takes no more room than a plot has, its end left
    out.
    """
    name = html.unescape(name)
    if len(name) > LETTERS:
        name = f"{name[: LETTERS - 1]}…"
    return _plain(name)


def class_ticks(names: list[str]) -> dict[str, object]:
    """
    Return how an axis names classes: long names are short there, and whole at the
    mouse.
    """
    texts = [short(name) for name in names]
    return {"type": "category", "tickvals": names, "ticktext": texts}


def epoch_ticks(figure: go.Figure, epochs: Sequence[int]) -> None:
    """Let the ticks of epochs be whole numbers, however few they are."""
    if np.ptp(epochs) < 6:
        figure.update_xaxes(dtick=1)
