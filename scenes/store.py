"""
The store: what was computed before, under a fingerprint, in the cache.

An entry is a file of arrays, or several that are its parts, called after its kind and
the fingerprint of all that it depends on. A file is whole or not there; one that
vanishes or is damaged is missing. Knows nothing of what the arrays mean.
"""

import contextlib
import errno
import math
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scenes import files

_FIRST = "scenes_store"  # the first array of each file: ours by form, not by name
_MARK = _FIRST.encode()
_MAPPED = b"NUMPY"  # the first bytes of a file of one array
_HEX = "[0-9a-f]" * 16  # a fingerprint in the name of a file
Arrays = dict[str, np.ndarray]


class Entry:
    """
    One entry of the cache, which need not be there yet.

    Parameters
    ----------
    folder : path
        The cache. Files in it that are no entries are never read, replaced or deleted.
    kind : str
        What is kept, as 'features': letters and hyphens.
    fingerprint : str
        16 hexadecimal digits, of `files.fingerprint`.
    """

    def __init__(self, folder: str | Path, kind: str, fingerprint: str):
        self.folder = Path(folder)
        self.kind = kind
        self._name = f"{kind}-{fingerprint}"

    def get(self, schema: files.Schema, part: str = "") -> Arrays | None:
        """
        Return the arrays, or None if they are missing.

        Parameters
        ----------
        schema : dict
            Type and shape of each array, as for `files.read_arrays`.
        part : str
            The name of a part of the entry.

        Notes
        -----
        A line says if a file is damaged, and it is computed again.
        """
        path = self._path(part)
        try:
            if files.begins_with(path, _MARK):
                return files.read_arrays(path, schema)
        except FileNotFoundError:  # another run has dropped it
            return None
        except ValueError as error:
            print(f"This is computed again: {error}")
        return None

    def put(self, arrays: Arrays, part: str = "") -> None:
        """
        Return nothing; keep arrays as the entry or a part of it, replaced as a whole.

        A file of this name that is not ours stays, and a line says so.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(part)
        if _is_taken(path, _MARK):
            return
        files.write_arrays(path, {_FIRST: np.array(self.kind), **arrays})

    def map(self) -> np.ndarray | None:
        """
        Return an array of `put_blocks`, mapped from disk, or None if it is missing.

        It is read into memory where a disk cannot map it. The name of its file holds a
        hash of its content, so that a damaged one counts as missing.
        """
        for path in _mapped(self.folder, self._name):
            with contextlib.suppress(FileNotFoundError):  # another run has dropped it
                content = files.file_digest(path)
                if path.stem.endswith(content):
                    return _load(path)
        return None

    def put_blocks(
        self, shape: tuple[int, ...], dtype: str, blocks: Iterable[np.ndarray]
    ) -> np.ndarray:
        """
        Keep an array that may be larger than memory, and return it as `map` does.

        Other such arrays of this kind are deleted: they are large.

        Parameters
        ----------
        shape : tuple of int
        dtype : str
            Of NumPy, as '<f2'.
        blocks : iterable of ndarray
            The array in pieces, along its first axis.

        Raises
        ------
        OSError
            The disk has no room for it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        itemsize = np.dtype(dtype).itemsize
        size = itemsize * math.prod(shape)
        if size > shutil.disk_usage(self.folder).free:
            what = (
                f"{self.folder} has no room for {self.kind} of {size / 2**20:,.0f} MB"
            )
            raise OSError(errno.ENOSPC, f"{what}: make room, or choose another cache")
        for path in _mapped(self.folder, f"{self.kind}-{_HEX}"):
            path.unlink(missing_ok=True)
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        # Under the entry's name: to lock it deletes what a killed process has left.
        with files.unfinished(self._path()) as beside:
            with open(beside, "wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for block in blocks:
                    file.write(np.ascontiguousarray(block, dtype))
            content = files.file_digest(beside)
            path = self.folder / f"{self._name}-{content}.npy"
            if _is_taken(path, _MAPPED):
                return np.load(beside)
            files.move(beside, path)
        return _load(path)

    def parts(self) -> list[str]:
        """Return the names of the parts that are there, sorted."""
        start = f"{self._name}-"
        paths = self.folder.glob(f"{start}*.npz")
        return sorted(path.stem.removeprefix(start) for path in paths)

    def drop(self) -> None:
        """Delete the entry and its parts, and what a killed run left unfinished."""
        for path in self.folder.glob(f"{self._name}*.npz"):
            _delete(path)
        for path in self.folder.glob(f".{self._name}*.unfinished-*.npz"):
            path.unlink(missing_ok=True)

    def lock(self) -> contextlib.AbstractContextManager:
        """Return a context in which no other run writes this entry."""
        return files.locked(self._path())

    def _path(self, part=""):
        name = f"{self._name}-{part}" if part else self._name
        return self.folder / f"{name}.npz"


def prune(folder: str | Path, kind: str, keep: int, *, hours: float = 0) -> None:
    """
    Delete the oldest entries of a kind, until so many are left.

    One that a run has locked stays, and one that was written in the last hours.
    """
    newest = time.time_ns() - hours * 3600 * 10**9
    ages = {}
    for path in Path(folder).glob(f"{kind}-{_HEX}.npz"):
        with contextlib.suppress(FileNotFoundError):  # another run drops it
            ages[path] = path.stat().st_mtime_ns
    newest_first = sorted(ages, key=ages.get, reverse=True)
    for path in newest_first[keep:]:
        if ages[path] <= newest and not files.is_locked(path):
            _delete(path)


def _mapped(folder, name):
    """Return the files of `put_blocks` under a name."""
    found = folder.glob(f"{name}-{_HEX}.npy")
    return [path for path in found if files.begins_with(path, _MAPPED)]


def _delete(path):
    if files.begins_with(path, _MARK):
        path.unlink(missing_ok=True)


def _is_taken(path, mark):
    """Return whether a file that is not ours has this name, and say so."""
    is_taken = path.exists() and not files.begins_with(path, mark)
    if is_taken:
        print(f"{path} was not written by this project: it stays, and nothing is kept.")
    return is_taken


def _load(path):
    try:
        return np.load(path, mmap_mode="r")
    except OSError:  # as of a drive that cannot map memory
        return np.load(path)
