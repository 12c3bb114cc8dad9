"""
Chrome: a plotly figure as a PNG, where a Chrome or Chromium works.

One that is missing, broken or hangs costs the pictures and never the run. Knows nothing of
what a figure shows.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import subprocess
import threading

import kaleido
import plotly.graph_objects as go
from kaleido.errors import ChromeNotFoundError

PATIENCE = 60  # seconds in which Chrome must draw a picture

# It warns when Chrome is gone at the end of the process.
logging.getLogger("choreographer").setLevel(logging.ERROR)


class _Chrome:
    """
    A headless Chrome that draws PNGs, in a thread of its own, until it fails once.

    kaleido's own server waits for ever for a Chrome that hangs or has died.
    """

    def __init__(self):
        self._problem = self._loop = self._kaleido = None

    def draw(self, figure: go.Figure) -> tuple[bytes | None, str | None]:
        """Return a figure as PNG and None, or None and why Chrome does not work."""
        if self._problem:
            return None, self._problem
        if not self._loop:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(lambda loop, context: None)  # of tasks left behind
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
            atexit.register(self._close)
        drawing = asyncio.run_coroutine_threadsafe(self._draw(figure), self._loop)
        try:
            return drawing.result(PATIENCE), None
        except ChromeNotFoundError:
            reason = "there is no Chrome. Install Chrome or Chromium, or run plotly_get_chrome"
        except Exception as error:  # a browser, its libraries and pipes fail in many ways
            reason = f"Chrome does not work ({_why(error)}). Start it by hand to see more, or name "
            reason += "another one in BROWSER_PATH"
        self._problem = f"No PNGs from here on: {reason}."
        with contextlib.suppress(Exception):  # it may never have started
            _end(self._kaleido.subprocess)
        return None, self._problem

    async def _draw(self, figure: go.Figure) -> bytes:
        if not self._kaleido:
            # Without MathJax: else the page asks the network for a script.
            self._kaleido = kaleido.Kaleido(mathjax=False, timeout=PATIENCE)
            await self._kaleido.open()
        # Not larger than the figure: JupyterLab shows it pixel by pixel until the mouse is over it.
        size = {"width": figure.layout.width, "height": figure.layout.height}
        return await self._kaleido.calc_fig(figure.to_dict(), opts={"format": "png", **size})

    def _close(self) -> None:
        if self._kaleido and not self._problem:
            with contextlib.suppress(Exception):  # the process ends, and Chrome with it
                asyncio.run_coroutine_threadsafe(self._kaleido.close(), self._loop).result(5)


def _end(process: subprocess.Popen) -> None:
    """End a Chrome and all that it has started: they are a process group of their own."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _why(error: Exception) -> str:
    """Return the first line of what an error says; choreographer's say several lines."""
    if isinstance(error, TimeoutError):
        return f"no answer in {PATIENCE} s"
    if isinstance(error, OSError):
        return str(error)
    words = error.args[0] if error.args else ""
    words = str(words[0] if isinstance(words, tuple) and words else words)
    return (words.splitlines() or [type(error).__name__])[0].rstrip(".")


draw = _Chrome().draw
