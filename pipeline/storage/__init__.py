"""Reading and writing anywhere: an absolute local path, or `s3://`, `gs://`, ... through fsspec.

- `uris`: joining, normalizing and printing them
- `faults`: what can go wrong in a store, and what is tried again
- `checksums`: of a file's blocks
- `local`: files that appear complete, locks, and the removal of what a dead process left
- `listing`: what lies below a folder or prefix
- `objects`: reading and writing, which this package hands on: `storage.read(uri)`
"""

from .faults import Backoff, explain
from .listing import Entry, children, exists, size, stat, tidy, unfinished, walk
from .local import etag
from .objects import (
    BACKOFF,
    create,
    delete,
    delete_empty,
    delete_folder,
    delete_many,
    filesystem,
    forget_connections,
    publish,
    publish_file,
    read,
    read_many,
    read_range,
    swap,
)
from .uris import is_local, join, normalize, redact, relative

__all__ = [
    "BACKOFF",
    "Backoff",
    "Entry",
    "children",
    "create",
    "delete",
    "delete_empty",
    "delete_folder",
    "delete_many",
    "etag",
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
    "stat",
    "swap",
    "tidy",
    "unfinished",
    "walk",
]
