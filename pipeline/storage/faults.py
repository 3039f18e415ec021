"""Faults of a store: whether trying again may help, how long to wait, and what to tell the user."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from dataclasses import dataclass

from shardlens.pipeline.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    LocationNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from shardlens.pipeline.storage.uris import redact

NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}
PASSING = {
    *("botocore.HTTPClientError", "aiohttp.ClientError", "gcsfs.HttpError"),
    *("botocore.EndpointConnectionError", "botocore.ConnectTimeoutError", "botocore.ProxyConnectionError"),
}
"""Classes of errors in connections, which botocore raises without their cause."""
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"}
ANSWERS_OF_OVERLOAD = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "BadDigest"}


@dataclass(frozen=True)
class Backoff:
    """How long a failing store is given: bounded attempts, waits that double up to a cap, with jitter."""

    attempts: int = 10
    first_s: float = 0.2
    cap_s: float = 5.0

    def wait(self, attempt: int) -> float:
        """Seconds to wait after attempt 0, 1, ...; between half and the whole of the doubled wait."""
        return min(self.cap_s, self.first_s * 2.0**attempt) * random.uniform(0.5, 1.0)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its explicit causes, outermost first.

    Not what it was raised in the handling of (`__context__`): a file that is missing is missing, also where it is read
    after a connection was refused.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__
    return chain


def codes(error: BaseException) -> set[str]:
    """S3's error codes in the chain of causes, for example NoSuchBucket."""
    answers = (getattr(cause, "response", None) for cause in _chain(error))
    return {str(a["Error"].get("Code")) for a in answers if isinstance(a, dict) and "Error" in a}


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: 5xx, throttling, resets and time-outs do, what is missing or forbidden does not."""
    for cause in _chain(error):
        answer = getattr(cause, "response", None)
        if isinstance(answer, dict) and "Error" in answer:
            status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return status >= 500 or status == 429 or answer["Error"].get("Code") in ANSWERS_OF_OVERLOAD
        http = getattr(cause, "status", None) or getattr(cause, "code", None)
        if isinstance(http, int) and http >= 400:
            return http >= 500 or http in {408, 429}
        kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(cause).__mro__}
        if kinds & PASSING:
            return True
        if isinstance(cause, ConnectionError | TimeoutError | asyncio.TimeoutError):
            return True
    return isinstance(error, OSError) and error.errno in {errno.EBUSY, errno.EREMOTEIO, errno.EAGAIN, errno.ESTALE}


def explain(uri: str, error: BaseException, attempts: int = 1) -> StorageError:  # noqa: C901, PLR0911 - a kind of fault each
    """Say in one sentence what happened to `uri` and what to do, without any secret."""
    text = redact(str(error).strip() or type(error).__name__)
    if uri.startswith(("s3://", "s3a://")) and (of_s3 := _of_settings(uri, error, text)):
        return of_s3
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if is_transient(error):
        return StorageUnavailableError(
            f"{uri}: the store kept failing, {attempts} times ({type(error).__name__}: {text}): "
            "see that it can be reached (endpoint, network) and run the same command again, it resumes"
        )
    if isinstance(error, IsADirectoryError):
        return StorageError(f"{uri} is a folder: expected a file")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if _no_bucket(error):
            return BucketNotFoundError(f"{uri}: its bucket does not exist: check the spelling, or create it")
        return LocationNotFoundError(f"{uri}: not found: check the spelling")
    forbidden = isinstance(error, PermissionError) or getattr(error, "status", None) in {401, 403}
    if forbidden or kinds & NO_CREDENTIALS:
        return AccessDeniedError(
            f"{uri}: access denied ({text}): check the credentials in the environment (for S3 AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL) and what they may do"
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(f"{uri}: no space left to write it: free some, then run the same command again, it resumes")
    if isinstance(error, ImportError):
        return StorageError(f"{uri}: {text}: install the package that speaks this protocol")
    return StorageError(f"{uri}: {type(error).__name__}: {text}")


def _of_settings(uri: str, error: BaseException, text: str) -> StorageError | None:
    """What is wrong with the environment's settings for S3, if that is what failed."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint and not endpoint.startswith(("http://", "https://")):
        return StorageError(
            f"{uri}: AWS_ENDPOINT_URL is {redact(endpoint)!r}: expected http://HOST:PORT or https://HOST"
        )
    if codes(error) & EXPIRED or "Bad Request" in text:
        return AccessDeniedError(
            f"{uri}: access denied ({text}): the credentials in the environment have expired or are no such credentials: get "
            "new ones (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and run the same command again"
        )
    return None


def _no_bucket(error: BaseException) -> bool:
    """Whether the store said that the bucket, not the object, is missing."""
    return "NoSuchBucket" in codes(error) or "specified bucket does not exist" in str(error).lower()
