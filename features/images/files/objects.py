"""Reading objects in object storage by fsspec. The services' own libraries find credentials and endpoints."""

import errno
import hashlib
import importlib
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from headstart.features.errors import DataError
from headstart.features.images.faults import Fault, Version

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
_TAGS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "updated")
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
_REMEDIES = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_CONNECTIONS = 64
_OF_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs", "gcsfs", "google", "adlfs", "azure")
_FINAL = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG}
_REDIRECTED = getattr(errno, "EREMCHG", errno.EINVAL)


def number_of(tag: object) -> int:
    """Return a number of 60 bits made from `tag`; 0 if there is no tag.

    The tag is an object's ETag. If the object's service gives no ETag, the tag is another value that changes with the
    object.
    """
    if not tag:
        return 0
    return (int.from_bytes(hashlib.sha256(str(tag).encode(errors="surrogateescape")).digest()[:8], "big") >> 4) or 1


def require_package(url: str) -> None:
    """Raise a DataError if the package that reads `url` is missing. The error says what to install."""
    scheme = urlsplit(url).scheme
    for package in ("fsspec", PACKAGES[scheme]):
        try:
            importlib.import_module(package)
        except ImportError as error:
            extra = "'headstart[remote]'" if package in ("fsspec", "s3fs") else package
            raise DataError(f"{url}: reading it needs {package}: pip install {extra}") from error


def version_of(url: str) -> Version:
    """Return the version of an object. Raises the errors of the service's library."""
    found = _asked(url, "info")
    if found.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "a folder, not an object")
    tag = next((found[name] for name in _TAGS if found.get(name)), None)
    size = found.get("size")
    return Version(-1 if size is None else int(size), number_of(tag))


def read(url: str, most: int) -> bytes:
    """Return at most `most` bytes of an object, from its start. Raises the errors of the service's library."""
    content: bytes = _asked(url, "cat_file", start=0, end=most)
    return content


def fault_of(error: Exception) -> Fault | None:
    """Return the fault of `error` if the error is final. Return None if another try may succeed.

    An error of an unknown kind is raised again.
    """
    said = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return Fault("vanished", "no such object")
    if isinstance(error, PermissionError):
        return Fault("unreadable", f"access denied ({said})")
    if isinstance(error, OSError) and error.errno == _REDIRECTED:
        return Fault("unreadable", f"its bucket is elsewhere, and redirects are not followed ({said})")
    if isinstance(error, OSError) and error.errno in _FINAL:
        return Fault("unreadable", said)
    if isinstance(error, OSError) or _is_of_library(error):
        return None
    raise error


def _asked(url: str, method: str, **more: int) -> Any:
    """Call the method with the name `method` of fsspec's file system for `url`, and return its result.

    Raises DataError if there are no credentials.
    """
    scheme = urlsplit(url).scheme
    try:
        system = _system(scheme)
    except Exception as error:
        if isinstance(error, (ImportError, OSError)) or (_is_of_library(error) and not _lacks_credentials(error)):
            raise
        raise _no_credentials(url, scheme, error) from error  # adlfs without an account raises a ValueError
    try:
        return getattr(system, method)(url, **more)
    except Exception as error:
        if not _lacks_credentials(error):
            raise
        raise _no_credentials(url, scheme, error) from error


def _lacks_credentials(error: Exception) -> bool:
    return type(error).__name__ in _NO_CREDENTIALS


def _is_of_library(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _OF_LIBRARIES


def _no_credentials(url: str, scheme: str, error: Exception) -> DataError:
    remedy = _REMEDIES[{"gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme, scheme)]
    return DataError(f"{url}: no credentials for {scheme}:// ({' '.join(str(error).split())}); {remedy}")


@cache
def _system(scheme: str) -> Any:
    import fsspec

    if scheme != "s3":
        return fsspec.filesystem(scheme)
    # `urls` repeats failed requests, so that each failure is counted once.
    settings = {"max_pool_connections": _CONNECTIONS, "retries": {"total_max_attempts": 1, "mode": "standard"}}
    system = fsspec.filesystem("s3", config_kwargs=settings)
    system.retries = 1
    return system
