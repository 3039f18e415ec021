"""Reading and writing anywhere: an absolute local path, or `s3://`, `gs://`, ... through fsspec.

- `uris`: joining, normalizing and printing them
- `faults`: what can go wrong in a store, and what is tried again
- `objects`: the verbs, which this package hands on: `storage.read(uri)`
"""

from shardlens.pipeline.storage.faults import Backoff, explain
from shardlens.pipeline.storage.objects import (
    BACKOFF,
    Entry,
    children,
    create,
    delete,
    delete_folder,
    exists,
    filesystem,
    forget_connections,
    publish,
    publish_file,
    read,
    read_many,
    read_range,
    size,
    walk,
)
from shardlens.pipeline.storage.uris import is_local, join, normalize, redact, relative

__all__ = [
    "BACKOFF",
    "Backoff",
    "Entry",
    "children",
    "create",
    "delete",
    "delete_folder",
    "exists",
    "explain",
    "filesystem",
    "forget_connections",
    "is_local",
    "join",
    "normalize",
    "publish",
    "publish_file",
    "read",
    "read_many",
    "read_range",
    "redact",
    "relative",
    "size",
    "walk",
]
