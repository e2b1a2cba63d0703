"""Folders on the Hugging Face hub: from an address to a folder on this machine, and from files to a commit. Needs the extra [hub].

    hf://owner/name[@revision]     revision: a branch, a tag or a commit; "main" where none is named

What is downloaded lies in <HF_HOME>/wfm-ar/<models|datasets>/<owner>/<name>/<commit>/<name>, whole or not at all, every file compared with
the hash that the hub lists for it. That says who stored it, not what it is: it is opened by the readers, and within the limits, of any
other folder. A commit that is here is never asked for again, and without a connection the newest one that is here is used.

No message repeats what a server or the library says: an address of a download can be a key, and a server may send back what it was sent.
"""

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from wfm_ar.data.claims import claim
from wfm_ar.data.files import as_wfm_error, fsync, sha256_of, write_atomic
from wfm_ar.data.listing import is_data
from wfm_ar.errors import BadConfig, HubError, MissingDependency, NoSpace, Note, OutputExists, WfmError
from wfm_ar.extras import how_to_install
from wfm_ar.plain_text import is_plain

MODELS, DATASETS = "models", "datasets"
MAIN = "main"
MOST_FILES, LONGEST_NAME = 100_000, 1000  # of a repository
TIMEOUT_S = 10.0  # of the first answer
TALKERS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "filelock")  # loggers of the library and of what it uses
AT_ONCE = 8  # files that are downloaded at the same time
# "hf://" as typed, "hf:/" once it has been a Path; other tools write the kind into the address
_ADDRESS = re.compile(r"hf:/{1,2}(?:(models|datasets)/)?([\w][\w.-]{0,95})/([\w][\w.-]{0,95})(?:@([\w][\w./-]{0,200}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Address:
    """A repository of the hub, at a revision."""

    kind: str  # MODELS or DATASETS
    owner: str
    name: str
    revision: str = MAIN

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision != MAIN else "")

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class _Listed:
    size: int  # bytes
    sha256: str | None  # of large files
    sha1: str | None  # git's name of the content, of the others


class _Unreachable(HubError):
    """No connection, or a hub that is not at work: what was downloaded before will do."""


def address_of(text: str | Path, kind: str) -> Address | None:
    """The address of a world (kind MODELS) or data set (DATASETS) that `text` names; None for what does not begin as one.

    Raises BadConfig for an address that cannot be one.
    """
    if not str(text).startswith("hf:/"):
        return None
    found = _ADDRESS.fullmatch(str(text))
    if not found or ".." in str(text) or found[1] not in (None, kind):
        shape = "hf://owner/name or hf://owner/name@revision"
        raise BadConfig(f"{str(text)!a:.120}: expected {shape}, of a {kind[:-1]} repository; fix: copy owner and name from its page")
    return Address(kind=kind, owner=found[2], name=found[3], revision=found[4] or MAIN)


def origin(path: str | Path) -> str:
    """The address, with its commit, that a downloaded folder came from; other paths as they are; of several joined by ":" each."""
    if os.pathsep in str(path):
        return os.pathsep.join(map(origin, str(path).split(os.pathsep)))
    parts = Path(path).parts[-6:]
    if len(parts) == 6 and parts[0] == "wfm-ar" and parts[1] in (MODELS, DATASETS) and parts[3] == parts[5] and _COMMIT.fullmatch(parts[4]):
        return str(Address(kind=parts[1], owner=parts[2], name=parts[3], revision=parts[4]))
    return str(path)


def download(address: Address, first: str = "", others: Callable[[Path], Iterable[str]] | None = None) -> Path:
    """The folder of the address's files, which are downloaded where they are not here yet.

    Args:
        first, others: where not all files are wanted: `others` names those that are, from the one that is called `first`.

    Raises:
        HubError: if the hub cannot be reached and nothing of the address is here, if there is no such repository, revision or file
            `first`, if access is refused, and if files differ from what the hub lists.
        MissingDependency, NoSpace, BadData: where the folder cannot be written.
    """
    with _library(str(address)) as library:
        return _downloaded(library, address, first, others)


def upload(address: Address, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> str:
    """Make `files` the whole content of a model repository, in one commit -> its hash. Other files of the repository go.

    A repository that is not there is made, private or public; so is a branch. Raises HubError, MissingDependency.
    """
    if _COMMIT.fullmatch(address.revision):
        raise BadConfig(f"to: got the commit {address.revision}, expected a branch or none; fix: to=hf://{address.repository}")
    with _library(str(address)) as library, _told(library, address, writes=True):
        hub, where = library.HfApi(), {"repo_id": address.repository, "repo_type": "model"}
        hub.create_repo(**where, private=private, exist_ok=True)
        if address.revision != MAIN:
            hub.create_branch(**where, branch=address.revision, exist_ok=True)
        parent, there = _listing(library, address)
        old = [name for name in there if name not in files]
        changes = [library.CommitOperationDelete(path_in_repo=name) for name in old]
        changes += [library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        made = hub.create_commit(**where, operations=changes, commit_message=message, revision=address.revision, parent_commit=parent)
        return str(made.oid) if _COMMIT.fullmatch(str(made.oid)) else MAIN


@contextmanager
def _library(where: str) -> Iterator[Any]:
    """huggingface_hub, without what it and its HTTP client log, which names addresses, and without its bars.

    Raises MissingDependency.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingDependency(f"{where}: needs the package huggingface_hub, expected it installed; fix: {how_to_install('hub')}")
    import huggingface_hub.constants
    import huggingface_hub.errors
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in TALKERS]
    before, bars = [logger.level for logger in loggers], not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if bars:
        disable_progress_bars()
    try:
        yield huggingface_hub
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        if bars:
            enable_progress_bars()


def _downloaded(library: Any, address: Address, first: str, others: Callable[[Path], Iterable[str]] | None) -> Path:
    home = Path(library.constants.HF_HOME) / "wfm-ar" / address.kind / address.owner / address.name
    if _COMMIT.fullmatch(address.revision) and (folder := home / address.revision / address.name).is_dir():
        return folder
    newest = home / "newest" / quote(address.revision, safe="")
    try:
        commit, listed = _listing(library, address)
    except _Unreachable as error:
        commit = newest.read_text()[:40] if newest.is_file() else ""
        folder = home / commit / address.name
        if not (_COMMIT.fullmatch(commit) and folder.is_dir()):
            raise
        warnings.warn(Note(f"{error.problem}; commit {commit}, downloaded before, is used"), stacklevel=2)
        return folder
    folder = home / commit / address.name
    while not folder.is_dir():
        try:
            with claim(folder):
                if not folder.is_dir():
                    _fill(library, address, commit, listed, folder, first, others)
        except OutputExists:  # another process, or rank, is at it
            time.sleep(0.5)
    try:
        newest.parent.mkdir(exist_ok=True)
        write_atomic(newest, commit.encode(), overwrite=True)
    except OSError as error:
        raise as_wfm_error(error, newest) from error
    return folder


def _listing(library: Any, address: Address) -> tuple[str, dict[str, _Listed]]:
    """-> (commit, file name -> what the hub says of it); hidden files are left out. Raises HubError."""
    with _told(library, address):
        about = library.HfApi().repo_info(
            address.repository, repo_type=address.kind[:-1], revision=address.revision, files_metadata=True, timeout=TIMEOUT_S
        )
        if not _COMMIT.fullmatch(about.sha):
            raise ValueError("no commit")
        listed = {}
        for one in about.siblings or ():
            large = one.lfs.sha256 if one.lfs else None
            listed[one.rfilename] = _Listed(size=one.size, sha256=large, sha1=None if large else one.blob_id)
    if len(listed) > MOST_FILES:
        raise HubError(f"{address}: got {len(listed)} files, expected at most {MOST_FILES}; fix: name a smaller repository")
    for name, one in listed.items():
        inside = (
            isinstance(name, str) and len(name) <= LONGEST_NAME and is_plain(name) and "\\" not in name and name == str(PurePosixPath(name))
        )
        if not inside or name.startswith("/") or ".." in name.split("/"):
            raise HubError(f"{address}: got the file name {str(name)!a:.120}, expected one within the repository; fix: use another one")
        if type(one.size) is not int or one.size < 0 or not (one.sha256 or one.sha1):
            raise HubError(f"{address}: {name}: the hub says no size or hash, expected both; fix: try again later")
    return about.sha, {name: one for name, one in listed.items() if all(map(is_data, name.split("/")))}


def _fill(
    library: Any,
    address: Address,
    commit: str,
    listed: dict[str, _Listed],
    folder: Path,
    first: str,
    others: Callable[[Path], Iterable[str]] | None,
) -> None:
    """Download to a hidden folder, which a later call goes on with, and give it its name once it is whole."""
    part = folder.with_name(f".part-{folder.name}")

    def get(name: str) -> None:
        with _told(library, address):
            library.hf_hub_download(address.repository, name, repo_type=address.kind[:-1], revision=commit, local_dir=part)
        _check(address, part / name, listed[name])

    names = list(listed)
    if others is not None:
        if first not in listed:
            raise HubError(f"{address}: holds no {first}, expected it among its {len(listed)} files; fix: check the name")
        get(first)
        names = [first, *(set(others(part / first)) & listed.keys() - {first})]
    total = sum(listed[name].size for name in names)
    if total > (free := shutil.disk_usage(folder.parent).free):
        raise NoSpace(f"{address}: has {total} bytes, {folder.parent} has room for {free}; fix: free some space, or set HF_HOME")
    warnings.warn(Note(f"{address}: downloading {len(names)} files, {total / 1e6:.1f} MB, to {folder}"), stacklevel=3)
    from rich.progress import BarColumn, DownloadColumn  # a tenth of a second, for those who download alone

    from wfm_ar.progress_bar import ProgressBar

    with ProgressBar(BarColumn(), DownloadColumn(), disable=not sys.stderr.isatty()) as bar, ThreadPoolExecutor(AT_ONCE) as pool:
        task = bar.add_task("", total=total)
        futures = [pool.submit(get, name) for name in names]
        try:
            for name, future in zip(names, futures, strict=True):
                future.result()
                bar.advance(task, listed[name].size)
        finally:
            for future in futures:
                future.cancel()
    try:
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the library's own notes on what it has downloaded
        part.mkdir(exist_ok=True)
        fsync(part)
        part.rename(folder)
        fsync(folder.parent)
    except OSError as error:
        raise as_wfm_error(error, folder) from error


def _check(address: Address, path: Path, listed: _Listed) -> None:
    """Raises HubError, and takes the file away, where it is not what the hub lists."""
    size = path.stat().st_size
    if listed.sha256:
        same = size == listed.size and sha256_of(path) == listed.sha256
    else:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        same = size == listed.size and digest.hexdigest() == listed.sha1
    if not same:
        path.unlink()
        raise HubError(
            f"{address}: {path.name} ({size} bytes) differs from what the hub lists ({listed.size}), expected the same; fix: again"
        )
    fsync(path)


@contextmanager
def _told(library: Any, address: Address, writes: bool = False) -> Iterator[None]:
    """What the library raises becomes HubError, in our words alone."""
    errors = library.errors
    try:
        yield
    except WfmError:
        raise
    except errors.RevisionNotFoundError:
        raise HubError(f"{address}: has no revision {address.revision!r}, expected a branch, tag or commit; fix: see its page") from None
    except errors.HfHubHTTPError as error:
        raise _refused(address, error.response.status_code, writes) from None
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(address, error.__cause__ or error) from None
    except (errors.OfflineModeIsEnabled, errors.HTTPError, ConnectionError, TimeoutError) as error:
        raise _unreachable(address, error) from None
    except OSError as error:
        if error.errno is not None:
            raise as_wfm_error(error, Path(error.filename or str(address))) from None
        raise _unreadable(address, error) from None
    except Exception as error:  # answers that are not what was asked for make the library raise anything
        raise _unreadable(address, error) from None


def _refused(address: Address, status: int, writes: bool) -> HubError:
    if status >= 500 or status == 429:
        return _Unreachable(f"{address}: the hub answers {status}, it is not at work or busy; fix: try again later")
    if status in (401, 403, 404):
        wish = "that may write there" if writes else "that may read it"
        told = "no such repository, or no access to it" if status != 403 else "access is refused"
        return HubError(
            f"{address}: {told} ({status}), expected a {address.kind[:-1]} repository; fix: check the name, or `hf auth login` {wish}"
        )
    return HubError(f"{address}: the hub answers {status}, expected success; fix: see the repository's page")


def _unreachable(address: Address, error: BaseException) -> HubError:
    told = f"{address}: the hub cannot be reached ({type(error).__name__}), expected a connection"
    return _Unreachable(f"{told}; fix: connect, or name a folder on this machine")


def _unreadable(address: Address, error: BaseException) -> HubError:
    told = f"{address}: the hub's answer cannot be used ({type(error).__name__}), expected one of its API"
    return HubError(f"{told}; fix: try again later")
