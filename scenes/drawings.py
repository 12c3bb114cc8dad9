"""
Drawings: photos under titles, and class activation maps over photos, by matplotlib.

They return what they draw and write no file. A reader's matplotlibrc and `rcParams` do
not change them. Numbers are drawn in `plots`. A notebook shows matplotlib's figures
whatever MPLBACKEND says.
"""

import functools
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from matplotlib import font_manager, style
from matplotlib.figure import Figure

shell = get_ipython()
if shell:
    select_figure_formats(shell, {"png"})

_FONT = "DejaVu Sans"  # it comes with matplotlib
_HINT = "Titles have characters that no installed font has; install the Noto fonts."
_LETTERS = 12  # that an inch of a title holds
_say_once = functools.cache(print)


@style.context("default")
def grid(
    photos: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    columns: int,
    width: float = 2.2,
) -> Figure:
    """
    Return photos, each under its title, in rows of so many columns.

    Parameters
    ----------
    photos : sequence of ndarray, shape (height, width) or (height, width, 3)
        0 to 255, grey or RGB.
    titles : sequence of str
        Text, not formulas between dollar signs. Long lines are broken. Characters that
        no installed font has are drawn as their codes, and a line says so, once.
    columns : int
    width : float
        Of a column, in inches.
    """
    titles, families = _drawable(titles)
    titles = [_broken(title, int(_LETTERS * width)) for title in titles]
    rows = math.ceil(len(photos) / columns)
    lines = max(title.count("\n") + 1 for title in titles)
    height = width + 0.2 * lines
    size = width * columns, height * rows
    figure = Figure(figsize=size, layout="tight")
    titled = zip(photos, titles, strict=True)
    for number, (photo, title) in enumerate(titled, start=1):
        axis = figure.add_subplot(rows, columns, number)
        axis.axis("off")
        axis.imshow(photo, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=9, family=families, parse_math=False)
    figure.draw_without_rendering()  # so that the layout knows the height of the titles
    return figure


def _broken(title, letters):
    """Return a title with no line of more than so many letters."""
    lines = [textwrap.fill(line, letters) for line in title.split("\n")]
    return "\n".join(lines)


def _drawable(titles):
    """
    Return titles without characters that no font has, and the font families of theirs.
    """
    text = "".join(titles)
    missing = set(map(ord, text)) - {ord("\n")}
    first_font = font_manager.findfont(_FONT)
    missing -= _characters(first_font)
    families = [_FONT]
    for font in font_manager.fontManager.ttflist:
        if not missing:
            break
        if font.style != "normal" or font.weight != 400:
            continue  # matplotlib warns if a family has no such style
        found = missing & _characters(font.fname)
        if found:
            families.append(font.name)
            missing -= found
    if missing:
        _say_once(_HINT)
    codes = {number: f"\\u{number:04x}" for number in missing}
    return [title.translate(codes) for title in titles], families


@functools.cache
def _characters(file):
    """Return the code points that a font's file has."""
    try:
        font = font_manager.get_font(file)
    except OSError:  # it is there no more: matplotlib keeps a list
        return set()
    if "Last" in font.family_name:  # the "last resort" has a box for each
        return set()
    return set(font.get_charmap())


@style.context("default")
def maps(
    photos: Sequence[np.ndarray], maps: Sequence[np.ndarray], titles: Sequence[str]
) -> Figure:
    """
    Return photos with a map over each, and a title.

    The photos are grey, so that all colour is the map's.

    Parameters
    ----------
    photos : sequence of ndarray of uint8, shape (height, width, 3)
        RGB.
    maps : sequence of ndarray, shape (rows, columns)
        The contribution of each location to the score of a class. Each map has a colour
        scale of its own, from its lowest value (dark) to its highest (bright), and is
        interpolated.
    titles : sequence of str
    """
    grey = [photo @ [0.299, 0.587, 0.114] for photo in photos]
    columns = min(4, len(photos))
    figure = grid(grey, titles, columns=columns, width=8.5 / columns)
    for axis, values in zip(figure.axes, maps, strict=True):
        axis.imshow(
            values,
            cmap="inferno",
            alpha=0.5,
            interpolation="bicubic",
            extent=axis.images[0].get_extent(),
        )
    return figure
