"""
Compute features.npz again from the photos: `python tools/renew_features.py`.

The photos are found as the notebook finds them. Takes three minutes on two CPU cores.
Commit the file together with the results that follow from it.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scenes import base_model, dataset, features, folders


def main() -> None:
    """
    Extract the features of all labelled photos, and put the new file in the old one's
    place.
    """
    images = folders.list_images(folders.find_photos())
    images = images[images["label"].notna()].reset_index(drop=True)
    digests, thumbnails = dataset.digest_photos(images)
    images = images.join(digests)
    images["group"] = dataset.group_images(images, thumbnails)
    base = base_model.build_base_model()
    with tempfile.TemporaryDirectory() as cache:
        X = features.extract_features(images, base, cache=cache)
    features.save_features(features.BUNDLED_FEATURES, images, X, base)


if __name__ == "__main__":
    main()
