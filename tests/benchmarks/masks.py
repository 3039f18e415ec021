"""What masks cost on one core: a class map as rows, a hundred instance masks of a large image, connected parts.

A 640 x 480 map of five classes with ragged outlines (ten thousand spans) is to become rows in less than 3 ms, a hundred
28 x 28 masks on 1920 x 1080 in less than 80 ms, each byte for byte what pasting into the whole image gives, and 20 times
as fast as torchvision's pasting and pycocotools' encoding. Figures are processor time, since other work on the machine is
none of theirs; the best of many, and the median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from pycocotools import mask
from scipy import ndimage
from torchvision.models.detection.roi_heads import paste_masks_in_image

from shardlens.pipeline import masks
from shardlens.pipeline.inference.postprocess import PostProcessing, decide
from shardlens.pipeline.inference.rows import from_canvas
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.masks.spans import Canvas

HEIGHT, WIDTH = 1080, 1920
COUNT = 100


def class_map() -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities, (480, 640), of five classes."""
    rng = np.random.default_rng(0)
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=(480, 640)), 12) for _ in range(5)])
    return decide(torch.from_numpy(noise * 400).float().softmax(0))


def instances(
    shortest: float, longest: float, count: int = COUNT, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 28, 28) of lobed discs and their boxes (N, 4), xyxy, with sides of these lengths."""
    rng = np.random.default_rng(1)
    sides = rng.uniform(shortest, longest, (count, 2))
    corner = rng.uniform(0, np.array(size[::-1]) - sides)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    lobes = [0.3 * np.sin(5 * np.arctan2(y, x) + turn) for turn in rng.uniform(0, 6, count)]
    drawn = np.stack([1 / (1 + np.exp(8 * (1.4 * (x**2 + y**2) - 1 + lobe))) for lobe in lobes])
    return drawn.astype(np.float32), np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def milliseconds(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Best and median processor time."""
    work()
    found = []
    for _ in range(times):
        begun = time.thread_time()
        work()
        found.append(1000 * (time.thread_time() - begun))
    return min(found), statistics.median(found)


def pasted_whole(drawn: np.ndarray, boxes: np.ndarray) -> list[Rle]:
    """What pasting each mask into an image of full size gives, by torchvision."""
    whole = paste_masks_in_image(torch.from_numpy(drawn)[:, None], torch.from_numpy(boxes), (HEIGHT, WIDTH))
    return [masks.encode((one[0] > 0.5).numpy()) for one in whole]


def as_usual(drawn: np.ndarray, boxes: np.ndarray) -> list[dict[str, object]]:
    """The same as torchvision's own evaluation script has it: pasted by torchvision, encoded by pycocotools."""
    whole = paste_masks_in_image(torch.from_numpy(drawn)[:, None], torch.from_numpy(boxes), (HEIGHT, WIDTH))
    return [mask.encode(np.asfortranarray((one[0] > 0.5).numpy().astype(np.uint8))) for one in whole]


def run() -> dict[str, dict[str, float]]:
    """Print the table."""
    torch.set_num_threads(1)
    classes, probability = class_map()

    def rows(wanted: PostProcessing) -> object:
        canvas = Canvas(480, 640)
        canvas.add(classes, probability)
        return from_canvas(canvas, wanted)

    ratios = {}
    everything = PostProcessing(fill_holes=True, min_area=10, components=True)
    found = {
        "class map 640x480 to RLE (3 ms)": milliseconds(lambda: masks.regions(classes, range(1, 5)), 50),
        "class map 640x480 to rows": milliseconds(lambda: rows(PostProcessing()), 50),
        "... to objects, holes filled": milliseconds(lambda: rows(everything), 20),
    }
    for shortest, longest in ((30, 200), (40, 400), (100, 600)):
        drawn, boxes = instances(shortest, longest)

        def paste(drawn: np.ndarray = drawn, boxes: np.ndarray = boxes) -> list[Rle]:
            return [masks.paste(drawn[i], boxes[i], HEIGHT, WIDTH) for i in range(COUNT)]

        assert paste() == pasted_whole(drawn, boxes), "not what pasting into the whole image gives"
        found[f"100 masks of {shortest} to {longest} px (80 ms)"] = milliseconds(paste, 10)
        found[f"... of {shortest} to {longest} px, as usual"] = usual = milliseconds(
            lambda d=drawn, b=boxes: as_usual(d, b), 3
        )
        ratios[f"{shortest} to {longest} px"] = usual[1] / found[f"100 masks of {shortest} to {longest} px (80 ms)"][1]
    print(f"\n{'ms on one core':42}{'best':>8}{'median':>8}")
    for name, (best, median) in found.items():
        print(f"{name:42}{best:8.2f}{median:8.2f}")
    print("as usual takes, times as long: " + ", ".join(f"{ratio:.0f} ({size})" for size, ratio in ratios.items()))
    return {name: {"best_ms": best, "median_ms": median} for name, (best, median) in found.items()}


if __name__ == "__main__":
    run()
