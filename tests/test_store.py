"""
The store gives back what was kept, whole or not at all, and leaves other files alone.
"""

import errno
import os
import shutil
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import flip
from numpy.testing import assert_array_equal

from scenes import files, store
from scenes.store import Entry

KIND, MADE_OF, OTHER = "features", "0123456789abcdef", "fedcba9876543210"
SCHEMA = {"rows": (np.float32, ("n", 2)), "names": ("U", ("n",))}
ARRAYS = {
    "rows": np.arange(6, dtype="float32").reshape(3, 2),
    "names": np.array(["a", "é", "c"]),
}
BLOCKS = np.arange(60, dtype="<f2").reshape(5, 3, 4)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def entry(cache):
    return Entry(cache, KIND, MADE_OF)


@pytest.fixture
def maps(cache):
    return Entry(cache, "maps", MADE_OF)


def put_blocks(entry: Entry):
    blocks = (BLOCKS[start : start + 2] for start in (0, 2, 4))
    return entry.put_blocks(BLOCKS.shape, "<f2", blocks)


def names(cache: Path) -> list[str]:
    """Return the names of all files but those of locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def path_of(entry: Entry) -> Path:
    return entry.folder / f"{KIND}-{MADE_OF}.npz"


# --- Entries and their parts ----------------------------------------------------------


def test_an_entry_is_there_whole_under_its_kind_fingerprint_and_part(cache):
    """Also under a name that begins as another's."""
    entry, other = Entry(cache, KIND, MADE_OF), Entry(cache, KIND, OTHER)
    more = Entry(cache, f"{KIND}-more", MADE_OF)
    places = [(entry, ""), (other, ""), *((entry, part) for part in "acb"), (more, "")]
    for number, (one, part) in enumerate(places):
        assert one.get(SCHEMA, part) is None
        one.put(ARRAYS | {"rows": ARRAYS["rows"] + number}, part)
    for number, (one, part) in enumerate(places):
        found = one.get(SCHEMA, part)
        assert set(found) == set(SCHEMA)
        assert_array_equal(found["rows"], ARRAYS["rows"] + number)
        assert found["names"].tolist() == ARRAYS["names"].tolist()
    assert entry.parts() == ["a", "b", "c"]
    assert other.parts() == Entry(cache, "none", MADE_OF).parts() == []
    entry.put(ARRAYS | {"rows": ARRAYS["rows"][:0], "names": [""][:0]})
    entry.drop()
    assert names(cache) == [f"{KIND}-{OTHER}.npz", f"{KIND}-more-{MADE_OF}.npz"]


def flip_in_rows(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        flip(path, archive.getinfo("rows.npy").header_offset + 170)


def put(path: Path, arrays: dict) -> None:
    Entry(path.parent, KIND, MADE_OF).put(arrays)


HARMS = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "a changed byte": flip_in_rows,
    "another shape": lambda path: put(path, ARRAYS | {"names": np.array(["a"])}),
    "another type": lambda path: put(path, ARRAYS | {"rows": np.zeros((3, 2))}),
    "an array missing": lambda path: put(path, {"rows": ARRAYS["rows"]}),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_entry_is_missing_with_a_word_and_replaced(entry, harm, printed):
    entry.put(ARRAYS)
    HARMS[harm](path_of(entry))
    assert entry.get(SCHEMA) is None
    said = printed()
    assert said.startswith(f"This is computed again: {path_of(entry)} cannot be read")
    assert said.count("\n") == 1
    entry.put(ARRAYS)
    assert entry.get(SCHEMA) is not None
    assert printed() == ""


def test_what_vanishes_between_two_calls_is_missing_and_stops_nothing(
    entry, maps, cache, monkeypatch, printed
):
    """Another run drops it after this one has seen it."""
    entry.put(ARRAYS)
    put_blocks(maps)
    begins_with, glob = files.begins_with, Path.glob

    def see_and_drop(path, *parts):
        seen = begins_with(path, *parts)
        path.unlink(missing_ok=True)
        return seen

    def find_and_drop(folder, pattern):
        for path in list(glob(folder, pattern)):
            path.unlink()
            yield path

    monkeypatch.setattr(files, "begins_with", see_and_drop)
    assert entry.get(SCHEMA) is None
    assert maps.map() is None
    assert names(cache) == []
    monkeypatch.setattr(files, "begins_with", begins_with)
    entry.put(ARRAYS)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", find_and_drop)
        store.prune(cache, KIND, keep=0)
    assert printed() == ""


def test_a_failed_put_leaves_what_was_there(entry, cache, monkeypatch):
    entry.put(ARRAYS)

    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=f"cannot write {path_of(entry)} .No space"):
            entry.put({"rows": ARRAYS["rows"][:1]})
    assert names(cache) == [path_of(entry).name]
    assert len(entry.get(SCHEMA)["rows"]) == 3


# --- Arrays in blocks, mapped from disk -----------------------------------------------


def test_blocks_are_mapped_from_disk_and_others_of_the_kind_deleted(maps, cache):
    assert maps.map() is None
    other, more = Entry(cache, "maps", OTHER), Entry(cache, "other-maps", OTHER)
    put_blocks(other)
    maps.put(ARRAYS)
    put_blocks(more)
    written = put_blocks(maps)
    found = maps.map()
    for array in (written, found):
        assert isinstance(array, np.memmap)
        assert array.dtype == BLOCKS.dtype
        assert_array_equal(array, BLOCKS)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert other.map() is None
    assert more.map() is not None
    assert len(names(cache)) == 3


@pytest.mark.parametrize("harm", ["cut off", "a changed byte", "empty"])
def test_a_damaged_array_is_missing(maps, cache, harm):
    put_blocks(maps)
    (path,) = cache.glob("maps-*.npy")
    flip(path, -1)
    bad = path.read_bytes()
    path.write_bytes({"cut off": bad[:-20], "a changed byte": bad, "empty": b""}[harm])
    assert maps.map() is None
    assert_array_equal(put_blocks(maps), BLOCKS)


def test_a_photo_that_cannot_be_read_meanwhile_is_no_file_that_cannot_be_written(maps):
    def blocks():
        yield BLOCKS[:2]
        raise files.NotReadError("a.jpg cannot be read at the moment")

    with pytest.raises(OSError, match=r"^a\.jpg cannot be read"):
        maps.put_blocks(BLOCKS.shape, "<f2", blocks())


def test_a_drive_that_cannot_map_memory_is_read(maps, monkeypatch):
    load = np.load

    def refuse(path, mmap_mode=None):
        if mmap_mode:
            raise OSError(errno.ENODEV, "No such device")
        return load(path)

    monkeypatch.setattr(np, "load", refuse)
    for array in (put_blocks(maps), maps.map()):
        assert not isinstance(array, np.memmap)
        assert_array_equal(array, BLOCKS)


def test_a_disk_without_room_is_told_before_any_block_is_made(maps, cache, monkeypatch):
    other = Entry(cache, "maps", OTHER)
    put_blocks(other)
    size = BLOCKS.nbytes
    usage = shutil.disk_usage(cache)

    def never():
        raise AssertionError("a block is made")
        yield

    full = usage._replace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="has no room for maps of 0 MB: make") as caught:
        maps.put_blocks(BLOCKS.shape, "<f2", never())
    assert caught.value.errno == errno.ENOSPC
    assert other.map() is not None
    full = usage._replace(free=size)
    assert_array_equal(put_blocks(maps), BLOCKS)


def test_interrupted_blocks_are_left_nowhere_and_a_killed_runs_go_with_the_lock(
    maps, cache
):
    def stop():
        yield BLOCKS[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maps.put_blocks(BLOCKS.shape, "<f2", stop())
    assert names(cache) == []

    def see():
        (left,) = names(cache)
        (cache / f"{left[:-4]}0{left[-4:]}").touch()  # of another process
        yield BLOCKS

    maps.put_blocks(BLOCKS.shape, "<f2", see())
    assert len(names(cache)) == 2
    with Entry(cache, "maps", OTHER).lock():
        assert len(names(cache)) == 2
    with maps.lock():
        assert len(names(cache)) == 1


# --- What to keep ---------------------------------------------------------------------


def test_the_oldest_entries_go_but_for_those_in_use(cache):
    """By age, not by name; parts and other kinds stay."""
    ages = {f"{number:016x}": age for number, age in enumerate([5, 1, 4, 2, 3])}
    for made_of, age in ages.items():
        Entry(cache, KIND, made_of).put(ARRAYS)
        os.utime(cache / f"{KIND}-{made_of}.npz", (age, age))
    Entry(cache, KIND, OTHER).put(ARRAYS, "part")
    Entry(cache, f"{KIND}-more", OTHER).put(ARRAYS)
    others = [f"{KIND}-{OTHER}-part.npz", f"{KIND}-more-{OTHER}.npz"]
    oldest_first = [f"{KIND}-{made_of}.npz" for made_of in sorted(ages, key=ages.get)]
    store.prune(cache, KIND, keep=5)
    store.prune(cache, KIND, keep=7)
    assert names(cache) == sorted(oldest_first + others)
    with Entry(cache, KIND, f"{1:016x}").lock():
        store.prune(cache, KIND, keep=3)
    assert names(cache) == sorted([oldest_first[0], *oldest_first[2:], *others])
    store.prune(cache, KIND, keep=1)
    assert names(cache) == sorted([oldest_first[-1], *others])


def test_an_entry_is_locked_for_one_run_at_a_time(entry, maps, cache, monkeypatch):
    monkeypatch.setattr(files, "WAIT", 0)
    with entry.lock():
        with (
            pytest.raises(RuntimeError, match=f"another run is writing .*{MADE_OF}"),
            entry.lock(),
        ):
            pass
        with Entry(cache, KIND, OTHER).lock(), maps.lock():
            pass


# --- Files that are no entries --------------------------------------------------------


def write_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, format=np.array(3), classes=np.array(["a"]), **ARRAYS)


FOREIGN = {
    "a letter": lambda path: path.write_text("Dear diary"),
    "arrays": write_arrays,
    "the bundled features": lambda path: shutil.copy("features.npz", path),
    "an empty file": Path.touch,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_users_own_file_is_never_read_replaced_or_deleted(
    entry, maps, cache, what, printed
):
    """Under any name: also under that of an entry, a part or a mapped array."""
    mapped = put_blocks(maps)
    (path,) = cache.glob("maps-*.npy")
    path.unlink()
    taken = [f"{KIND}-{MADE_OF}.npz", f"{KIND}-{MADE_OF}-part.npz"]
    if what in ("a letter", "an empty file", "a folder"):  # no arrays, by their form
        taken.append(path.name)
    mine = ["features.npz", f"{KIND}-mine.npz", f"{KIND}-{OTHER}.npz", *taken]
    for name in mine:
        FOREIGN[what](cache / name)
    before = [(cache / name).stat() for name in sorted(mine)]
    assert entry.get(SCHEMA) is None
    assert entry.get(SCHEMA, "part") is None
    assert maps.map() is None
    assert printed() == ""
    for part in ("", "part"):
        entry.put(ARRAYS, part)
    if path.name in taken:
        assert_array_equal(put_blocks(maps), mapped)
    told = printed().splitlines()
    stays = "was not written by this project: it stays, and nothing is kept."
    assert told == [f"{cache / name} {stays}" for name in taken]
    entry.drop()
    store.prune(cache, KIND, keep=0)
    assert names(cache) == sorted(mine)
    after = [(cache / name).stat() for name in sorted(mine)]
    for one, other in zip(before, after, strict=True):
        assert (one.st_ino, one.st_mtime_ns) == (other.st_ino, other.st_mtime_ns)
