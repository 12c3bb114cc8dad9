"""Work spread over a Dask cluster, one worker of which dies, gives what one process gives."""

import os
import signal

import joblib
import numpy as np
import pytest
from conftest import read_table
from search import make_photos

import scenes.features
import scenes.grid_search
import scenes.tasks

distributed = pytest.importorskip("distributed", reason="Dask's distributed is not installed")


@pytest.fixture(scope="module")
def client():
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


def test_a_search_on_a_cluster_gives_the_same_bytes(spread, tmp_path, monkeypatch):
    monkeypatch.setattr(
        scenes.grid_search, "BLOCK_SETTINGS", 4
    )  # three blocks in each of three folds
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
