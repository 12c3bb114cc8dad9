"""
Work spread over a cluster, one worker of which dies, gives what one process gives.
"""

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
from search import make_photos
from tensorflow.python.framework.config import is_op_determinism_enabled

import scenes.features
import scenes.grid_search
import scenes.progress

ROOT = Path(scenes.progress.__file__).parents[1]


# --- Progress bars --------------------------------------------------------------------


def test_on_a_terminal_a_bar_shows_the_time_left_and_goes(capsys):
    with scenes.progress.bar(4, "Trying", "step") as bar:
        bar.mininterval = 0
        bar.update(2)
        shown = capsys.readouterr().out
    assert "Trying:  50%|" in shown
    assert "2/4 [00:00<00:00" in shown
    assert capsys.readouterr().out.rpartition("\r")[0].split("\r")[-1].strip() == ""


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


# --- Tasks that fail ------------------------------------------------------------------


def double(done, number):
    """Note the number of a task among those done; task 7 is wrong."""
    done.append(number)
    if number == 7:
        raise ZeroDivisionError("an error of ours")
    return 2 * number


def run_tasks(done, *numbers):
    tasks = [(number,) for number in numbers]
    with scenes.progress.bar(len(tasks), "Doubling", "task") as bar:
        return [
            result
            for _, result in scenes.progress.run_tasks(
                double, done, tasks, bar, numbers
            )
        ]


class Failing:
    """
    Takes the place of `joblib.Parallel`: does some tasks, and then its machine fails.
    """

    def __init__(self, *done):
        self.done = list(done)

    def __call__(self, **options):
        return self.run

    def run(self, calls):
        for function, arguments, options in calls[: self.done.pop(0)]:
            yield function(*arguments, **options)
        raise ConnectionError("the machine is gone")


def test_what_a_failing_machine_had_is_run_again_while_anything_gets_done(
    monkeypatch, capsys
):
    done = []
    monkeypatch.setattr(joblib, "Parallel", Failing(1, 2, 1))
    assert run_tasks(done, 1, 2, 3, 4) == [2, 4, 6, 8]
    assert done == [1, 2, 3, 4]
    monkeypatch.setattr(joblib, "Parallel", Failing(1, 0))
    with pytest.raises(
        RuntimeError, match=r"the workers are lost \(the machine is gone\)"
    ):
        run_tasks(done, 1, 2)
    assert capsys.readouterr().out.count("run again: the machine is gone") == 3 + 1


def test_an_error_in_a_task_is_raised_and_not_tried_again():
    done = []
    with pytest.raises(ZeroDivisionError, match="an error of ours"):
        run_tasks(done, 1, 7, 3)
    assert done == [1, 7]


def test_a_backend_that_forks_is_refused():
    """After a training in this process, it would hang."""
    done = []
    refused = pytest.raises(
        ValueError, match=r"fork of .* 'multiprocessing'; choose 'loky'"
    )
    with joblib.parallel_config("multiprocessing", n_jobs=2), refused:
        run_tasks(done, 1, 2)
    assert done == []


# --- On a cluster ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """
    Start a cluster by the lines of the documentation, and return its client and
    scheduler.

    A scheduler and two workers, each in an empty folder, from which nothing leads to
    the project.
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


def search(csv):
    """Search three blocks of four settings in each of three folds."""
    options = {
        "learning_rates": [0.001, 0.005],
        "dropouts": [0.0, 0.3, 0.5],
        "folds": 3,
    }
    options |= {"weight_decays": [1e-4, 1e-2], "epochs": 5, "csv": csv}
    scenes.grid_search.grid_search(*make_photos(1500), **options)


def extract(cache, images, base):
    """Extract the features of 57 photos in five blocks."""
    scenes.features.extract_features(images, base, cache=cache, batch_size=4)


@pytest.mark.slow
@pytest.mark.parametrize("work", [search, extract])
def test_a_cluster_one_worker_of_which_dies_gives_the_bytes_of_one_process(
    work, cluster, drawn_once, random_base_model, tmp_path, monkeypatch
):
    client, _ = cluster
    bars, killed, run_tasks = [], [], scenes.progress.run_tasks
    make_bar = scenes.progress.bar
    pids = client.run(os.getpid)

    def kill_in_the_middle(*given):
        for number, result in run_tasks(*given):
            yield number, result
            if not killed:
                killed.append(next(iter(pids.values())))
                os.kill(killed[0], signal.SIGKILL)

    def note(*given):
        bars.append(make_bar(*given))
        return bars[-1]

    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", 4 * 6)
    monkeypatch.setattr(scenes.features, "BLOCK_BATCHES", 3)
    given = (read_table(drawn_once), random_base_model) if work is extract else ()
    alone, spread = tmp_path / "alone.npz", tmp_path / "spread.npz"
    with joblib.parallel_config("sequential"):
        work(alone, *given)
    monkeypatch.setattr(scenes.progress, "run_tasks", kill_in_the_middle)
    monkeypatch.setattr(scenes.progress, "bar", note)
    work(spread, *given)
    assert spread.read_bytes() == alone.read_bytes()
    assert [bar.n for bar in bars] == [bar.total for bar in bars], (
        "all is counted, once"
    )
    client.wait_for_workers(2)
    assert killed[0] not in client.run(os.getpid).values()
    imported = lambda: {"scenes", "tensorflow"} & set(sys.modules)  # noqa: E731
    assert {"scenes", "tensorflow"} in client.run(imported).values()
    assert any(client.run(is_op_determinism_enabled).values())
    assert client.run_on_scheduler(imported) == set()


@pytest.mark.slow
def test_a_lost_scheduler_ends_in_a_sentence(cluster):
    _, scheduler = cluster
    threading.Timer(1, scheduler.kill).start()
    for _ in range(2):  # as it happens, and in the next run
        with scenes.progress.bar(3, "Waiting", "task") as bar:
            waiting = scenes.progress.run_tasks(time.sleep, 60, [()] * 3, bar, [1] * 3)
            with pytest.raises(
                RuntimeError, match=r"^the workers are lost .*repeat the run"
            ):
                next(waiting)
