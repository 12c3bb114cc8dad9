"""
Files: whole or not there.

A file is written beside its final name and put in its place at the end; what is read is
checked, and no code in it is run. Knows nothing of photos.
"""

import errno
import hashlib
import io
import itertools
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

WAIT = 60  # seconds for which a second run waits for the first
# What `unfinished` calls a file.
_UNFINISHED = re.compile(r"\.(.+)\.unfinished-\d+(\.[^.]*)?")
# Of some network drives.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Of arrays, by name: type and shape, see `read_arrays`.
Schema = dict[str, tuple[object, tuple]]


def digest(*parts: bytes | np.ndarray, size: int = 16) -> str:
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def fingerprint(*parts: object) -> str:
    """
    Return 16 hexadecimal digits that say what something is made of.

    Parts are lists, dicts, text, numbers, paths, arrays and tables. Equal values give
    equal digits in each process, Python, NumPy and pandas: nothing is pickled, and a
    tuple is a list, a number of NumPy a number. The type of an array's numbers counts.
    """
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return digest(text.encode(), size=8)


def _plain(part):
    """Return what JSON can hold of a part that it does not know."""
    if isinstance(part, pd.DataFrame):
        return part.to_csv(index=False, lineterminator="\n")
    if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
        return [part.dtype.str, part.shape, digest(part.ravel())]
    if hasattr(part, "tolist"):  # of NumPy and pandas
        return part.tolist()
    return os.fspath(part)  # which raises a TypeError if it is no path


class NotReadError(OSError):
    """A file that cannot be read at the moment, which the message says."""


@contextmanager
def _writing(path):
    """Say of an OSError inside which file could not be written."""
    try:
        yield
    except NotReadError:  # what is written may be computed meanwhile, from photos
        raise
    except OSError as error:
        reason = error.strerror or error
        what = f"cannot write {path} ({reason}); make room or choose another folder"
        raise OSError(error.errno or errno.EIO, what) from error


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """
    Give a path beside `path` to write to, which is gone at the end unless it was moved.
    """
    # Of this process alone, and of at most 255 bytes. The suffix stays, since Keras and
    # plotly choose the format by it.
    name = f".{path.stem[:50]}.unfinished-{os.getpid()}{path.suffix}"
    beside = path.with_name(name)
    with _writing(path):
        try:
            yield beside
        finally:
            beside.unlink(missing_ok=True)


def move(beside: Path, path: Path) -> None:
    """Put a finished file in `path`'s place, after its content has reached the disk."""
    _flush(beside, os.O_RDWR)
    os.replace(beside, path)
    with suppress(OSError):  # Windows opens no folder; some disks flush none
        _flush(path.parent, os.O_RDONLY)


def _flush(path, flags):
    """Let the disk write what a file or folder holds, whoever wrote it."""
    number = os.open(path, flags)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """
    Give a path beside `path` to write to, and put it in `path`'s place at the end.
    """
    path = Path(path)
    with unfinished(path) as beside:
        yield beside
        move(beside, path)


def write_arrays(
    path: str | Path, arrays: dict[str, np.ndarray], *, compressed: bool = False
) -> None:
    save = np.savez_compressed if compressed else np.savez
    with replacing(path) as beside:
        save(beside, **arrays)


def begins_with(path: Path, mark: bytes) -> bool:
    """
    Return whether the first 1024 bytes of a file hold a mark: a form of our own files.
    """
    with suppress(OSError), open(path, "rb") as file:
        return mark in file.read(1024)
    return False


def check_zip(path: str | Path) -> None:
    """Raise an error if the checksums of a zip file find changed bytes."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} is damaged")


def read_arrays(path: str | Path, schema: Schema) -> dict[str, np.ndarray]:
    """
    Read arrays from an .npz file and check them; no code in it is run.

    Parameters
    ----------
    path : path
    schema : dict
        For each array that must be there, its type and its shape. The type is one of
        NumPy, or a letter for a kind: 'U' for text, 'i' for any whole numbers. A shape
        holds lengths; a letter in place of one stands for any length, the same wherever
        it occurs.

    Returns
    -------
    dict
        The arrays of `schema`; others in the file are ignored.

    Raises
    ------
    ValueError
        The file is damaged, or an array is missing or another than it must be.
    """
    try:
        check_zip(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in schema}
        _check_arrays(arrays, schema)
        return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen for damaged bytes
        what = f"{path} cannot be read: {error}"
        raise ValueError(f"{what}. Delete it or fetch it again") from error


def _check_arrays(arrays, schema):
    """Raise an error that names the first array that is not what it must be."""
    lengths = {}  # of the axes that share a letter
    for name, (kind, shape) in schema.items():
        array = arrays[name]
        for axis, length in zip(shape, array.shape, strict=False):
            if isinstance(axis, str):
                lengths.setdefault(axis, length)
        expected = tuple(lengths.get(axis, axis) for axis in shape)
        is_of_kind = kind in (array.dtype.kind, array.dtype)
        if not is_of_kind or array.shape != expected:
            what = f"its array {name} is {array.dtype} {array.shape}"
            raise ValueError(f"{what}, not {kind} {shape}")


def write_csv(
    table: pd.DataFrame,
    csv: str | Path,
    *,
    encoding: str = "utf-8",
    lineterminator: str = "\n",
) -> None:
    """Return nothing; write a table with 7 digits, and replace the file as a whole."""
    with replacing(csv) as beside:
        table.to_csv(
            beside,
            index=False,
            float_format="%.7g",
            encoding=encoding,
            errors="surrogateescape",  # a file's name may hold bytes that are no text
            lineterminator=lineterminator,
        )


def write_spreadsheet(table: pd.DataFrame, csv: str | Path) -> None:
    """Return nothing; write a CSV for Excel and its like: UTF-8 with BOM, `inert`."""
    write_csv(inert(table), csv, encoding="utf-8-sig", lineterminator="\r\n")


def write_edited(table: pd.DataFrame, csv: Path) -> None:
    """
    Return nothing; write a table that people edit, `inert`, as `write_csv` does.

    If another one is there, which its owner may have edited, that is kept under another
    name, and a line says so.
    """
    with unfinished(csv) as beside:
        write_csv(inert(table), beside)
        if csv.exists() and csv.read_bytes() != beside.read_bytes():
            names = (csv.with_stem(f"{csv.stem}_{n}") for n in itertools.count(2))
            kept = next(path for path in names if not path.exists())
            csv.rename(kept)  # whole under either name, also if killed here
            print(f"Another {csv.name} was there; it is kept as {kept.name}.")
        move(beside, csv)


def inert(table: pd.DataFrame) -> pd.DataFrame:
    """
    Return a table of which a spreadsheet runs no text, nor a column's name, as formula.

    Text that begins with = + - @, a tab or a carriage return gets an apostrophe before
    it; a table without any stays as it is.
    """

    def quote(value):
        runs = isinstance(value, str) and value.startswith(tuple("=+-@\t\r"))
        return f"'{value}" if runs else value

    return table.map(quote).rename(columns=quote)


def read_csv(csv: str | Path) -> pd.DataFrame:
    """Read what `write_csv` writes; a class may be called 01 or True."""
    texts = dict.fromkeys(("path", "digest", "label"), str)
    return pd.read_csv(
        csv, dtype=texts, encoding="utf-8", encoding_errors="surrogateescape"
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Return a context in which no second run writes the same file; reading needs none.

    A run that comes second waits up to `WAIT` seconds, and says so. The lock dies with
    its process; unfinished copies of the file that a killed run left are deleted.

    Raises
    ------
    RuntimeError
        The other run writes for longer.
    OSError
        The folder cannot be made or written to.
    """
    lock = _lock(path, WAIT)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, path)
    try:
        if lock.is_locked:
            clear_unfinished(path.parent, of=path)
        yield
    finally:
        lock.release()


def _acquire(lock, path):
    """Lock a file, after some time if another run has locked it, which is said."""
    try:
        if is_locked(path):
            print(f"Another run is writing {path}; waiting up to {WAIT} s for its end.")
        lock.acquire()
    except Timeout as error:
        what = f"another run is writing {path}"
        raise RuntimeError(f"{what}; wait for its end, and run again") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(f"No file can be locked in {path.parent}: let no second run write there.")


def _lock(path, timeout):
    # Not by a file that is there: that would outlive a killed process.
    file = path.with_name(f".{path.name}.lock")
    return FileLock(file, timeout, fallback_to_soft=False)


def is_locked(path: Path) -> bool:
    """Return whether a run holds the lock of a file; no if none can be locked."""
    try:
        with _lock(path, 0):
            return False
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False


def clear_unfinished(folder: Path, *, of: Path | None = None) -> None:
    """
    Return nothing; delete what killed processes have left unfinished in a folder.

    A file goes if nothing was written to it for an hour (its process may be one of
    another machine, which is not seen from here), and at once if it is to become `of`,
    whose lock the caller holds.
    """
    for path in folder.glob(".*.unfinished-*"):
        parts = _UNFINISHED.fullmatch(path.name)
        if not parts:
            continue
        is_of = of and parts.groups("") == (of.stem[:50], of.suffix)
        with suppress(FileNotFoundError):  # another run has been faster
            age = time.time() - path.stat().st_mtime
            if is_of or age > 3600:
                path.unlink()


def file_digest(path: Path) -> str:
    """Return 16 hexadecimal digits of the content of a file."""
    with open(path, "rb") as file:
        state = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    return state.hexdigest()


def read_spreadsheet(csv: str | Path, columns: list[str]) -> pd.DataFrame:
    """
    Return these columns of a CSV as spreadsheets leave it: all cells as text.

    The file is UTF-8, or UTF-16 with a mark ("Unicode text"), with commas, semicolons
    or tabs. The names of columns may have capitals; other columns, empty rows and the
    line of Excel that names the separator are skipped.

    Raises
    ------
    KeyError, ValueError
        It is no such file.
    """
    data = Path(csv).read_bytes()
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    text = data.decode(encoding, "surrogateescape")
    text = re.sub(r"\A\s*(sep=.\s+)?", "", text)
    header, *_ = text.splitlines() or [""]
    separator = max(",;\t", key=header.count)

    def normalize(name):
        return name.strip().lower()

    names = [normalize(name.replace('"', "")) for name in header.split(separator)]
    for name in columns:
        if names.count(name) != 1:
            raise ValueError(f"it has {names.count(name)} columns {name}")
    table = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        usecols=lambda name: normalize(name) in columns,
        index_col=False,
        dtype=str,
        keep_default_na=False,
        encoding_errors="surrogateescape",
    )
    table = table.rename(columns=normalize)[columns]
    is_filled = table.map(str.strip) != ""
    return table[is_filled.any(axis=1)]


def expand_home(path: str | Path) -> Path:
    """Return a path whose `~` is the home folder, unless something is called so."""
    if os.path.lexists(path):
        return Path(path)
    return Path(os.path.expanduser(path))  # as it is if nobody knows the home folder
