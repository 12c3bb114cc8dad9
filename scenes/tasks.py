"""
Tasks: run here or on a cluster, each shown on a progress bar.

A task that a failing machine takes along is tried again. Knows nothing of what a task does.
"""

import collections
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import joblib
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm


class _Display:
    """A place in a cell's output, where each text takes the place of the last."""

    encoding = "utf-8"  # tqdm asks whether it may draw its blocks

    def __init__(self):
        self._handle = None

    def write(self, text: str) -> None:
        if "\r" not in text:
            return  # how a terminal gets to its line
        data = {"text/plain": text.strip()} if text.strip() else {}
        if self._handle is not None:
            self._handle.update(data, raw=True)
        elif data:
            self._handle = display(data, raw=True, display_id=True)

    def flush(self) -> None:
        pass


def progress(total: int, description: str, unit: str) -> tqdm:
    """
    Return a progress bar that shows the time left and leaves nothing behind.

    In a notebook it is not printed: what is printed there stays, each state of it.
    """
    shell = get_ipython()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        leave=False,
        ncols=80,
        mininterval=0.5,
        file=_Display() if getattr(shell, "kernel", None) else sys.stdout,
    )


def run_tasks(
    function: Callable, tasks: Sequence[tuple], bar: tqdm, amounts: Sequence[int]
) -> Iterator[tuple[int, object]]:
    """
    Yield (number, result) of each task as it ends.

    joblib runs the tasks one after the other in this process, or wherever
    `joblib.parallel_config` says. A task may be run twice, where a machine fails; so it
    writes nothing, and its result depends on its arguments alone.

    Parameters
    ----------
    function : callable
        Called with the arguments of a task.
    tasks : sequence of tuples
    bar : tqdm
        Moved here, when a task has ended and its result is taken.
    amounts : sequence of int
        By how much each task moves the bar.
    """
    left = set(range(len(tasks)))
    while left:
        calls = [
            joblib.delayed(_run_task)(number, function, *tasks[number]) for number in sorted(left)
        ]
        for number, result in _outcomes(calls):
            if isinstance(result, Exception):
                raise result
            left.remove(number)
            yield number, result
            bar.update(amounts[number])


def _run_task(number: int, function: Callable, *arguments: object) -> tuple[int, object]:
    """Return the number with the result or with the error, to be raised where it is of use."""
    try:
        return number, function(*arguments)
    except Exception as error:
        return number, error


def _outcomes(calls: list) -> Iterator[tuple[int, object]]:
    """
    Yield what calls of `_run_task` return, until all have ended or a machine has failed.

    A machine that dies may take the only copy of the data with it, so that no other can do
    its tasks. They are tried again as long as anything gets done.
    """
    alive = False
    try:
        parallel = joblib.Parallel(return_as="generator_unordered")
    except ValueError:  # some backends, Ray's among them, give nothing before all is done
        parallel = joblib.Parallel()
    try:
        for outcome in parallel(calls):
            alive = True
            yield outcome
    except Exception as error:
        if not alive:
            raise
        print(f"A machine failed, and its tasks are run again: {error}")


def run_ahead(
    function: Callable, items: Sequence, batch_size: int, failed: list[str]
) -> Iterator[list[tuple]]:
    """
    Yield lists of (item, what a function returns for it), computed ahead in threads.

    The items keep their order. At most two batches wait for the caller, so that memory does
    not grow with their number. What a ValueError says goes to `failed`, without its item.
    """

    def run(item: object) -> tuple:
        try:
            return item, function(item), None
        except ValueError as error:
            return item, None, str(error)

    def finish(batch: list[Future]) -> list[tuple]:
        ended = [future.result() for future in batch]
        failed.extend(problem for *_, problem in ended if problem is not None)
        return [(item, result) for item, result, problem in ended if problem is None]

    ahead = collections.deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), batch_size):
            ahead.append([pool.submit(run, item) for item in items[start : start + batch_size]])
            if len(ahead) == 3:
                yield finish(ahead.popleft())
        yield from map(finish, ahead)
