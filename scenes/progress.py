"""
Progress: bars with the time left, and tasks that run here or on a cluster.

A task that a failing worker takes along is tried again. Knows nothing of what a task
does.
"""

import collections
import functools
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm


class _Display:
    """A place in a cell's output, where each text takes the place of the last."""

    encoding = "utf-8"  # tqdm asks whether it may draw its blocks

    def __init__(self):
        self._handle = None

    def write(self, text):
        if "\r" not in text:
            return  # how a terminal gets to its line
        data = {"text/plain": text.strip()} if text.strip() else {}
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
    file = _Display() if getattr(get_ipython(), "kernel", None) else sys.stdout
    look = {"leave": False, "ncols": 80, "mininterval": 0.5, "file": file}
    return tqdm(total=total, desc=description, unit=unit, **look)


def run_tasks(
    function: Callable,
    shared: object,
    tasks: Sequence[tuple],
    bar: tqdm,
    amounts: Sequence[int],
) -> Iterator[tuple[int, object]]:
    """
    Yield (number, result) of each task as it ends.

    joblib runs the tasks one after the other in this process, or wherever
    `joblib.parallel_config` says. A task may be run twice, if a worker fails; so it
    writes nothing, and its result depends on its arguments alone.

    Parameters
    ----------
    function : callable
        Called with `shared` and the arguments of a task.
    shared : object
        The argument of all tasks, which is sent to each worker once.
    tasks : sequence of tuples
    bar : tqdm
        Moved here, when a task has ended and its result is taken.
    amounts : sequence of int
        By how much each task moves the bar.
    """
    if isinstance(
        joblib.parallel.get_active_backend()[0], joblib.parallel.MultiprocessingBackend
    ):
        what = (
            "TensorFlow does not survive the fork of joblib's backend 'multiprocessing'"
        )
        raise ValueError(
            f"{what}; choose 'loky', 'threading' or 'dask' by joblib.parallel_config"
        )
    left = dict(enumerate(tasks))
    while left:
        for number, result in _outcomes(function, shared, dict(left)):
            if isinstance(result, Exception):
                raise result
            del left[number]
            yield number, result
            bar.update(amounts[number])


def _outcomes(function, shared, tasks):
    """
    Yield (number, result or error) of tasks, until all have ended or a worker has
    failed.

    A worker that dies may take the only copy of the data with it, so that no other can
    do its tasks. They are tried again as long as anything gets done.
    """
    alive, parallel = False, joblib.Parallel(return_as="generator_unordered")
    try:
        call = _sealed_call(function, shared)
        for outcome in parallel(
            [call(number, *task) for number, task in tasks.items()]
        ):
            alive = True
            yield outcome
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if not alive:
            lost = (
                f"the workers are lost ({reason}): start them "
                f"and connect again, or choose"
            )
            advice = (
                "joblib.parallel_config('sequential'), and repeat "
                "the run, which resumes"
            )
            raise RuntimeError(f"{lost} {advice}") from error
        print(f"A worker failed, and its tasks are run again: {reason}")


def _sealed_call(function, shared):
    """
    Return a function that makes joblib's call of a task from its number and arguments.
    """
    backend, n_jobs = joblib.parallel.get_active_backend()
    n_jobs = backend.effective_n_jobs(n_jobs or backend.default_n_jobs)
    if n_jobs == 1 or getattr(backend, "supports_sharedmem", False):
        return functools.partial(joblib.delayed(_run), function, shared)

    def open_and_run(task, sealed):
        return pickle.loads(task)(sealed)

    # Dask's scheduler unpickles the calls that it passes on, and must not import
    # TensorFlow with them: a nested function travels as its code, the rest as bytes. An
    # array is sent once.
    sealed, name = np.frombuffer(pickle.dumps(shared), "uint8"), uuid.uuid4().hex

    def call(number, *arguments):
        task = functools.partial(_open_and_run, function, name, number, arguments)
        return joblib.delayed(open_and_run)(pickle.dumps(task), sealed)

    return call


def _open_and_run(function, name, number, arguments, sealed):
    opened = _opened(name)
    if not opened:
        opened.append(pickle.loads(sealed))
    return _run(function, opened[0], number, *arguments)


@functools.lru_cache(maxsize=1)
def _opened(name):
    """
    Return a list for the shared object of the tasks of this name, for the next of them.
    """
    return []


def _run(function, shared, number, *arguments):
    """
    Return the number with the result or with the error, to be raised where it is of
    use.
    """
    try:
        return number, function(shared, *arguments)
    except Exception as error:
        return number, error


def run_ahead(
    function: Callable, items: Sequence, batch_size: int, failed: list[str]
) -> Iterator[list[tuple]]:
    """
    Yield lists of (item, what a function returns for it), computed ahead in threads.

    The items keep their order. At most two batches wait for the caller, so that memory
    does not grow with their number. What a ValueError says goes to `failed`, without
    its item.
    """

    def run(item):
        try:
            return item, function(item), None
        except ValueError as error:
            return item, None, str(error)

    def finish(batch):
        ended = [future.result() for future in batch]
        failed.extend(problem for *_, problem in ended if problem is not None)
        return [(item, result) for item, result, problem in ended if problem is None]

    ahead = collections.deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), batch_size):
            ahead.append(
                [pool.submit(run, item) for item in items[start : start + batch_size]]
            )
            if len(ahead) == 3:
                yield finish(ahead.popleft())
        yield from map(finish, ahead)
