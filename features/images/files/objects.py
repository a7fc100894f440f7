"""Reading objects in object storage with fsspec. The services' own libraries find credentials and endpoints."""

import errno
import hashlib
import importlib
import os
import re
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from headstart.features.errors import DataError
from headstart.features.images.faults import Fault, UnreadableError, Version
from headstart.features.images.files.paths import shown

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
_WRONG = {"ParamValidationError", "ValidationError", "EndpointProviderError"}  # what botocore refuses to ask for
_BROKEN = (ValueError, TypeError, LookupError, AttributeError)  # what the libraries raise at an answer of no sense
_FINAL = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG}
_REGEX = re.compile(r"(^Parameter validation failed: )|(: Bucket name must match the regex.*)")
_REDIRECTED = getattr(errno, "EREMCHG", errno.EINVAL)


def number_of(tag: object) -> int:
    """Return a 60-bit hash of `tag`. If `tag` is empty or None, return 0.

    `tag` is an object's ETag. If the object's service gives no ETag, `tag` is another value that changes with the
    object.
    """
    if not tag:
        return 0
    return (int.from_bytes(hashlib.sha256(str(tag).encode(errors="surrogatepass")).digest()[:8], "big") >> 4) or 1


def size_of(told: object) -> int:
    """Return the size in bytes that a server gives for an object. `told` is the server's text or number.

    Return -1 if `told` is not a whole number. A number of more than 18 digits is cut to its first 18 digits.
    """
    digits = str(told)
    return int(digits.lstrip("0")[:18] or 0) if digits.isascii() and digits.isdecimal() else -1


def require_package(url: str) -> None:
    """Raise a DataError if the package that reads `url` is missing. The error says what to install."""
    scheme = urlsplit(url).scheme
    for package in ("fsspec", PACKAGES[scheme]):
        try:
            importlib.import_module(package)
        except ImportError as error:
            extra = "'headstart[remote]'" if package in ("fsspec", "s3fs") else package
            raise DataError(f"{shown(url)}: reading it needs {package}: pip install {extra}") from error


def version_of(url: str) -> Version:
    """Return the version of an object. Raises FileNotFoundError if the URL is that of a folder.

    Also raises the errors of the service's library, and the errors of `_asked`.
    """
    found = _asked(url, "info")
    if found.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "a folder, not an object")
    tag = next((found[name] for name in _TAGS if found.get(name)), None)
    return Version(size_of(found.get("size")), number_of(tag))


def read(url: str, most: int) -> bytes:
    """Return the first bytes of an object: `most` bytes, or all bytes if the object has fewer.

    Raises the errors of the service's library, and the errors of `_asked`.
    """
    content: bytes = _asked(url, "cat_file", start=0, end=most)
    return content


def fault_of(error: Exception) -> Fault | None:
    """Return the reason why an object can't be read, if another try is of no use. If another try may help, return None.

    `error` is the error of the last try. If the kind of `error` is unknown, `error` is raised again.
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
    if _is_of_library(error) and _WRONG & {kind.__name__ for kind in type(error).__mro__}:
        return Fault("unreadable", _REGEX.sub("", said))
    if isinstance(error, OSError) or _is_of_library(error):
        return None
    raise error


def _asked(url: str, method: str, **more: int) -> Any:
    """Call `method` of fsspec's file system. Raises DataError for missing credentials or refused settings."""
    scheme = urlsplit(url).scheme
    url = scheme + url[len(scheme) :]  # the libraries know schemes in small letters only
    try:
        system = _system(scheme, versions="?versionId=" in url)
    except Exception as error:
        if _lacks_credentials(error) or (isinstance(error, ValueError) and scheme != "s3"):
            raise _no_credentials(url, scheme, error) from error  # adlfs without an account raises a ValueError
        if isinstance(error, ImportError) or (_may_pass(error) and scheme != "s3"):  # s3fs asks no server here
            raise
        raise DataError(_why_not_made(url, scheme, error)) from error
    try:
        return getattr(system, method)(url, **more)
    except Exception as error:
        if _lacks_credentials(error):
            raise _no_credentials(url, scheme, error) from error
        if isinstance(error, _BROKEN) and not _is_of_library(error):
            said = shown(f"{PACKAGES[scheme]} can't read the answer ({type(error).__name__}: {error})")
            raise UnreadableError(Fault("unreadable", said)) from error
        raise


def _may_pass(error: Exception) -> bool:
    return (isinstance(error, OSError) or _is_of_library(error)) and not isinstance(error, FileNotFoundError)


def _why_not_made(url: str, scheme: str, error: Exception) -> str:
    """Return the text of an error.

    The text says that the library for `scheme` refuses the user's settings, and which settings to change.
    """
    said = " ".join(str(error).split())
    own = f"FSSPEC_{scheme.upper()}_"
    names = sorted(name for name in os.environ if name.startswith((own, "AWS_") if scheme == "s3" else own))
    named = [
        name for name in names if _is_quoted(os.environ[name], said) or f"'{name.removeprefix(own).lower()}'" in said
    ]
    which = ", ".join(named or names) or "the configuration of the service's own programs"
    return f"{shown(url)}: {PACKAGES[scheme]} refuses the settings ({shown(said)}); change or unset {which}"


def _lacks_credentials(error: Exception) -> bool:
    return type(error).__name__ in _NO_CREDENTIALS


def _is_of_library(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _OF_LIBRARIES


def _no_credentials(url: str, scheme: str, error: Exception) -> DataError:
    remedy = _REMEDIES[{"gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme, scheme)]
    return DataError(f"{shown(url)}: no credentials for {scheme}:// ({shown(' '.join(str(error).split()))}); {remedy}")


def _is_quoted(value: str, said: str) -> bool:
    return len(value) > 2 and value in said


@cache
def _system(scheme: str, versions: bool = False) -> Any:
    """Return fsspec's file system for URLs with `scheme`. If `versions` is true, URLs may name versions of objects."""
    import fsspec

    if scheme != "s3":
        return fsspec.filesystem(scheme)
    # `urls` repeats failed requests, so that each failure is counted once.
    settings = {"max_pool_connections": _CONNECTIONS, "retries": {"total_max_attempts": 1, "mode": "standard"}}
    system = fsspec.filesystem("s3", config_kwargs=settings, version_aware=versions)
    system.retries = 1
    system.connect()  # else wrong settings would be found with the first request
    return system
