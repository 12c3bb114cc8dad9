"""
The store gives back what was kept, whole or not at all, and leaves other files alone.
"""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import scenes.files
from scenes.store import Store

KIND, MADE_OF, OTHER = "features", "0123456789abcdef", "fedcba9876543210"
SCHEMA = {"rows": (np.float32, ("n", 2)), "names": ("U", ("n",))}
ARRAYS = {
    "rows": np.arange(6, dtype="float32").reshape(3, 2),
    "names": np.array(["a", "é", "c"]),
}
BLOCKS = np.arange(60, dtype="<f2").reshape(5, 3, 4)


@pytest.fixture
def cached(tmp_path):
    return Store(tmp_path / "cache")


def put_blocks(cached: Store, made_of: str = MADE_OF, kind: str = "maps"):
    blocks = (BLOCKS[start : start + 2] for start in (0, 2, 4))
    return cached.put_blocks(kind, made_of, BLOCKS.shape, "<f2", blocks)


def names(cached: Store) -> list[str]:
    """Return the names of all files but those of locks."""
    paths = cached.folder.iterdir()
    return sorted(path.name for path in paths if path.suffix != ".lock")


def path_of(cached: Store, name: str = f"{KIND}-{MADE_OF}.npz") -> Path:
    return cached.folder / name


# --- Entries and their parts ----------------------------------------------------------


def test_an_entry_is_there_whole_under_its_kind_fingerprint_and_part(cached):
    """Also under a name that begins as another's."""
    places = [
        (KIND, MADE_OF, ""),
        (KIND, OTHER, ""),
        (KIND, MADE_OF, "a"),
        (KIND, MADE_OF, "c"),
        (KIND, MADE_OF, "b"),
        (f"{KIND}-more", MADE_OF, ""),
    ]
    for number, (kind, made_of, part) in enumerate(places):
        assert cached.get(kind, made_of, SCHEMA, part) is None
        arrays = ARRAYS | {"rows": ARRAYS["rows"] + number}
        cached.put(kind, made_of, arrays, part)
    for number, (kind, made_of, part) in enumerate(places):
        found = cached.get(kind, made_of, SCHEMA, part)
        assert set(found) == set(SCHEMA)
        np.testing.assert_array_equal(found["rows"], ARRAYS["rows"] + number)
        assert found["names"].tolist() == ARRAYS["names"].tolist()
    assert cached.parts(KIND, MADE_OF) == ["a", "b", "c"]
    assert cached.parts(KIND, OTHER) == cached.parts("none", MADE_OF) == []
    cached.put(KIND, MADE_OF, ARRAYS | {"rows": ARRAYS["rows"][:0], "names": [""][:0]})
    cached.drop(KIND, MADE_OF)
    assert names(cached) == [f"{KIND}-{OTHER}.npz", f"{KIND}-more-{MADE_OF}.npz"]


def flip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("rows.npy").header_offset + 170
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


HARMS = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "a changed byte": flip,
    "another shape": lambda path: Store(path.parent).put(
        KIND, MADE_OF, ARRAYS | {"names": np.array(["a"])}
    ),
    "another type": lambda path: Store(path.parent).put(
        KIND, MADE_OF, ARRAYS | {"rows": np.zeros((3, 2))}
    ),
    "an array missing": lambda path: Store(path.parent).put(
        KIND, MADE_OF, {"rows": ARRAYS["rows"]}
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_entry_is_missing_with_a_word_and_replaced(cached, harm, capsys):
    cached.put(KIND, MADE_OF, ARRAYS)
    HARMS[harm](path_of(cached))
    assert cached.get(KIND, MADE_OF, SCHEMA) is None
    said = capsys.readouterr().out
    assert said.startswith(f"This is computed again: {path_of(cached)} cannot be read")
    assert said.count("\n") == 1
    cached.put(KIND, MADE_OF, ARRAYS)
    assert cached.get(KIND, MADE_OF, SCHEMA) is not None
    assert capsys.readouterr().out == ""


def test_what_vanishes_between_two_calls_is_missing_and_stops_nothing(
    cached, monkeypatch, capsys
):
    """Another run drops it after this one has seen it."""
    cached.put(KIND, MADE_OF, ARRAYS)
    put_blocks(cached)
    begins_with, glob = scenes.files.begins_with, Path.glob

    def see_and_drop(path, *parts):
        seen = begins_with(path, *parts)
        path.unlink(missing_ok=True)
        return seen

    def find_and_drop(folder, pattern):
        for path in list(glob(folder, pattern)):
            path.unlink()
            yield path

    monkeypatch.setattr(scenes.files, "begins_with", see_and_drop)
    assert cached.get(KIND, MADE_OF, SCHEMA) is None
    assert cached.map("maps", MADE_OF) is None
    assert names(cached) == []
    monkeypatch.setattr(scenes.files, "begins_with", begins_with)
    cached.put(KIND, MADE_OF, ARRAYS)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", find_and_drop)
        cached.prune(KIND, keep=0)
    assert capsys.readouterr().out == ""


def test_a_failed_put_leaves_what_was_there(cached, monkeypatch):
    cached.put(KIND, MADE_OF, ARRAYS)

    def fail(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match=f"cannot write {path_of(cached)} .No space"):
            cached.put(KIND, MADE_OF, {"rows": ARRAYS["rows"][:1]})
    assert names(cached) == [path_of(cached).name]
    assert len(cached.get(KIND, MADE_OF, SCHEMA)["rows"]) == 3


# --- Arrays in blocks, mapped from disk -----------------------------------------------


def test_blocks_are_mapped_from_disk_and_others_of_the_kind_deleted(cached):
    assert cached.map("maps", MADE_OF) is None
    put_blocks(cached, OTHER)
    cached.put("maps", MADE_OF, ARRAYS)
    put_blocks(cached, OTHER, "other-maps")
    written = put_blocks(cached)
    found = cached.map("maps", MADE_OF)
    for array in (written, found):
        assert isinstance(array, np.memmap)
        assert array.dtype == BLOCKS.dtype
        np.testing.assert_array_equal(array, BLOCKS)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert cached.map("maps", OTHER) is None
    assert cached.map("other-maps", OTHER) is not None
    assert len(names(cached)) == 3


@pytest.mark.parametrize("harm", ["cut off", "a changed byte", "empty"])
def test_a_damaged_array_is_missing(cached, harm):
    put_blocks(cached)
    (path,) = cached.folder.glob("maps-*.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    bad = {"cut off": content[:-20], "a changed byte": content, "empty": b""}
    path.write_bytes(bad[harm])
    assert cached.map("maps", MADE_OF) is None
    np.testing.assert_array_equal(put_blocks(cached), BLOCKS)


def test_a_drive_that_cannot_map_memory_is_read(cached, monkeypatch):
    load = np.load

    def refuse(path, mmap_mode=None):
        if mmap_mode:
            raise OSError(errno.ENODEV, "No such device")
        return load(path)

    monkeypatch.setattr(np, "load", refuse)
    for array in (put_blocks(cached), cached.map("maps", MADE_OF)):
        assert not isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, BLOCKS)


def test_a_disk_without_room_is_told_before_any_block_is_made(cached, monkeypatch):
    put_blocks(cached, OTHER)
    size = BLOCKS.nbytes
    usage = shutil.disk_usage(cached.folder)

    def never():
        raise AssertionError("a block is made")
        yield

    full = usage._replace(free=size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="has no room for maps of 0 MB: make") as caught:
        cached.put_blocks("maps", MADE_OF, BLOCKS.shape, "<f2", never())
    assert caught.value.errno == errno.ENOSPC
    assert cached.map("maps", OTHER) is not None
    full = usage._replace(free=size)
    np.testing.assert_array_equal(put_blocks(cached), BLOCKS)


def test_interrupted_blocks_are_left_nowhere_and_a_killed_runs_go_with_the_lock(cached):
    def stop():
        yield BLOCKS[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached.put_blocks("maps", MADE_OF, BLOCKS.shape, "<f2", stop())
    assert names(cached) == []

    def see():
        (left,) = names(cached)
        path_of(cached, f"{left[:-4]}0{left[-4:]}").touch()  # of another process
        yield BLOCKS

    cached.put_blocks("maps", MADE_OF, BLOCKS.shape, "<f2", see())
    assert len(names(cached)) == 2
    with cached.lock("maps", OTHER):
        assert len(names(cached)) == 2
    with cached.lock("maps", MADE_OF):
        assert len(names(cached)) == 1


# --- What to keep ---------------------------------------------------------------------


def test_the_oldest_entries_go_but_for_those_in_use(cached):
    """By age, not by name; parts and other kinds stay."""
    ages = {f"{number:016x}": age for number, age in enumerate([5, 1, 4, 2, 3])}
    for made_of, age in ages.items():
        cached.put(KIND, made_of, ARRAYS)
        os.utime(path_of(cached, f"{KIND}-{made_of}.npz"), (age, age))
    cached.put(KIND, OTHER, ARRAYS, "part")
    cached.put(f"{KIND}-more", OTHER, ARRAYS)
    others = [f"{KIND}-{OTHER}-part.npz", f"{KIND}-more-{OTHER}.npz"]
    oldest_first = [f"{KIND}-{made_of}.npz" for made_of in sorted(ages, key=ages.get)]
    cached.prune(KIND, keep=5)
    cached.prune(KIND, keep=7)
    assert names(cached) == sorted(oldest_first + others)
    with cached.lock(KIND, f"{1:016x}"):
        cached.prune(KIND, keep=3)
    assert names(cached) == sorted([oldest_first[0], *oldest_first[2:], *others])
    cached.prune(KIND, keep=1)
    assert names(cached) == sorted([oldest_first[-1], *others])


def test_an_entry_is_locked_for_one_run_at_a_time(cached, monkeypatch):
    monkeypatch.setattr(scenes.files, "WAIT", 0)
    with cached.lock(KIND, MADE_OF):
        with (
            pytest.raises(RuntimeError, match=f"another run is writing .*{MADE_OF}"),
            cached.lock(KIND, MADE_OF),
        ):
            pass
        with cached.lock(KIND, OTHER), cached.lock("maps", MADE_OF):
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
def test_a_users_own_file_is_never_read_replaced_or_deleted(cached, what, capsys):
    """Under any name: also under that of an entry, a part or a mapped array."""
    mapped = put_blocks(cached)
    (path,) = cached.folder.glob("maps-*.npy")
    path.unlink()
    taken = [f"{KIND}-{MADE_OF}.npz", f"{KIND}-{MADE_OF}-part.npz"]
    if what in ("a letter", "an empty file", "a folder"):  # no arrays, by their form
        taken.append(path.name)
    mine = ["features.npz", f"{KIND}-mine.npz", f"{KIND}-{OTHER}.npz", *taken]
    for name in mine:
        FOREIGN[what](path_of(cached, name))
    before = [path_of(cached, name).stat() for name in sorted(mine)]
    assert cached.get(KIND, MADE_OF, SCHEMA) is None
    assert cached.get(KIND, MADE_OF, SCHEMA, "part") is None
    assert cached.map("maps", MADE_OF) is None
    assert capsys.readouterr().out == ""
    for part in ("", "part"):
        cached.put(KIND, MADE_OF, ARRAYS, part)
    if path.name in taken:
        np.testing.assert_array_equal(put_blocks(cached), mapped)
    told = capsys.readouterr().out.splitlines()
    stays = "was not written by this project: it stays, and nothing is kept."
    assert told == [f"{path_of(cached, name)} {stays}" for name in taken]
    cached.drop(KIND, MADE_OF)
    cached.prune(KIND, keep=0)
    assert names(cached) == sorted(mine)
    after = [path_of(cached, name).stat() for name in sorted(mine)]
    for one, other in zip(before, after, strict=True):
        assert (one.st_ino, one.st_mtime_ns) == (other.st_ino, other.st_mtime_ns)
