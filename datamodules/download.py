"""Downloads files so that only complete and checked ones ever appear under their names."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from steepest.common.atomic import replacing

TIMEOUT_SECONDS = 30


def download(name: str, digest: str, mirrors: list[str], folder: Path) -> None:
    """Download one file from the first mirror that has a good copy.

    Args:
        name: Name of the file, on the mirrors and in the folder.
        digest: Its MD5 or SHA-256 digest, in hexadecimal.
        mirrors: Addresses (http, https, file) of the folders with the file, tried in turn.
        folder: Where the file goes; made if need be.

    Raises:
        ConnectionError: If no mirror has a good copy.
        OSError: If the file cannot be written.
    """
    path = folder / name
    try:  # before the transfer, so that nobody waits for a file that cannot be stored
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{name}"
        rank_zero_info(f"downloading {url} to {folder}")
        try:
            _store(path, _fetch(url, digest))
            return
        except ConnectionError as error:
            failures.append(f"{url} ({error})")
    raise ConnectionError(f"cannot download {name} from {' or '.join(failures)}; get it elsewhere and put it at {path}")


def _fetch(url: str, digest: str) -> bytes:
    """Return the content of an address.

    It is held in memory, which these files of some megabytes allow, and so an interrupted transfer leaves nothing.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "steepest"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            content = response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(" ".join(str(error).split()) or type(error).__name__) from error
    # Against accidents, not attacks: MD5 is what many publishers give.
    name, hashed = ("MD5", hashlib.md5) if len(digest) == 32 else ("SHA-256", hashlib.sha256)
    found = hashed(content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise ConnectionError(f"its {len(content)} bytes have the {name} digest {found} instead of {digest}")
    return content


def _store(path: Path, content: bytes) -> None:
    """Write a file in one step: it is complete or not there, also with several processes at work."""
    try:
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> OSError:
    return OSError(f"cannot write {path} ({error.strerror}); make its folder writable or choose another data_dir")
