"""
Chrome: a plotly figure as a PNG, if a Chrome or Chromium works.

One that is missing, slow, broken or hangs costs the pictures and never the run. Knows
nothing of what a figure shows.
"""

import asyncio
import atexit
import contextlib
import io
import logging
import os
import signal
import threading

import kaleido
import plotly.graph_objects as go
from kaleido.errors import ChromeNotFoundError
from PIL import Image

# Seconds that a plot waits for Chrome's start, which took 65 on a busy machine.
START_PATIENCE = 180
PATIENCE = 60  # seconds in which Chrome must draw a picture
ADVICE = "start it by hand to see why, or name another one in BROWSER_PATH"

# It warns when Chrome is gone at the end of the process.
logging.getLogger("choreographer").setLevel(logging.ERROR)


class _Chrome:
    """
    A headless Chrome that draws PNGs, in a thread of its own, until it fails once.

    kaleido's own server waits for ever for a Chrome that hangs or has died.
    """

    def __init__(self):
        self._loop = self._kaleido = self._started = self._failed = None
        self._is_late = False

    def draw(self, figure: go.Figure) -> tuple[bytes | None, str | None]:
        """
        Return a figure as PNG and None, or None and the reason that there is no PNG.

        The PNG has twice the figure's width and height in pixels.
        """
        if self._failed:
            return None, self._failed
        if not self._loop:
            self._launch()
        # Sharp on a screen of twice the density.
        options = {"format": "png", "scale": 2}
        try:
            self._started.result(START_PATIENCE)
            drawing = self._kaleido.calc_fig(figure.to_dict(), opts=options)
            return self._run(drawing).result(PATIENCE), None
        # A browser, its libraries and pipes fail in many ways.
        except Exception as error:
            reason = self._reason(error)
        if not self._started.done() and not self._is_late:
            self._is_late = True
            late = f"Chrome did not start within {START_PATIENCE} s"
            return None, f"No PNG of this plot: {late}; the next plot waits once more."
        self._kill()
        self._failed = f"PNG export disabled: {reason}."
        return None, self._failed

    def _launch(self):
        """Begin to start Chrome, in a thread of its own."""
        self._loop = asyncio.new_event_loop()
        # Tasks that are left behind when Chrome dies say nothing.
        self._loop.set_exception_handler(lambda loop, context: None)
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        atexit.register(self._close)
        self._started = self._run(self._start())

    def _reason(self, error):
        """Return why there is no picture, by what was raised, and what to do."""
        if isinstance(error, ChromeNotFoundError):
            return (
                "no Chrome or Chromium was found; install one, or run plotly_get_chrome"
            )
        if self._started.done():
            return f"Chrome failed ({_first_line(error)}); {ADVICE}"
        return f"Chrome did not start within {START_PATIENCE} s; {ADVICE}"

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _start(self):
        # Without MathJax: else the page asks the network for a script.
        self._kaleido = kaleido.Kaleido(mathjax=False, timeout=PATIENCE)
        await self._kaleido.open()

    def _close(self):
        """End Chrome with the process, in good order if it answers."""
        if not self._failed:
            try:
                self._run(self._kaleido.close()).result(5)
            except Exception:
                self._kill()

    def _kill(self):
        """
        End Chrome and all that it has started: they are a process group of their own.
        """
        with contextlib.suppress(Exception):  # it may never have started
            if hasattr(os, "killpg"):
                os.killpg(self._kaleido.subprocess.pid, signal.SIGKILL)
            else:
                self._kaleido.subprocess.kill()


def _first_line(error):
    """
    Return the first line of what an error says; choreographer's say several lines.
    """
    if isinstance(error, TimeoutError):
        return f"no picture within {PATIENCE} s"
    if isinstance(error, OSError):
        return str(error)
    said = error.args[0] if error.args else ""
    if isinstance(said, tuple) and said:
        said = said[0]
    lines = str(said).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def halve(png: bytes) -> bytes:
    """
    Return a PNG of `draw` as large as its figure; JupyterLab would cut off a larger
    one.
    """
    half = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.reduce(2).save(half, "PNG")
    return half.getvalue()


draw = _Chrome().draw
