"""Darknet networks with their real weights, against OpenCV's reader of the same files and published figures."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shardlens.models import build

pytestmark = pytest.mark.realdata

COCO_NAMES = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
NETWORKS = {"yolo-fastest-1.1-xl": 80, "yolo-fastest-1.1": 80, "MobileNetV2-YOLOv3-Nano-voc": 20}


def network(realdata, name, **options):
    folder = realdata.parent / "weights"
    if not folder.is_dir():
        pytest.skip(f"no weights at {folder}")
    model = build("darknet", NETWORKS[name], {"cfg": (folder / f"{name}.cfg").read_text(), **options}).eval()
    model.load_darknet((folder / f"{name}.weights").read_bytes(), name)
    return model


def pixels(path):
    """The image (3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255


def val_images(realdata, count):
    return [pixels(path) for path in sorted((realdata / "coco2017-subset" / "val2017").iterdir())[:count]]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_real_weights_are_written_back_byte_for_byte(realdata, name):
    data = (realdata.parent / "weights" / f"{name}.weights").read_bytes()
    assert network(realdata, name).save_darknet() == data


@pytest.mark.parametrize("name", list(NETWORKS))
def test_maps_and_boxes_agree_with_opencv(realdata, name):
    model, other, scored = network(realdata, name), opencv(realdata, name), 0
    for image in val_images(realdata, 3):
        batch = torch.nn.functional.interpolate(image[None], model.size, mode="bilinear")
        with torch.inference_mode():
            raw = model.raw(batch)
            decoded = torch.cat(sizes_and_scores(*model.decoder(raw)), dim=2)[0].numpy()
        for ours, theirs in zip(raw, asked(other, batch, [f"conv_{i - 1}" for i in model.heads]), strict=True):
            assert np.abs(ours.numpy() - theirs).max() < 1e-5 * np.abs(theirs).max()
        theirs = np.concatenate(asked(other, batch, [f"yolo_{i}" for i in model.heads]))
        ours = decoded[opencv_order(model)]
        assert np.abs(ours[:, :5] - theirs[:, :5]).max() < 1e-5
        kept = theirs[:, 5:] > 0  # OpenCV sets scores up to 0.2 to 0
        assert (np.abs(ours[:, 5:] - theirs[:, 5:])[kept] < 1e-5).all()
        scored += kept.sum()
    assert scored > 0


def opencv(realdata, name):
    cv2 = pytest.importorskip("cv2")
    path = realdata.parent / "weights" / name
    return cv2.dnn.readNetFromDarknet(f"{path}.cfg", f"{path}.weights")


def asked(net, batch, layers):
    """What the OpenCV network's layers give for the batch."""
    net.setInput(batch.numpy())
    return net.forward(layers)


def sizes_and_scores(boxes, objectness, classes):
    """Center and size, objectness, scores: OpenCV's columns."""
    size = boxes[..., 2:] - boxes[..., :2]
    scores = classes.sigmoid() * objectness[..., None]
    return boxes[..., :2] + size / 2, size, objectness[..., None], scores


def opencv_order(model):
    """OpenCV goes through anchors last, we through cells: where each of its rows stands among ours."""
    rows, start = [], 0
    for count in model.decoder.anchors:
        cells = int((model.decoder.grid[start].prod()).item())
        rows.append(start + np.arange(count * cells).reshape(count, cells).T.ravel())
        start += count * cells
    return np.concatenate(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ap", "ap50"), [("yolo-fastest-1.1-xl", 0.191, 0.392), ("yolo-fastest-1.1", 0.139, 0.293)]
)
def test_average_precision_on_coco(realdata, name, ap, ap50):
    folder = realdata / "coco2017-subset"
    model = network(realdata, name, score_threshold=0.001)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(next((folder / "annotations").glob("*val2017.json")))
        results = truth.loadRes(found(model, truth, folder, realdata.parent / "weights" / "coco.names"))
        scored = COCOeval(truth, results, "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] == pytest.approx(ap, abs=0.003)
    assert scored.stats[1] == pytest.approx(ap50, abs=0.003)


def found(model, truth, folder, names):
    """The network's detections in all images, as COCO results."""
    ids = {category["name"]: category["id"] for category in truth.cats.values()}
    labels = [ids[COCO_NAMES.get(name, name)] for name in names.read_text().split("\n")[:80]]
    results = []
    for image_id, image in truth.imgs.items():
        with torch.inference_mode():
            (output,) = model([pixels(folder / "val2017" / image["file_name"])])
        for (x0, y0, x1, y1), label, score in zip(
            *(output[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
        ):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": labels[label], "score": score}
            results.append({"image_id": image_id, **box})
    return results
