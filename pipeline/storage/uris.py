"""URIs: the one spelling of a place, joining and comparing places, and keeping secrets out of what is printed."""

from __future__ import annotations

import importlib.util
import os
import re
from urllib.parse import unquote

import fsspec

from shardlens.pipeline.errors import ConfigError, StorageError

EXTRAS = {"gs": ("gcs", "gcsfs"), "gcs": ("gcs", "gcsfs")} | dict.fromkeys(
    ("az", "abfs", "abfss", "adl"), ("azure", "adlfs")
)
"""Protocols that are not installed by default: the extra, and the module that speaks it."""
SECRET = re.compile(
    r"(?i)(?P<scheme>://)[^/\s]+@"
    r"|(?P<key>(?<![/\w])(?:x-(?:amz|goog)-)?(?:signature|credential|security-token|access_?key(?:_?id)?|secret(?:_?access)?(?:_?key)?|token|password|sig)=)[^&\s'\"]+"
)


QUERY = re.compile(r"(?P<place>[a-z][a-z0-9+.-]*://[^\s?'\"]*)\?(?P<query>[^\s'\"]*)", re.IGNORECASE)
HARMLESS = {
    "versionid",
    "generation",
    "region",
    "list-type",
    "prefix",
    "delimiter",
    "max-keys",
    "partnumber",
    "uploadid",
}
"""Keys of a URI's query whose values are no secret."""


def redact(text: str) -> str:
    """Blank out user names, passwords, keys and signatures in `text`, and any query of a URI that is not known as harmless."""
    hidden = QUERY.sub(lambda uri: f"{uri['place']}?{_visible(uri['query'])}", text)
    return SECRET.sub(lambda match: (match["scheme"] or match["key"]) + ("***@" if match["scheme"] else "***"), hidden)


def _visible(query: str) -> str:
    pairs = [pair.partition("=") for pair in query.split("&")]
    return "&".join(f"{key}={value}" if key.lower() in HARMLESS else "***" for key, _, value in pairs)


def normalize(uri: str | os.PathLike[str]) -> str:
    """Return the one spelling of a place: no trailing slash, local paths absolute and without `file://`.

    Raises:
        ConfigError: it is empty, credentials stand in it, or no library speaks its protocol.
    """
    text = os.fspath(uri)
    if not text.strip():
        raise ConfigError(f"a place is {text!r}: expected a path or a URI; . is the current folder")
    if "://" not in text:
        return os.path.abspath(os.path.expanduser(text))
    if redact(text) != text:
        raise ConfigError(
            f"{redact(text)} carries credentials: leave them out and give them in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ...)"
        )
    scheme, _, rest = text.partition("://")
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in {"", "localhost"}:
            raise ConfigError(f"{text} names the host {host!r}: expected file:///PATH, of this machine")
        return os.path.abspath(unquote(slash + path))
    if scheme in EXTRAS and importlib.util.find_spec(EXTRAS[scheme][1]) is None:
        raise ConfigError(
            f"{text}: reading {scheme}:// needs an extra package: pip install 'shardlens[{EXTRAS[scheme][0]}]'"
        )
    if scheme not in fsspec.available_protocols():
        raise ConfigError(
            f"{text} begins with {scheme}://, which no installed library speaks: expected a path, s3://, gs://, ..."
        )
    return f"{scheme}://{rest.strip('/') if scheme == 'memory' else rest.rstrip('/')}"


def join(root: str, *parts: str) -> str:
    """Put `parts` below `root`."""
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts if part)])


def relative(root: str, uri: str) -> str:
    """Path of `uri` below `root`, with forward slashes.

    Raises:
        StorageError: it lies elsewhere.
    """
    prefix = root.rstrip("/") + "/"
    if not uri.startswith(prefix):
        raise StorageError(f"{uri} does not lie below {root}")
    return uri[len(prefix) :]


def is_local(uri: str) -> bool:
    """Whether `uri` is a path of this machine."""
    return "://" not in uri
