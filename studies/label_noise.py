"""
Repeat what was measured of the labels: `python tests/label_study.py clean` or `... sheets FOLDER`.

`clean` trains heads on the bundled features with the suspects left out, softened or
relabelled, and writes `results/label_cleaning.csv` (two minutes). `sheets` draws the 400
photos of `results/label_reading.csv`, in the order of the reading and with nothing but
numbers, for whoever wants to read them again; INTEL_PHOTOS names the photos. The sheets
show the photos, and so are not for publication.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

import scenes
import scenes.base_model
import utils
from scenes import features, files, grid_search, heads, photos

BATCH_SIZE, FOLDS, SEEDS = 128, 5, range(3)


def suspects_of(X: np.ndarray, y: np.ndarray, groups: pd.Series, setting: dict) -> np.ndarray:
    """Return the class that each photo should perhaps be, -1 where none is, out of fold."""
    chances = np.zeros((len(y), y.max() + 1), "float32")
    for rest, fold in grid_search.make_folds(y, groups, folds=FOLDS, seed=0):
        head, _ = heads.train_head(X[rest], y[rest], **setting)
        chances[fold] = head.predict(X[fold], verbose=0)
    return utils.find_suspects(chances, y)


def clean() -> None:
    """Train on labels cleaned in some ways, and compare on the same validation photos."""
    tf.config.experimental.enable_op_determinism()
    images, X = features.load_bundled_features()
    images = utils.create_validation(utils.drop_leaks(images))
    X = X[images.index]
    y = images["label"].cat.codes.to_numpy()
    train, held_out = ((images["split"] == name).to_numpy() for name in ("train", "validation"))
    best = utils.best_hyperparameters(files.read_csv(ROOT / "grid_search.csv"))
    setting = {name: best[name] for name in scenes.HYPERPARAMETERS}
    setting |= {"epochs": best["epoch"], "batch_size": BATCH_SIZE}
    found = suspects_of(X[train], y[train], images["digest"][train], setting)
    doubted, every = found >= 0, np.ones(train.sum(), bool)
    labels = np.eye(y.max() + 1, dtype="float32")[y[train]]
    swapped = np.where(doubted[:, None], np.eye(y.max() + 1, dtype="float32")[found], labels)
    others = every.copy()
    others[np.random.default_rng(0).choice(len(every), doubted.sum(), replace=False)] = False
    ways = {
        "all photos": (every, labels),
        "suspects left out": (~doubted, labels),
        "suspects half and half": (every, (labels + swapped) / 2),
        "suspects relabelled": (every, swapped),
        "as many others left out": (others, labels),
    }
    rows = []
    for name, (kept, targets) in ways.items():
        for seed in SEEDS:
            chances = train_on_shares(X[train][kept], targets[kept], best, seed, X[held_out])
            of_label = chances[np.arange(held_out.sum()), y[held_out]]
            right = np.mean(chances.argmax(axis=1) == y[held_out])
            rows.append([name, kept.sum(), seed, right, -np.log(of_label.clip(1e-7)).mean()])
    columns = ["labels", "photos", "seed", "val_accuracy", "val_loss"]
    files.write_csv(pd.DataFrame(rows, columns=columns), ROOT / "results" / "label_cleaning.csv")


def train_on_shares(
    X: np.ndarray, shares: np.ndarray, best: dict, seed: int, held_out: np.ndarray
) -> np.ndarray:
    """Train a head as `train_head` does, on labels that are shares; return what it predicts."""
    keras.utils.set_random_seed(seed)
    penalty = {"dropout": best["dropout"], "weight_decay": best["weight_decay"]}
    head = heads.build_head(scenes.base_model.N_FEATURES, shares.shape[1], **penalty)
    head.compile(
        keras.optimizers.Adam(best["learning_rate"]),
        loss="categorical_crossentropy",
        steps_per_execution=64,
        jit_compile=False,
    )
    head.fit(X, shares, batch_size=BATCH_SIZE, epochs=best["epoch"], verbose=0)
    return head.predict(held_out, verbose=0)


def sheets(folder: str, size: int = 256) -> None:
    """Draw the photos of the reading, 16 a sheet, with running numbers and no labels."""
    source = Path(os.environ["INTEL_PHOTOS"])
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = files.read_csv(ROOT / "results" / "label_reading.csv")["path"]
    font = ImageFont.load_default(22)
    for start in range(0, len(paths), 16):
        sheet = Image.new("RGB", (4 * (size + 6), 4 * (size + 32)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, path in enumerate(paths[start : start + 16]):
            left, top = (place % 4) * (size + 6), (place // 4) * (size + 32)
            photo = Image.fromarray(photos.read_photo(source / path)).resize((size, size))
            sheet.paste(photo, (left, top + 28))
            draw.text((left + 4, top + 2), str(start + place + 1), fill="black", font=font)
        sheet.save(Path(folder, f"sheet_{start // 16 + 1:02}.png"))


if __name__ == "__main__":
    {"clean": clean, "sheets": sheets}[sys.argv[1]](*sys.argv[2:])
