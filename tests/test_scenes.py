"""
Keras and TensorFlow are set to what the numbers need, whatever the user or machine has.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

import scenes
from scenes import photos

SHOW = """
import os
import tensorflow as tf
from keras import config
from tensorflow.python.framework import config as state
print(config.backend(), config.floatx(), config.dtype_policy().name, config.epsilon())
print(config.image_data_format(), config.max_epochs(), config.max_steps_per_epoch())
print(state.is_op_determinism_enabled(), os.environ.get("TF_XLA_FLAGS"))
print(tf.random.uniform((), 1, 2).numpy() > 0)  # no error for want of a seed
"""


def run(
    code: str, home: Path, config: dict, **variables: str
) -> subprocess.CompletedProcess:
    """Run code in a process of a user whose keras.json is this."""
    (home / "keras.json").write_text(json.dumps(config))
    environment = (
        os.environ | {"KERAS_HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    )
    options = {"env": environment, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run([sys.executable, "-c", code], **options, check=False)


SET = ["tensorflow", "float32", "float32", "1e-07", "channels_last", "None", "None"]
SET += ["True", "None", "True"]
ODD = {"floatx": "float16", "epsilon": 0.001, "image_data_format": "channels_first"}


@pytest.mark.parametrize("module", ["scenes", "utils"])
def test_keras_is_set_to_what_the_numbers_were_made_with(module, tmp_path):
    """In each process that imports the project; so are TensorFlow's operations."""
    limits = {
        "KERAS_MAX_EPOCHS": "1",
        "KERAS_MAX_STEPS_PER_EPOCH": "1",
        "KERAS_BACKEND": "torch",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
    }
    config = ODD | {"backend": "jax"}
    done = run(f"import {module}\n{SHOW}", tmp_path, config, **limits)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split() == SET


def test_keras_imported_before_is_set_or_refused_where_it_runs_on_something_else(
    tmp_path,
):
    again = (
        "keras.backend.backend = lambda: 'jax'\ndel "
        "sys.modules['scenes']\nimport scenes"
    )
    done = run(f"import keras, scenes, sys\n{SHOW}\n{again}", tmp_path, ODD)
    assert done.stdout.split() == SET
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(
        "ImportError: Keras runs on jax here, .* restart, and import scenes", last
    )


def test_a_file_of_settings_that_keras_does_not_take_is_named(tmp_path):
    done = run("import scenes", tmp_path, {"floatx": "float8"})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"ImportError: {tmp_path / 'keras.json'} holds a value that Keras"
    )
    assert "or delete the file" in last


# --- Devices --------------------------------------------------------------------------


def test_the_first_gpu_is_used_at_full_precision_and_named(monkeypatch):
    gpus, used = ["Tesla T4", "Tesla V100"], []
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    assert scenes.describe_device() == "Running on 2 CPU cores"
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda *given: used.append(given)
    )
    name = lambda gpu: {"device_name": gpu}  # noqa: E731
    monkeypatch.setattr(tf.config.experimental, "get_device_details", name)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    importlib.reload(scenes)
    assert used == [(gpus[:1], "GPU")]
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert scenes.describe_device() == "Running on 1 GPU: Tesla T4"


def test_photos_are_resized_on_the_cpu():
    tf.config.set_soft_device_placement(False)
    try:
        with tf.device("GPU:0"):  # there is none
            resized = photos.resize_photos([np.zeros((9, 9, 3), "uint8")])
    finally:
        tf.config.set_soft_device_placement(True)
    assert resized.device.endswith("CPU:0")
