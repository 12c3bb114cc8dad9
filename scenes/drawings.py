"""
Drawings: pictures that matplotlib draws, of photos and of the idea.

They return what they draw and write no file. Numbers are drawn in `plots`.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch


def maps(photos: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """
    Return photos with a map over each, and a title.

    Parameters
    ----------
    photos : sequence of ndarray of uint8, shape (height, width, 3)
    maps : sequence of ndarray, shape (rows, columns)
        What each place adds to a class's score; it is drawn from its lowest, transparent, to
        its highest value, and smoothly, as if the photo were as coarse as the map.
    titles : sequence of str
    """
    columns = min(4, max(1, len(photos)))
    rows = max(1, -(-len(photos) // columns))
    size = 850 / 100 / min(columns, 2) * 0.95
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, size * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, photo, values, title in zip(axes.flat, photos, maps, titles, strict=False):
        height, width = photo.shape[:2]
        strength = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        axis.imshow(photo)
        over = {"cmap": "inferno", "interpolation": "bicubic", "extent": (0, width, height, 0)}
        axis.imshow(strength, alpha=0.15 + 0.5 * strength, **over)
        axis.set_title(title, fontsize=10)
    figure.tight_layout()
    plt.close(figure)  # the notebook shows what a cell returns: not twice
    return figure


def scheme() -> Figure:
    """Return the drawing of the idea: what is frozen, what is data, and what trains."""
    figure, axis = plt.subplots(figsize=(8.5, 3.9))
    axis.set(xlim=(0, 17), ylim=(0, 7.8))
    axis.axis("off")
    data, frozen, trains = "#DCEBF5", "#E8E8E8", "#FBE3CF"
    boxes = [
        (0.2, 4.7, 2.2, 2.2, data, "photo\n224 x 224 x 3"),
        (3.6, 4.7, 4.4, 2.2, frozen, "trunk: MobileNetV2\n2.3 million weights, frozen"),
        (9.2, 4.7, 2.9, 2.2, data, "1280 numbers\ncomputed once, kept"),
        *((13.3 + 0.9 * i, 4.7, 0.75, 2.2, trains, "head") for i in range(4)),
        (0.2, 1.0, 2.2, 2.2, data, "photo and\nmirror image"),
        (3.6, 1.0, 2.6, 2.2, frozen, "lower layers\nfrozen"),
        (7.4, 1.0, 2.7, 2.2, data, "14 x 14 x 64\ncomputed once, kept"),
        (11.3, 1.0, 3.5, 2.2, trains, "upper layers\ntrain, with care"),
        (16.0, 1.0, 0.75, 2.2, trains, "head"),
    ]
    for left, bottom, width, height, color, words in boxes:
        box = (left, bottom), width, height
        axis.add_patch(FancyBboxPatch(*box, "round,pad=0.06", facecolor=color, edgecolor="#555555"))
        upright = 90 if width < 1 else 0
        middle = left + width / 2, bottom + height / 2
        axis.text(*middle, words, ha="center", va="center", fontsize=8.5, rotation=upright)
    arrows = [(2.5, 5.8, 3.5), (8.1, 5.8, 9.1), (12.2, 5.8, 13.2)]
    arrows += [(2.5, 2.1, 3.5), (6.3, 2.1, 7.3), (10.2, 2.1, 11.2), (14.9, 2.1, 15.9)]
    for start, height, end in arrows:
        arrow = {"arrowstyle": "-|>", "color": "#555555"}
        axis.annotate("", (end, height), (start, height), arrowprops=arrow)
    title = {"fontsize": 10, "fontweight": "bold"}
    axis.text(0.2, 7.25, "Many heads, side by side, from features (sections 3 to 8)", **title)
    axis.text(0.2, 3.55, "The same idea one storey lower: fine-tuning (sections 9 and 10)", **title)
    axis.text(0.2, 0.3, "blue: data    grey: frozen    orange: trains", fontsize=8.5)
    figure.tight_layout()
    plt.close(figure)
    return figure
