"""
Progress: bars with the time left; work that is read ahead, or spread over machines.

Knows nothing of what the work is.
"""

import collections
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import joblib
from IPython import get_ipython
from IPython.display import display
from joblib.parallel import get_active_backend
from tqdm import tqdm


class _Display:
    """A place in a cell's output, where each text takes the place of the last."""

    encoding = "utf-8"  # tqdm asks whether it may draw its blocks

    def __init__(self):
        self._handle = None

    def write(self, text):
        if "\r" not in text:
            return  # tqdm's cursor movement, not a state of the bar
        text = text.strip()
        data = {"text/plain": text} if text else {}
        if self._handle is not None:
            self._handle.update(data, raw=True)
        elif data:
            self._handle = display(data, raw=True, display_id=True)

    def flush(self):
        pass


def bar(total: int, description: str, unit: str) -> tqdm:
    """
    Return a progress bar that shows the time left and leaves nothing behind.

    In a notebook it is not printed: what is printed there stays, each state of it.
    """
    in_notebook = getattr(get_ipython(), "kernel", None) is not None
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        ncols=80,
        mininterval=0.5,
        file=_Display() if in_notebook else sys.stdout,
    )


def read_ahead(function: Callable, items: Sequence, batch_size: int) -> Iterator[list]:
    """
    Yield lists of what a function returns for the items, computed ahead in threads.

    The items keep their order. At most two batches wait for the caller, so that memory
    does not grow with their number. An error of the function is raised.
    """
    ahead = collections.deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for start in range(0, len(items), batch_size):
                batch = items[start : start + batch_size]
                ahead.append([pool.submit(function, item) for item in batch])
                if len(ahead) == 3:
                    yield [future.result() for future in ahead.popleft()]
            for futures in ahead:
                yield [future.result() for future in futures]
        finally:  # after an error, what waits is not computed
            pool.shutdown(wait=False, cancel_futures=True)


def run(
    function: Callable,
    calls: Sequence[tuple],
    *,
    threads: int = 1,
    stop: threading.Event | None = None,
) -> Iterator[object]:
    """
    Yield what a function returns for each call, as the calls end.

    They run where `joblib.parallel_config` says; without it, here.

    Parameters
    ----------
    function : callable
        It writes nothing, and what it returns depends on its arguments alone.
    calls : sequence of tuples
        The arguments of each call.
    threads : int
        So many calls run at once here.
    stop : Event, optional
        Set while calls in threads have to end, as after an interrupt or when the
        iterator is closed. They have to look at it: they are waited for.

    Raises
    ------
    RuntimeError
        A worker or the scheduler is lost.
    """
    backend, n_jobs = get_active_backend()
    if isinstance(backend, joblib.parallel.MultiprocessingBackend):
        raise ValueError(
            "TensorFlow does not survive the fork of joblib's backend "
            "'multiprocessing'; choose 'loky', 'threading' or 'dask' by "
            "joblib.parallel_config"
        )
    is_default = isinstance(backend, joblib.parallel.LokyBackend)
    if not is_default or n_jobs is not None:
        for result, error in _outcomes(function, calls):
            if error is not None:
                raise error
            yield result
    elif threads == 1:
        for call in calls:
            yield function(*call)
    else:
        yield from _run_in_threads(function, calls, threads, stop)


def _run_in_threads(function, calls, threads, stop):
    """Yield the results of calls that run in threads, and wait for these at the end."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            left = {pool.submit(function, *call) for call in calls}
            while left:
                # A wait without end may miss an interrupt that another thread gets.
                ended, left = wait(left, 0.2, FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        except BaseException:  # an interrupt, too
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            stop.clear()


def _outcomes(function, calls):
    """Yield (result, error) of each call; a lost worker is an error of one sentence."""
    try:
        parallel = joblib.Parallel(return_as="generator_unordered")
        outcome = joblib.delayed(_outcome)
        yield from parallel(outcome(function, call) for call in calls)
    except Exception as error:  # joblib's backends raise each their own
        reason = str(error).partition("\n")[0]
        raise RuntimeError(
            f"a worker or the scheduler is lost ({reason}): start it and connect "
            "again, or choose joblib.parallel_config('sequential'); the run resumes "
            "when it is repeated"
        ) from error


def _outcome(function, call):
    """Return (result, None) of a call, or (None, its error)."""
    try:
        return function(*call), None
    except Exception as error:  # raised where the results are taken
        return None, error
