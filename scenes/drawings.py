"""
Drawings: class activation maps over photos, by matplotlib.

They return what they draw and write no file. Numbers are drawn in `plots`. A notebook shows
matplotlib's figures whatever MPLBACKEND says.
"""

from collections.abc import Sequence

import numpy as np
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure

if shell := get_ipython():
    select_figure_formats(shell, {"png"})


def maps(photos: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """
    Return photos with a map over each, and a title.

    The photos are grey, so that all colour is the map's.

    Parameters
    ----------
    photos : sequence of ndarray of uint8, shape (height, width, 3)
    maps : sequence of ndarray, shape (rows, columns)
        The contribution of each location to the score of a class. Each map has a colour scale
        of its own, from its lowest value (dark) to its highest (bright), and is interpolated.
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
