"""
Drawings: pictures that matplotlib draws, of photos and of the idea.

They return what they draw and write no file. Numbers are drawn in `plots`. A notebook shows
matplotlib's figures whatever MPLBACKEND says.
"""

from collections.abc import Sequence

import numpy as np
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

if shell := get_ipython():
    select_figure_formats(shell, {"png"})

DATA, FROZEN, TRAINS = "#CFE5F3", "#E4E4E4", "#FBD9BC"  # told apart in grey, too
EDGE = "#444444"


def maps(photos: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """
    Return photos with a map over each, and a title.

    The photos are grey, so that all colour is the map's.

    Parameters
    ----------
    photos : sequence of ndarray of uint8, shape (height, width, 3)
    maps : sequence of ndarray, shape (rows, columns)
        What each place adds to a class's score; it is drawn from its lowest, dark, to its
        highest value, bright, and smoothly, as if the photo were as coarse as the map.
    titles : sequence of str
    """
    columns = min(4, max(1, len(photos)))
    rows = max(1, -(-len(photos) // columns))
    width = 8.5 / max(2, min(columns, 3))
    tallest = max((photo.shape[0] / photo.shape[1] for photo in photos), default=1)
    size = width * columns, (width * min(tallest, 1.5) + 0.3) * rows
    figure = Figure(figsize=size)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, photo, values, title in zip(axes.flat, photos, maps, titles, strict=False):
        height, width = photo.shape[:2]
        strength = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        axis.imshow(photo @ [0.299, 0.587, 0.114], cmap="gray", vmin=0, vmax=255)
        over = {"cmap": "inferno", "interpolation": "bicubic", "extent": (0, width, height, 0)}
        axis.imshow(strength, alpha=0.5, vmin=0, vmax=1, **over)
        axis.set_title(title, fontsize=10, parse_math=False)
    figure.tight_layout()
    return figure


def scheme() -> Figure:
    """Return the drawing of the idea: what is frozen, what is data, and what trains."""
    figure = Figure(figsize=(8.5, 4.3))
    axis = figure.subplots()
    axis.set(xlim=(0, 17), ylim=(0, 8.6))
    axis.axis("off")
    boxes = [
        (0.2, 5.2, 2.4, DATA, "photo\n224 x 224 x 3"),
        (3.7, 5.2, 3.9, FROZEN, "trunk: MobileNetV2\n2.3 million weights\nfrozen"),
        (8.7, 5.2, 3.0, DATA, "1280 numbers\ncomputed once,\nkept"),
        *((12.8 + 0.82 * i, 5.2, 0.62, TRAINS, "1280 x n") for i in range(5)),
        (0.2, 1.2, 2.4, DATA, "photo and\nits mirror image"),
        (3.7, 1.2, 2.4, FROZEN, "lower layers\nfrozen"),
        (7.2, 1.2, 3.0, DATA, "what enters the\nfirst layer that\ntrains: kept, too"),
        (11.3, 1.2, 3.2, TRAINS, "upper layers\ntrain a little"),
        (15.6, 1.2, 1.14, TRAINS, "head"),
    ]
    for left, bottom, width, color, words in boxes:
        place = (left, bottom), width, 2.2
        axis.add_patch(FancyBboxPatch(*place, "round,pad=0.08", facecolor=color, edgecolor=EDGE))
        upright = 90 if width < 1 else 0
        middle = left + width / 2, bottom + 1.1
        axis.text(*middle, words, ha="center", va="center", fontsize=9, rotation=upright)
    arrows = [(2.75, 6.3, 3.55), (7.75, 6.3, 8.55), (11.85, 6.3, 12.65)]
    arrows += [(2.75, 2.3, 3.55), (6.25, 2.3, 7.05), (10.35, 2.3, 11.15), (14.65, 2.3, 15.45)]
    for start, height, end in arrows:
        arrow = {"arrowstyle": "-|>", "color": EDGE, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", (end, height), (start, height), arrowprops=arrow)
    heading = {"fontsize": 11, "fontweight": "bold"}
    axis.text(0.12, 7.9, "Many heads train side by side, on numbers computed once", **heading)
    axis.text(0.12, 3.9, "Fine-tuning: the same idea, one storey lower", **heading)
    legend = {"data": DATA, "frozen": FROZEN, "trains": TRAINS}
    for i, (word, color) in enumerate(legend.items()):
        axis.add_patch(Rectangle((0.12 + 2.2 * i, 0.1), 0.5, 0.4, facecolor=color, edgecolor=EDGE))
        axis.text(0.75 + 2.2 * i, 0.3, word, va="center", fontsize=9)
    figure.tight_layout(pad=0.2)
    return figure
