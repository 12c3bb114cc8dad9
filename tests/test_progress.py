"""Bars, reading ahead, and work that is spread over threads or over a cluster."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import joblib
import nbclient
import nbformat
import pytest
from conftest import read_table
from search import make_photos, search_in
from tensorflow.python.framework.config import is_op_determinism_enabled

from scenes import features, grid_search, progress
from scenes.settings import GridOptions

ROOT = Path(progress.__file__).parents[1]


# --- Progress bars --------------------------------------------------------------------


def test_on_a_terminal_a_bar_shows_the_time_left_and_goes(printed):
    with progress.bar(4, "Trying", "step") as bar:
        bar.mininterval = 0
        bar.update(2)
        shown = printed()
    assert "Trying:  50%|" in shown
    assert "2/4 [00:00<00:00" in shown
    assert printed().rpartition("\r")[0].split("\r")[-1].strip() == ""


def test_in_a_notebook_a_bar_leaves_nothing_and_keeps_what_is_printed():
    """In the file that nbclient (papermill's and JupyterLab's way) saves."""
    source = f"""
import importlib.util, time
spec = importlib.util.spec_from_file_location("progress", {str(ROOT / "scenes" / "progress.py")!r})
progress = importlib.util.module_from_spec(spec)
spec.loader.exec_module(progress)
print("before")
with progress.bar(3, "Trying", "step") as bar:
    for _ in range(3):
        time.sleep(0.6)
        bar.update()
print("after")
with progress.bar(3, "Stopped", "step") as bar:
    bar.update()
    raise ValueError
"""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    shown = []
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    process = client.process_message

    def note(message, *rest):
        if message["msg_type"] in ("display_data", "update_display_data"):
            shown.append(message["content"]["data"].get("text/plain", ""))
        return process(message, *rest)

    client.process_message = note
    client.execute()
    assert any("Trying:  33%|███" in text and "<00:01" in text for text in shown), (
        "time left"
    )
    assert (
        "".join(o["text"] for o in cell.outputs if o.output_type == "stream")
        == "before\nafter\n"
    )
    assert [o.get("ename") for o in cell.outputs if o.output_type == "error"] == [
        "ValueError"
    ]
    assert all(o["data"] == {} for o in cell.outputs if o.output_type == "display_data")
    assert "Trying" not in json.dumps(
        [o for o in cell.outputs if o.output_type != "error"]
    )


# --- Reading ahead --------------------------------------------------------------------


def test_what_is_read_ahead_keeps_its_order_and_waits_for_the_caller():
    """Two batches at most wait, beside the one that is taken."""
    begun = []

    def double(number):
        begun.append(number)
        time.sleep(0.01 * (number % 3))
        return 2 * number

    batches = progress.read_ahead(double, range(20), 3)
    assert next(batches) == [0, 2, 4]
    time.sleep(0.3)
    assert sorted(begun) == list(range(9))
    assert list(batches)[-1] == [36, 38]


def test_an_error_ends_what_is_read_ahead():
    begun = []

    def fail(number):
        begun.append(number)
        time.sleep(0.1)
        raise ZeroDivisionError("an error of ours")

    with pytest.raises(ZeroDivisionError, match="an error of ours"):
        list(progress.read_ahead(fail, range(3000), 1000))
    assert len(begun) < 1000


# --- Calls that fail ------------------------------------------------------------------


def double(number):
    """Number 7 is wrong."""
    if number == 7:
        raise ZeroDivisionError("an error of ours")
    return 2 * number


def run_calls(*numbers, **options):
    return progress.run(double, [(number,) for number in numbers], **options)


@pytest.mark.parametrize("config", [{}, {"backend": "threading", "n_jobs": 2}])
@pytest.mark.parametrize("threads", [1, 3])
def test_calls_end_in_any_order_and_an_error_is_raised_as_it_is(config, threads):
    options = {"threads": threads, "stop": threading.Event()}
    with joblib.parallel_config(**config):
        assert sorted(run_calls(*range(6), **options)) == [0, 2, 4, 6, 8, 10]
        with pytest.raises(ZeroDivisionError, match=r"^an error of ours$"):
            list(run_calls(1, 7, 3, **options))
    assert not options["stop"].is_set()


def test_a_lost_machine_ends_in_a_sentence_after_what_was_done(monkeypatch):
    def run(calls):
        function, arguments, options = next(calls)
        yield function(*arguments, **options)
        raise ConnectionError("the machine is gone\nfor reasons")

    monkeypatch.setattr(joblib, "Parallel", lambda **options: run)
    with joblib.parallel_config("threading"):
        results = run_calls(1, 2)
        assert next(results) == 2
        lost = r"a worker or the scheduler is lost \(the machine is gone\): start it"
        with pytest.raises(RuntimeError, match=lost):
            next(results)


def test_a_backend_that_forks_is_refused():
    """After a training in this process, it would hang."""
    refused = pytest.raises(
        ValueError, match=r"fork of .* 'multiprocessing'; choose 'loky'"
    )
    with joblib.parallel_config("multiprocessing", n_jobs=2), refused:
        next(run_calls(1, 2))


# --- On a cluster ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """
    Start a cluster by the lines of the documentation, and return its client and
    scheduler.

    A scheduler and two workers, each in an empty folder, from which nothing leads to
    the project: the cell sends them its rooms.
    """
    dask = pytest.importorskip("dask.config", reason="Dask is not installed")
    folder, names = tmp_path_factory.mktemp("cluster"), {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    recipe = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    recipe = recipe.replace("SCHEDULER:8786", f"127.0.0.1:{port}")
    scheduler, worker = re.findall(r"^\.venv/bin/(dask .*)$", recipe, re.M)
    [cell] = re.findall(r"^```python\n(.*?)```$", recipe, re.M | re.S)
    with contextlib.ExitStack() as stack:
        for command in (f"{scheduler} --host 127.0.0.1 --port {port}", worker, worker):
            command = [Path(sys.executable).with_name("dask"), *command.split()[1:]]
            empty = tempfile.mkdtemp(dir=folder)
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            environment |= {"TMPDIR": empty}
            log = stack.enter_context(open(folder / f"{Path(empty).name}.log", "w"))
            options = {"cwd": empty, "env": environment, "stdout": log, "stderr": log}
            process = subprocess.Popen([*command, "--no-dashboard"], **options)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            names.setdefault("scheduler", process)
        stack.enter_context(dask.set({"distributed.comm.timeouts.connect": "10s"}))
        stack.enter_context(contextlib.chdir(ROOT))
        stack.enter_context(
            joblib.parallel_config()
        )  # what the cell changes ends with it
        exec(cell, names)
        stack.callback(names["client"].close)
        names["client"].wait_for_workers(2, timeout=120)
        yield names["client"], names["scheduler"]


def search(folder, images, base):
    """Search three blocks of four settings in each of three folds."""
    options = GridOptions(
        learning_rates=[0.001, 0.005],
        dropouts=[0.0, 0.3, 0.5],
        weight_decays=[1e-4, 1e-2],
        epochs=5,
    )
    X, y = make_photos(1500)
    search_in(folder, options, X=X, y=y)
    return (folder / "grid_search.csv").read_bytes()


def extract(folder, images, base):
    """Extract the features of 57 photos in five blocks."""
    cache = folder / "cache"
    X = features.extract_features(images, base, cache=cache, batch_size=4)
    return X.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("work", [search, extract])
def test_a_cluster_one_worker_of_which_dies_gives_the_bytes_of_one_process(
    work, cluster, drawn_once, random_base_model, tmp_path, monkeypatch
):
    """Dask repeats what the worker had; the scheduler holds a copy of it."""
    client, _ = cluster
    killed, run = [], progress.run
    pids = client.run(os.getpid)

    def kill_in_the_middle(*given, **options):
        for result in run(*given, **options):
            yield result
            if not killed:
                killed.append(next(iter(pids.values())))
                os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(grid_search, "BLOCK_COLUMNS", 4 * 6)
    monkeypatch.setattr(features, "BLOCK_BATCHES", 3)
    given = read_table(drawn_once), random_base_model
    with joblib.parallel_config("sequential"):
        alone = work(tmp_path / "alone", *given)
    monkeypatch.setattr(progress, "run", kill_in_the_middle)
    assert work(tmp_path / "spread", *given) == alone
    client.wait_for_workers(2)
    assert killed[0] not in client.run(os.getpid).values()
    imported = lambda: "scenes" in sys.modules  # noqa: E731
    assert any(client.run(imported).values())
    assert any(client.run(is_op_determinism_enabled).values())


@pytest.mark.slow
def test_a_lost_worker_of_joblib_ends_in_a_sentence():
    lost = pytest.raises(RuntimeError, match="a worker or the scheduler is lost")
    with joblib.parallel_config("loky", n_jobs=2), lost:
        list(progress.run(os._exit, [(1,), (1,)]))


@pytest.mark.slow
def test_a_lost_scheduler_ends_in_a_sentence_and_finished_folds_are_kept(
    cluster, tmp_path, monkeypatch
):
    _, scheduler = cluster
    run = progress.run

    def kill_after_the_first(*given, **options):
        for result in run(*given, **options):
            yield result
            scheduler.kill()

    monkeypatch.setattr(grid_search, "BLOCK_COLUMNS", 4 * 6)
    lost = r"^a worker or the scheduler is lost .*resumes when"
    monkeypatch.setattr(progress, "run", kill_after_the_first)
    with pytest.raises(RuntimeError, match=lost):
        search(tmp_path, None, None)
    kept = len(list(tmp_path.glob("cache/grid-search-*-fold-*.npz")))
    assert kept >= 1
    with pytest.raises(
        RuntimeError, match=lost
    ):  # as long as the scheduler is not started again
        search(tmp_path, None, None)
    calls = []

    def count(function, left, **options):
        calls.extend(left)
        return run(function, left, **options)

    monkeypatch.setattr(progress, "run", count)
    with joblib.parallel_config("sequential"):
        resumed = search(tmp_path, None, None)
        assert len(calls) == 9 - kept
        assert resumed == search(tmp_path / "alone", None, None)
