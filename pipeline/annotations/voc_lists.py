"""The lists of Pascal VOC's ImageSets: which images a split has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.pairing import Layout, stem
from shardlens.pipeline.annotations.places import Listing
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.errors import DatasetError, StorageError

SPLITS = ("train", "val", "test")
FOLDERS = ("ImageSets/Main/", "ImageSets/")


@dataclass(frozen=True)
class ImageSets:
    """Lines of each list by the split that it is named after."""

    names: Mapping[str, list[str]]
    places: frozenset[tuple[str, int | None]] = frozenset()
    """URI and offset of each list."""

    @classmethod
    def read(cls, files: Listing, top: str) -> ImageSets:
        """Read the lists below the folder `top`; VOC's lists of one class (`cat_train.txt`) hold the same images.

        Raises:
            StorageError: a list cannot be read.
        """
        folders = [top + folder for folder in FOLDERS if any(_is_list(name, top + folder) for name in files.names)]
        lists = files.only(lambda name: bool(folders) and _is_list(name, folders[0]))
        lines: dict[str, list[str]] = {}
        for name, data in zip(lists.names, storage.read_many(lists.places), strict=True):
            if isinstance(data, StorageError):
                raise data
            lines[PurePosixPath(name).stem] = lines_of(data)
        return cls(lines, frozenset(place[:2] for place in lists.places))


def _is_list(name: str, folder: str) -> bool:
    last = name.removeprefix(folder)
    return name.startswith(folder) and last.endswith(".txt") and "/" not in last and "_" not in last


def lines_of(data: bytes) -> list[str]:
    """The lines of a text file that are not empty, with or without a byte order mark."""
    text = data.decode("utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


class NamedImages:
    """Finds the images that lines of a list name: by name, stem, path, or path that ends in the name."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = set(names)
        self._by_stem: dict[str, list[str]] = {}
        self._by_last: dict[str, list[str]] = {}
        for name in names:
            self._by_stem.setdefault(stem(name), []).append(name)
            self._by_last.setdefault(PurePosixPath(name).name, []).append(name)
            self._by_last.setdefault(PurePosixPath(name).stem, []).append(name)

    def find(self, line: str) -> list[str]:
        """The images of a line, such as `a`, `a.jpg`, `JPEGImages/a.jpg`, `/data/a.jpg` or `a 1`; none if there is none."""
        for text in (line, line.split()[0]):
            path = text.replace("\\", "/").removeprefix("./")
            images = [path] if path in self._names else self._by_stem.get(path) or self._ending(path)
            if images:
                return images
        return []

    def _ending(self, path: str) -> list[str]:
        """The images whose names end as `path` does; where folders tell several apart, the one that agrees longest."""
        images = self._by_last.get(path.rpartition("/")[2], [])
        if len(images) < 2:
            return images
        agree = {name: _agreeing(name, path) for name in images}
        best = [name for name in images if agree[name] == max(agree.values())]
        return best if len(best) == 1 else []


def _agreeing(name: str, path: str) -> int:
    """How many components from the end are the same, suffixes aside."""
    pairs = zip(reversed(PurePosixPath(stem(name)).parts), reversed(PurePosixPath(stem(path)).parts), strict=False)
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def in_splits(layout: Layout, lists: ImageSets, wanted: str | None, problems: Problems) -> Layout:
    """Give images the split whose list names them; with one split wanted, keep its images alone.

    Raises:
        DatasetError: the split wanted has no list.
    """
    if wanted is not None and wanted not in lists.names:
        raise DatasetError(
            f"split {wanted!r} has no list in ImageSets, which has {', '.join(sorted(lists.names)) or 'none'}: "
            "name one of them, or leave --split out to take in train, val and test"
        )
    splits: dict[str, str] = {}
    images = NamedImages(layout.images.names)
    for split in [wanted] if wanted else [name for name in SPLITS if name in lists.names]:
        for line in lists.names[split]:
            names = images.find(line)
            if not names:
                problems.one("annotation-without-image", f"{line}, listed in {split}.txt")
            for name in names:
                if splits.setdefault(name, split) != split:
                    problems.one("in-two-splits", f"{name}: {splits[name]} and {split}")
    if wanted is None:
        return Layout(layout.images, layout.sidecars, splits=splits)
    keys = {layout.key(name) for name in splits}
    return Layout(
        layout.images.only(splits.__contains__),
        layout.sidecars.only(lambda name: layout.key(name) in keys),
        splits=splits,
    )
