"""What lies at the places of an ingest and was not read: counts by suffix, and the option that would read it."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.first_bytes import DECODED
from shardlens.pipeline.annotations.mask_layout import folders_hold_masks, spot
from shardlens.pipeline.annotations.places import Listing, Place, is_tar
from shardlens.pipeline.annotations.source import Request, Source
from shardlens.pipeline.errors import LocationNotFoundError
from shardlens.pipeline.executors.base import Executor

PEEK = 1 << 16
"""Bytes of a file by which its format is recognized."""
SAMPLE, FEW = 6, 4
"""Files of a suffix that are looked into, one in each folder; of a folder with few JSON files all of them."""
COCO_NAME = re.compile(r"coco|instances_|person_keypoints_|panoptic_", re.IGNORECASE)


def unread_notes(request: Request, source: Source, executor: Executor) -> Iterator[str]:
    """Sentences on the files that were not read, below the images' root and the annotations'."""
    columns = [source.images[name].to_pylist() for name in ("uri", "offset", "sidecar_uri", "sidecar_offset")]
    used = set(request.catalog.used)
    for uri, offset, sidecar, at in zip(*columns, strict=True):
        used |= {(uri, offset), (sidecar, at)}
    if source.unlisted is not None:  # these are reported as a problem
        used |= set(zip(*(source.unlisted[name].to_pylist() for name in ("uri", "offset")), strict=True))
    for root in _roots(request, source):
        try:
            files = request.catalog.files(root, executor)
        except LocationNotFoundError:  # of a file whose images are all absent
            continue
        left = [(name, place) for name, place in zip(files.names, files.places, strict=True) if place[:2] not in used]
        used |= {place[:2] for _, place in left}
        if left:
            counts = Counter(PurePosixPath(name).suffix.lower() or "(no suffix)" for name, _ in left)
            yield f"not read below {root}: " + ", ".join(
                f"{count} {suffix}" for suffix, count in counts.most_common(12)
            )
            yield from _hints(request, files, left)
    if hidden := request.catalog.hidden:
        yield f"hidden images left out, their names or folders begin with a dot: {len(hidden)}, such as {hidden[0]}"


def _roots(request: Request, source: Source) -> list[str]:
    """The places to look at; a remote prefix of which the annotations name the images is not listed for this."""
    listed = storage.is_local(request.images) or is_tar(request.images) or not source.has_ids
    roots = [request.images] if listed else []
    apart = request.annotations is not None and not request.annotations.lower().endswith(".json")
    return [*roots, *([request.annotations] if apart and request.annotations else [])]


def _hints(request: Request, files: Listing, left: Sequence[tuple[str, Place]]) -> Iterator[str]:
    kinds = Counter(kind for name, kind in request.catalog.kinds(files).items() if kind and kind not in DECODED)
    for kind, count in kinds.items():
        yield f"{count} files are {kind} images, which cannot be decoded: convert them to JPEG, PNG or TIFF"
    given: set[str] = set()
    for suffix, recognize, each in ((".json", _json, FEW), (".xml", _xml, 1), (".txt", _txt, 1)):
        folders: dict[str, list[tuple[str, Place]]] = {}
        for name, place in left:
            if name.lower().endswith(suffix):
                folders.setdefault(posixpath.dirname(name), []).append((name, place))
        sample = [file for files in folders.values() for file in files[: each if len(files) <= each else 1]]
        for name, (uri, offset, length) in sample[:SAMPLE]:
            head = storage.read_range(uri, offset or 0, min(PEEK, length or PEEK))
            hint = recognize(name, uri, offset is not None, head)
            if hint and hint not in given:
                given.add(hint)
                yield hint
    unread = {name for name, _ in left}
    masks = {name for name in files.names if (where := spot(name)) is not None and where.folder}
    if masks and masks <= unread and (reason := folders_hold_masks(files)):
        yield f"{reason}: --format masks reads them"


def _json(name: str, uri: str, in_tar: bool, head: bytes) -> str | None:
    where = f"{name} in {uri}" if in_tar else uri
    how = "unpack it and give it with --annotations" if in_tar else f"--annotations {uri} reads it"
    if b'"shapes"' in head and b'"imagePath"' in head:
        return f"{where} is of labelme, which is not read: convert it to COCO or VOC"
    if (b'"images"' in head and b'"annotations"' in head) or COCO_NAME.search(posixpath.basename(name)):
        return f"{where} looks like COCO annotations: {how}"
    if b'"annotations"' in head or b'"objects"' in head or b'"bbox"' in head:
        return f"{where} looks like annotations of another format, which is not read: convert them to COCO"
    return None


def _xml(name: str, uri: str, in_tar: bool, head: bytes) -> str | None:
    folder = posixpath.dirname(uri)
    if re.search(rb"<annotations\b", head):
        return f"{name if in_tar else uri} is of CVAT, which is not read: export it as COCO or Pascal VOC"
    if re.search(rb"<annotation\b", head):
        return f"{name} looks like Pascal VOC: --annotations {uri if in_tar else folder} --format voc reads such files"
    return None


def _txt(name: str, uri: str, in_tar: bool, head: bytes) -> str | None:
    lines = [line.split() for line in head.decode("utf-8", "replace").splitlines()[:4] if line.strip()]
    numbers = [re.fullmatch(r"[\d.\s-]+", " ".join(line)) and len(line) >= 5 for line in lines]
    if lines and all(numbers):
        folder = posixpath.dirname(name) or "."
        return f"{folder}/*.txt looks like YOLO labels, which are not read: convert them to COCO or VOC"
    return None
