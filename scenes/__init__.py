"""
The modules; here, TensorFlow and Keras set up as they need it, and the facts that all
share.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

# TensorFlow reads these when it is imported. Its logs are noise in a notebook; a GPU's
# memory is taken as it is needed; and large CPU tensors are kept instead of being
# handed back to the operating system after every layer, which makes the base model up
# to 2 x faster.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
# Whatever the user has for other projects:
if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"
if "tensorflow" not in sys.modules:
    os.environ.pop("TF_XLA_FLAGS", None)  # a compiler of its own, with other digits

# A closed standard stream (cron, services) becomes an empty one; the next opened file
# would take its number otherwise, and receive what compiled code prints.
while (_unused := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
os.close(_unused)
sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """
    Keep what compiled code writes to the process's standard error from the reader.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


try:
    with silent():  # TensorFlow logs a missing GPU before it reads its log level
        import joblib
        import keras
        import tensorflow as tf
except (AssertionError, ValueError) as error:  # both read the user's file, say little
    _file = os.path.join(os.environ.get("KERAS_HOME", "~/.keras"), "keras.json")
    _what = f"{_file} holds a value that Keras does not take"
    raise ImportError(f"{_what}: correct it, or delete the file ({error})") from error

if keras.backend.backend() != "tensorflow":
    _what = f"Keras runs on {keras.backend.backend()} here"
    _why = "this project needs TensorFlow"
    raise ImportError(f"{_what}, and {_why}: restart, and import scenes before Keras")


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Compute in float32 inside, whatever a cell has set (as mixed precision)."""
    policy = keras.config.dtype_policy()
    float_type = keras.config.floatx()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(float_type)
        keras.config.set_dtype_policy(policy)


# What all numbers depend on; ~/.keras/keras.json may hold others.
KERAS = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "max_epochs": None,
    "max_steps_per_epoch": None,
}
for _name, _value in KERAS.items():
    getattr(keras.config, f"set_{_name}")(_value)
keras.config.set_dtype_policy("float32")

# The same numbers as far as they can be, on one device: a GPU would cut the factors of
# products to 10 bits, and TensorFlow would take memory of GPUs on which nothing runs.
tf.config.experimental.enable_tensor_float_32_execution(False)
with contextlib.suppress(RuntimeError):  # if they are in use: then the first is used
    tf.config.set_visible_devices(tf.config.get_visible_devices("GPU")[:1], "GPU")
# The order of floating-point sums is fixed. TensorFlow then draws no random number
# without a seed; each training sets one of its own.
tf.config.experimental.enable_op_determinism()
tf.random.set_seed(0)

# Each training traces a graph of its own, as it should; TensorFlow warns that this is
# slow.
tf.get_logger().setLevel("ERROR")

SPLITS = ("train", "validation", "test", "prediction")
# How features.npz and the cache of features are laid out; another one is not read.
FEATURES_FORMAT = 4
# Counts the changes of our code that change numbers: results of another one are not
# mixed, and unfinished work of another one is not resumed.
RESULTS_FORMAT = 4
VERSIONS = {
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "format": RESULTS_FORMAT,
}
# Columns of the grid search's results.
HYPERPARAMETERS = ["learning_rate", "dropout", "weight_decay"]
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


def has_gpu() -> bool:
    """Return whether TensorFlow computes on a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def describe_device() -> str:
    """
    Return what computes here: 'Running on 1 GPU: Tesla T4' or 'Running on 2 CPU cores'.
    """
    for gpu in tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        return f"Running on 1 GPU: {details.get('device_name', 'of unknown name')}"
    cores = joblib.cpu_count()
    name = "core" if cores == 1 else "cores"
    return f"Running on {cores} CPU {name}"


# What the imports have made stays to the end: collecting garbage need not look at it.
gc.freeze()
