"""YOLO9000: YOLOv2 on Darknet-19 alone, whose classes are the nodes of a WordTree.

https://arxiv.org/abs/1612.08242, section 4
"""

from __future__ import annotations

from shardlens.models.darknet.architectures import TREE_ANCHORS, Plan, read_anchors, yolo9000
from shardlens.models.darknet.heads import Selection
from shardlens.models.darknet.network import DarknetDetector, input_rule
from shardlens.models.darknet.terms import loss_keys
from shardlens.models.darknet.tree import WordTree, flat_tree, read_map, read_tree
from shardlens.models.errors import ModelError
from shardlens.models.spec import ModelSpec


def word_tree(tree: str, map: str, hier_threshold: float) -> WordTree | None:
    """The tree in the text of Darknet's file, with the map of another; None without a tree."""
    if tree:
        read = read_tree(tree)
        return WordTree(read, read_map(map, len(read.parents)), hier_threshold)
    if map:
        raise ModelError("the option map names nodes of a tree: give the option tree too")
    return None


def _build(
    *,
    num_classes: int,
    tree: str = "",
    map: str = "",
    hier_threshold: float = 0.5,
    input_size: int = 544,
    width: float = 1.0,
    anchors: str = "",
    box_loss: str = "mse",
    box_weight: float = 1.0,
    ignore_threshold: float = 0.6,
    burn_in: int = 0,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.45,
    detections_per_image: int = 100,
    clip: bool = False,
) -> DarknetDetector:
    """`tree` has a node a line, `map` the node of each label; without a map the labels are the nodes, and what is less
    sure than `hier_threshold` is called by what it is a kind of. Without a tree the labels exclude each other.
    """
    words = word_tree(tree, map, hier_threshold) or WordTree(flat_tree(num_classes), threshold=hier_threshold)
    if len(words.node) != num_classes:
        found = f"the map has {len(words.node)} lines" if map else f"the tree has {len(words.node)} nodes"
        raise ModelError(f"{found}, and {num_classes} labels were given; expected a line of the map for each label")
    sizes = read_anchors(anchors) if anchors else TREE_ANCHORS
    files = {"tree": "labels.tree", "map": "labels.map"} if map else {"tree": "labels.tree"}
    keys = loss_keys("region", box_loss, box_weight, ignore_threshold)
    plan = Plan(len(words.tree.parents), input_size, width, sizes, {**files, **keys})
    selection = Selection(score_threshold, nms_threshold, detections_per_image, clip)
    return DarknetDetector(yolo9000(plan), selection, burn_in, words)


SPEC = ModelSpec(
    name="yolo9000",
    task="detection",
    build=_build,
    input_rule=input_rule,
    paper="https://arxiv.org/abs/1612.08242",
    background=False,
    text_options=("tree", "map"),
    score_option="score_threshold",
)
