"""Random histories of datasets: whatever becomes of the files, a prediction joined with `images` names the file that it is of."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.tiny import Here, box, coco, image, put, tar, voc_object, xml
from tests.drawn_images import encode

KINDS = ("none", "voc", "masks", "tars", "coco")
SPLITS = ("train", "val")
STEPS, PREDICTED = 5, 0.6
Spot = tuple[str, str]
"""Where a file lies: the folder or tar, and its name there."""


@dataclass
class History:
    """Files of a dataset as they come and go, what was predicted of them, and whose each id was."""

    root: Path
    kind: str
    chance: random.Random
    files: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    """Split -> name -> content."""
    places: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    contents: int = 0
    predicted: list[tuple[Spot, int]] = field(default_factory=list)
    """File and content behind each score."""
    owners: dict[int, set[tuple[Spot, int]]] = field(default_factory=dict)
    """image_id -> files and contents that had it."""
    wrong: list[str] = field(default_factory=list)

    def fresh(self) -> int:
        self.contents += 1
        return self.contents

    def change(self) -> None:
        """Do one thing to the files."""
        split = self.chance.choice(SPLITS)
        there, other = self.files[split], self.files[SPLITS[split == SPLITS[0]]]
        act = self.chance.choice(("add", "add", "remove", "rename", "replace", "swap", "split", "move"))
        name = self.chance.choice(sorted(there)) if there else ""
        new = f"{self.chance.randrange(8)}.png"
        if act == "add" or len(there) < 2:
            there.setdefault(new, self.fresh())
        elif act == "remove":
            del there[name]
        elif act == "rename" and new not in there:
            there[new] = there.pop(name)
        elif act == "replace":
            there[name] = self.fresh()
        elif act == "swap":
            second = self.chance.choice(sorted(there))
            there[name], there[second] = there[second], there[name]
        elif act == "split" and name not in other:
            other[name] = there.pop(name)
        elif act == "move":
            self.places[split] += 1

    def ingest(self, split: str) -> None:
        """Write the files of a split anew where they differ, and take it in."""
        files = self.files[split]
        if not files:
            return
        folder = self.root / split / str(self.places[split])
        pictures = {name: picture(content) for name, content in files.items()}
        settings: dict[str, Any] = {"images": str(folder / "images")}
        if self.kind == "tars":
            names = list(pictures)
            self.chance.shuffle(names)
            put(folder / "images", {"all.tar": tar({name: pictures[name] for name in names})})
        else:
            self.mirror(folder / "images", pictures)
        if self.kind == "voc":
            self.mirror(folder / "xml", {f"{n[:-4]}.xml": xml(n, voc_object("cat", (0, 0, 1, 1))) for n in files})
            settings["annotations"] = str(folder / "xml")
        elif self.kind == "masks":
            masks = {name: encode(Image.new("L", (2, 2), 1), "PNG") for name in files}
            self.mirror(folder / "masks", masks)
            settings |= {"annotations": str(folder / "masks"), "mask_kind": "semantic", "classes": "thing"}
        elif self.kind == "coco":
            names = sorted(files) if self.chance.random() < 0.5 else self.chance.sample(sorted(files), len(files))
            first = self.chance.randrange(2)
            listed = [image(first + i, name, width=2, height=2) for i, name in enumerate(names)]
            document = coco(listed, [box(i, first + i, (0, 0, 1, 1)) for i in range(len(names))])
            settings["annotations"] = put(folder, {"truth.json": json.dumps(document).encode()}) + "/truth.json"
        ingest(IngestConfig("set", split=split, warehouse=str(self.root / "w"), **settings), Here())
        self.check_ids()

    def mirror(self, folder: Path, files: dict[str, bytes]) -> None:
        """Make a folder hold these files; those that are there already stay untouched."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name not in files:
                path.unlink()
        put(
            folder,
            {
                name: d
                for name, d in files.items()
                if not ((folder / name).exists() and (folder / name).read_bytes() == d)
            },
        )

    def dataset(self) -> Dataset:
        return Dataset.open(Warehouse(str(self.root / "w")), "set")

    def rows(self) -> list[tuple[int, Spot, int]]:
        """Id, place and content, as it was when its split was ingested, of each image of the latest version."""
        images = self.dataset().images
        columns = zip(*(images[name].to_pylist() for name in ("image_id", "uri", "file_name")), strict=True)
        return [(i, (uri, name), self.ingested[uri, name]) for i, uri, name in columns]

    ingested: dict[Spot, int] = field(default_factory=dict)

    def note(self, split: str) -> None:
        """Remember the contents that lie where a split is ingested from."""
        folder = self.root / split / str(self.places[split]) / "images"
        for name, content in self.files[split].items():
            uri = str(folder / "all.tar") if self.kind == "tars" else str(folder / name)
            self.ingested[uri, name] = content

    def check_ids(self) -> None:
        rows = self.rows()
        if len({number for number, _, _ in rows}) != len(rows):
            self.wrong.append(f"ids are given twice in one version: {rows}")
        for number, spot, content in rows:
            had = self.owners.setdefault(number, {(spot, content)})
            if not any(same(spot, content, *other) for other in had):
                self.wrong.append(f"id {number} is of {spot} ({content}), and was of {sorted(had)}")
            had.add((spot, content))

    def predict(self, split: str, run: str) -> None:
        """Import results by file name, whose scores tell which file each is of."""
        rows = [row for row in self.rows() if f"/{split}/" in row[1][0]]
        if not rows:
            return
        self.chance.shuffle(rows)
        names, found = [], []
        for _, spot, content in rows:
            number = len(self.predicted)
            self.predicted.append((spot, content))
            names.append({"id": number, "file_name": spot[1]})
            found.append({"image_id": number, "category_id": 1, "bbox": [0, 0, 1, 1], "score": (number + 1) / 1000})
        document = {"images": names, "annotations": found}
        uri = put(self.root, {f"{run}.json": json.dumps(document).encode()}) + f"/{run}.json"
        config = ImportConfig("set", predictions=uri, run=run, split=split, warehouse=str(self.root / "w"))
        import_coco(config)

    def check_joins(self) -> int:
        """Compare each prediction's partner in `images` with the truth; return how many there are."""
        if not self.predicted:
            return 0
        joined = query(
            str(self.root / "w"),
            "SELECT image_id, score, images.file_name, predictions.file_name AS said, uri FROM predictions "
            "JOIN images USING (dataset, image_id)",
        ).to_pylist()
        for row in joined:
            spot, content = self.predicted[round(row["score"] * 1000) - 1]
            there = row["uri"], row["file_name"]
            had = self.owners[row["image_id"]]  # each of which is one image with another of these: see check_ids
            if row["said"] != spot[1] or not {(spot, content), (there, self.ingested[there])} <= had:
                self.wrong.append(f"{row}, predicted: {spot} ({content})")
        return len(joined)


def same(spot: Spot, content: int, other: Spot, other_content: int) -> bool:
    """Whether it is one image: the file at one place, or the same file moved under its name."""
    return spot == other or (spot[1] == other[1] and content == other_content)


def picture(content: int) -> bytes:
    return encode(Image.new("RGB", (2, 2), (content % 256, content // 256, 77)), "PNG")


def live(root: Path, seed: int) -> tuple[list[str], int]:
    """Live through one history; returns what was wrong, and how many pairs were compared."""
    chance = random.Random(seed)
    history = History(root, KINDS[seed % len(KINDS)], chance)
    for split in SPLITS:
        history.files[split] = {f"{i}.png": history.fresh() for i in chance.sample(range(8), 3)}
    for step in range(STEPS):
        for _ in range(chance.randrange(1, 4) if step else 0):
            history.change()
        for split in chance.sample(SPLITS, chance.randrange(1, 3)) if step else SPLITS:
            history.note(split)
            history.ingest(split)
        if chance.random() < PREDICTED or step == 0:
            for split in SPLITS:
                history.predict(split, f"run-{step}-{split}")
    pairs = history.check_joins()
    shutil.rmtree(root)
    return history.wrong, pairs


def check(tmp_path: Path, seeds: range) -> None:
    pairs = 0
    for seed in seeds:
        wrong, compared = live(tmp_path / str(seed), seed)
        assert wrong == [], seed
        pairs += compared
    assert pairs > 5 * len(seeds)


def test_predictions_keep_their_files(tmp_path: Path) -> None:
    check(tmp_path, range(40))


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 500, 50))
def test_predictions_keep_their_files_in_many_histories(tmp_path: Path, first: int) -> None:
    check(tmp_path, range(first, first + 50))
