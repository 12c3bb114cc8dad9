"""Work spread over a cluster, one worker of which dies, gives what one process gives."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import nbclient
import nbformat
import numpy as np
import pytest
from conftest import read_table
from search import make_photos

import scenes.features
import scenes.files
import scenes.grid_search
import scenes.tasks

ROOT = Path(scenes.tasks.__file__).parents[1]


# --- Progress bars --------------------------------------------------------------------


def test_on_a_terminal_a_bar_shows_the_time_left_and_goes(capsys):
    with scenes.tasks.progress(4, "Trying", "step") as bar:
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
spec = importlib.util.spec_from_file_location("tasks", {str(ROOT / "scenes" / "tasks.py")!r})
tasks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tasks)
print("before")
with tasks.progress(3, "Trying", "step") as bar:
    for _ in range(3):
        time.sleep(0.6)
        bar.update()
print("after")
with tasks.progress(3, "Stopped", "step") as bar:
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
    assert any("Trying:  33%|███" in text and "<00:01" in text for text in shown), "time left"
    assert (
        "".join(o["text"] for o in cell.outputs if o.output_type == "stream") == "before\nafter\n"
    )
    assert [o.get("ename") for o in cell.outputs if o.output_type == "error"] == ["ValueError"]
    assert all(o["data"] == {} for o in cell.outputs if o.output_type == "display_data")
    assert "Trying" not in json.dumps([o for o in cell.outputs if o.output_type != "error"])


# --- On a cluster ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributed():
    return pytest.importorskip("distributed", reason="Dask's distributed is not installed")


@pytest.fixture(scope="module")
def client(distributed):
    """Return a client of a cluster of two worker processes."""
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0}
    options |= {"dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def spread(client, monkeypatch):
    """Return a function that spreads a call over the workers, and kills one in the middle."""

    def spread(function, *arguments, **options):
        pids = client.run(os.getpid)
        bars, killed, run_tasks, progress = [], [], scenes.tasks.run_tasks, scenes.tasks.progress

        def kill_in_the_middle(function, tasks, *rest):
            for number, result in run_tasks(function, tasks, *rest):
                yield number, result
                if not killed and len(tasks) > 1:
                    killed.append(next(iter(pids.values())))
                    os.kill(killed[0], signal.SIGKILL)

        def note(*given):
            bars.append(progress(*given))
            return bars[-1]

        with monkeypatch.context() as patch, joblib.parallel_config("dask"):
            patch.setattr(scenes.tasks, "run_tasks", kill_in_the_middle)
            patch.setattr(scenes.tasks, "progress", note)
            returned = function(*arguments, **options)
        assert killed
        client.wait_for_workers(2)
        assert killed[0] not in client.run(os.getpid).values()
        assert [bar.n for bar in bars] == [bar.total for bar in bars], "all is counted, once"
        return returned

    return spread


@pytest.mark.slow
def test_a_search_on_a_cluster_gives_the_same_bytes(spread, tmp_path, monkeypatch):
    # Three blocks of four settings in each of three folds.
    monkeypatch.setattr(scenes.grid_search, "BLOCK_COLUMNS", 4 * 6)
    photos = make_photos(1500)
    options = {
        "learning_rates": [0.001, 0.005],
        "dropouts": [0.0, 0.3, 0.5],
        "weight_decays": [1e-4, 1e-2],
        "epochs": 5,
        "folds": 3,
    }
    alone, cluster = tmp_path / "alone.csv", tmp_path / "cluster.csv"
    scenes.grid_search.grid_search(*photos, **options, csv=alone)
    spread(scenes.grid_search.grid_search, *photos, **options, csv=cluster)
    assert cluster.read_bytes() == alone.read_bytes()


@pytest.mark.slow
def test_features_from_a_cluster_are_the_same_bytes(
    spread, drawn_once, random_trunk, tmp_path, monkeypatch
):
    monkeypatch.setattr(scenes.features, "BLOCK_BATCHES", 3)
    images = read_table(drawn_once)
    alone, cluster = tmp_path / "alone.npz", tmp_path / "cluster.npz"
    given = images, drawn_once, random_trunk
    features = scenes.features.extract_features(*given, cache=alone, batch_size=4)
    again = spread(scenes.features.extract_features, *given, cache=cluster, batch_size=4)
    np.testing.assert_array_equal(again, features)
    assert cluster.read_bytes() == alone.read_bytes()


@pytest.mark.slow
def test_machines_with_nothing_but_the_packages_get_the_code(distributed, tmp_path):
    """Of a scheduler and a worker that start in an empty folder and have no path to it."""
    empty = tmp_path / "empty"
    empty.mkdir()
    dask = [sys.executable, "-P", "-m", "distributed.cli."]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    started = []

    def start(module: str, *options: str) -> None:
        command = [*dask[:-1], dask[-1] + module, *options, "--no-dashboard"]
        with open(tmp_path / f"{module}.log", "w") as log:
            started.append(
                subprocess.Popen(command, cwd=empty, env=environment, stdout=log, stderr=log)
            )

    address = tmp_path / "scheduler.json"
    try:
        start("dask_scheduler", "--port", "0", "--scheduler-file", str(address))
        start("dask_worker", "--scheduler-file", str(address), "--nthreads", "1")
        with distributed.Client(scheduler_file=str(address), timeout=120) as client:
            client.wait_for_workers(1, timeout=120)
            with pytest.raises(ModuleNotFoundError, match="scenes"):
                client.run(importlib.import_module, "scenes.tasks")
            code = shutil.make_archive(str(tmp_path / "scenes"), "zip", ROOT, "scenes")
            client.upload_file(code)
            bar = scenes.tasks.progress(2, "Digests", "part")
            with joblib.parallel_config("dask"), bar:
                calls = [(b"a",), (b"b",)]
                found = dict(scenes.tasks.run_tasks(scenes.files.digest, calls, bar, [1, 1]))
            assert found == {0: scenes.files.digest(b"a"), 1: scenes.files.digest(b"b")}
            (where,) = client.run(lambda: scenes.files.__file__).values()
            assert "scenes.zip" in where
    finally:
        for process in started:
            process.terminate()
            process.wait(30)
