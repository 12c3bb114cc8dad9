"""The project works whatever the user has set up Keras for, or says by name what is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOW = """
import keras, scenes
from keras import config
print(config.backend(), config.floatx(), config.dtype_policy().name, config.epsilon())
print(config.image_data_format(), config.max_epochs(), config.max_steps_per_epoch())
"""


def run(code: str, home: Path, config: dict, **variables: str) -> subprocess.CompletedProcess:
    """Run code in a process of a user whose keras.json is this."""
    (home / "keras.json").write_text(json.dumps(config))
    environment = os.environ | {"KERAS_HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


SET = ["tensorflow", "float32", "float32", "1e-07", "channels_last", "None", "None"]
ODD = {"floatx": "float16", "epsilon": 0.001, "image_data_format": "channels_first"}


def test_keras_is_set_to_what_the_numbers_were_made_with(tmp_path):
    limits = {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1", "KERAS_BACKEND": "torch"}
    done = run(f"import scenes\n{SHOW}", tmp_path, ODD | {"backend": "jax"}, **limits)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == SET


def test_keras_imported_before_is_set_or_refused_where_it_runs_on_something_else(tmp_path):
    again = "keras.backend.backend = lambda: 'jax'\ndel sys.modules['scenes']\nimport scenes"
    done = run(f"import keras, scenes, sys\n{SHOW}\n{again}", tmp_path, ODD)
    assert done.stdout.split() == SET
    last = done.stderr.strip().splitlines()[-1]
    assert re.search("ImportError: Keras runs on jax here, .* restart, and import scenes", last)


def test_a_file_of_settings_that_keras_does_not_take_is_named(tmp_path):
    done = run("import scenes", tmp_path, {"floatx": "float8"})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / 'keras.json'} holds a value that Keras")
    assert "or delete the file" in last
