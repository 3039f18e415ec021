import math

import pytest
import torch

from shardlens.models import build
from shardlens.models.darknet.cfg import parse
from shardlens.models.darknet.heads import Decoder, Level, Selection, read_level
from shardlens.models.darknet.layers import Shape
from shardlens.models.darknet.loss import DarknetLoss, Truth
from shardlens.models.darknet.terms import Terms
from shardlens.models.darknet.tree import WordTree, flat_tree, read_map, read_tree, write_tree
from shardlens.models.errors import ModelError
from tests.models.small import SMALL

ANIMALS = """
animal -1
vehicle -1
dog 0
cat 0
terrier 2
hound 2
car 1
""".lstrip()
ANIMAL, VEHICLE, DOG, CAT, TERRIER, HOUND, CAR = range(7)
KEEP = Selection(score_threshold=0.05, nms_threshold=0.5, limit=100)
CELL = Shape(12, 1, 1)


def words(threshold=0.5, labels=()):
    return WordTree(read_tree(ANIMALS), labels, threshold)


def raw(animal=0.5, dog=0.5, terrier=0.5):
    """Raw classes (1, 7) of these probabilities, each given its parent's."""
    pairs = [(animal, 1 - animal), (dog, 1 - dog), (terrier, 1 - terrier)]
    return torch.tensor([[math.log(p) for pair in pairs for p in pair] + [3.0]])


def test_the_softmax_is_over_the_children_of_each_node():
    found = words().log_conditional(raw(0.8, 0.6, 0.9) + 5).exp()
    assert found[0].tolist() == pytest.approx([0.8, 0.2, 0.6, 0.4, 0.9, 0.1, 1], rel=1e-5)


def test_a_nodes_probability_is_the_product_along_its_path():
    found = words().log_probability(raw(0.8, 0.6, 0.9)).exp()[0]
    assert found.tolist() == pytest.approx([0.8, 0.2, 0.48, 0.32, 0.432, 0.048, 0.2], rel=1e-5)
    assert found[[CAT, TERRIER, HOUND, CAR]].sum() == pytest.approx(1)  # the leaves


@pytest.mark.parametrize(
    ("given", "threshold", "node"),
    [
        ((0.8, 0.6, 0.9), 0.4, TERRIER),  # 0.432
        ((0.8, 0.6, 0.9), 0.45, DOG),  # 0.48
        ((0.8, 0.6, 0.9), 0.5, ANIMAL),
        ((0.8, 0.6, 0.9), 0.99, ANIMAL),  # a root, however unsure
        ((0.1, 0.6, 0.9), 0.5, CAR),
        ((0.6, 0.1, 0.9), 0.5, CAT),  # 0.54; no child of the dog's, whose 0.06 is less
        ((0.5, 0.5, 0.5), 0.0, TERRIER),  # of equal ones the first
    ],
)
def test_the_way_down_ends_where_it_is_no_longer_sure(given, threshold, node):
    assert words(threshold).descend(raw(*given)).tolist() == [node]


def test_each_row_goes_its_own_way():
    rows = torch.cat([raw(0.9, 0.9, 0.9), raw(0.1), raw(0.9, 0.1)])
    assert words(0.5).descend(rows).tolist() == [TERRIER, CAR, CAT]
    assert words().forward(rows)[1].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert words().descend(rows[:0]).shape == (0,)


def test_labels_of_a_map_have_their_nodes_probabilities():
    found = words(labels=(CAT, DOG, CAR))(raw(0.8, 0.6, 0.9))
    assert found[0].tolist() == pytest.approx([0.32, 0.48, 0.2], rel=1e-5)


def test_the_loss_is_the_cross_entropy_of_each_softmax_on_the_way():
    tree, values = words(), raw(0.8, 0.6, 0.9).requires_grad_()
    loss = tree.loss(values, torch.tensor([TERRIER]))
    assert loss.item() == pytest.approx(-math.log(0.8) - math.log(0.6) - math.log(0.9), rel=1e-5)
    loss.backward()  # Darknet's: found - wanted in the groups on the way, nothing elsewhere
    assert values.grad[0].tolist() == pytest.approx([-0.2, 0.2, -0.4, 0.4, -0.1, 0.1, 0], abs=1e-6)


def test_an_object_known_less_exactly_teaches_nothing_below():
    tree, values = words(labels=(DOG, VEHICLE)), raw(0.8, 0.6, 0.9).requires_grad_()
    tree.loss(values, torch.tensor([0])).backward()
    assert values.grad[0].tolist() == pytest.approx([-0.2, 0.2, -0.4, 0.4, 0, 0, 0], abs=1e-6)


def test_a_tree_of_roots_is_one_softmax():
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(WordTree(flat_tree(4)).log_probability(values), values.log_softmax(1))


def test_large_values_do_not_overflow():
    found = words().log_probability(torch.tensor([[500.0, -500, 300, 0, -400, 0, 0]]))
    assert torch.isfinite(found).all()


def test_a_file_is_read_and_written():
    tree = read_tree(ANIMALS)
    assert (tree.names[HOUND], tree.parents) == ("hound", (-1, -1, 0, 0, 2, 2, 1))
    assert write_tree(tree) == ANIMALS
    assert read_map("3\n2\n", 7) == (CAT, DOG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the tree is empty: expected on each line a name and its parent's number"),
        ("a -1\nb\n", "tree line 2: found 'b', expected a name and its parent's number"),
        ("a -1\nb 1\n", r"tree line 2: parent 1 of node 1, expected -1 \(none\) or a node before it"),
        ("a -2\n", "tree line 1: parent -2 of node 0"),
        ("a -1\nb 0\nc 1\nd 0\n", "tree line 4: the children of node 0 stand apart, expected one after another"),
        ("a -1\nb 0\nc -1\n", "tree line 3: the nodes without parent stand apart"),
    ],
)
def test_what_is_no_tree(text, message):
    with pytest.raises(ModelError, match=message):
        read_tree(text)


@pytest.mark.parametrize("line", ["7", "-1", "x"])
def test_a_map_names_nodes(line):
    with pytest.raises(ModelError, match=f"map line 2: found '{line}', expected the number of a node, 0 to 6"):
        read_map(f"0\n{line}\n", 7)


def level(tree):
    return Level(((16.0, 16.0),), 7, 1.0, False, CELL, softmax=True, tree=tree)


def anchor(**given):
    """A raw map of one anchor, whose objectness is 0.8."""
    return torch.cat([torch.tensor([[0.0, 0, 0, 0, math.log(4)]]), raw(**given)], dim=1)[..., None, None]


def test_an_object_is_called_by_the_node_it_ends_at_with_its_objectness():
    decoder = Decoder([level(words(0.5))], 32, 32)
    (found,) = decoder.detect([anchor(animal=0.9, dog=0.8, terrier=0.6)], [(32, 32)], KEEP)
    assert (found["labels"].tolist(), found["scores"].tolist()) == ([DOG], pytest.approx([0.8]))


def test_with_a_map_an_object_may_have_several_labels():
    decoder = Decoder([level(words(labels=(CAT, DOG, CAR)))], 32, 32)
    (found,) = decoder.detect([anchor(animal=0.8, dog=0.6)], [(32, 32)], KEEP)
    assert found["labels"].tolist() == [1, 0, 2]
    assert found["scores"].tolist() == pytest.approx([0.8 * 0.48, 0.8 * 0.32, 0.8 * 0.2], rel=1e-5)


def test_a_regions_loss_asks_the_tree():
    tree = words(labels=(CAT, TERRIER))
    loss, decoder = DarknetLoss([level(tree)], 32, 32, Terms(class_weight=2)), Decoder([level(tree)], 32, 32)
    truth = Truth(torch.tensor([0]), torch.tensor([[0.25, 0.25, 0.75, 0.75]]), torch.tensor([1]))
    found = loss(decoder, decoder.rows([anchor(animal=0.8, dog=0.6, terrier=0.9)]), truth)["classes"]
    assert found.item() == pytest.approx(-2 * math.log(0.8 * 0.6 * 0.9), rel=1e-5)


def region(body, tree):
    return read_level(parse(f"[net]\n[region]\nsoftmax=1\nanchors=1,1\n{body}")[1], CELL, Shape(3, 32, 32), tree)


def test_a_section_names_its_tree():
    tree = words(labels=(CAT, DOG))
    found = region("classes=7\nabsolute=1\ntree=data/a.tree\nmap=data/a.map", tree)
    assert (found.tree, found.classes, found.labels) == (tree, 7, 2)
    assert region("classes=7", None).labels == 7


@pytest.mark.parametrize(
    ("body", "tree", "message"),
    [
        (
            "classes=7\ntree=a.tree",
            False,
            r"line 6, \[region\]: tree=a.tree is a file .*: give its URI with the option",
        ),
        ("classes=6\ntree=a.tree", True, r"tree=a.tree and classes=6; the tree that was given has 7 nodes"),
        ("classes=7", True, r"it has no tree= and classes=7; the tree that was given has 7 nodes"),
        ("classes=7\nmap=a.map", False, "map=a.map is not supported"),
    ],
)
def test_a_section_and_its_tree_belong_together(body, tree, message):
    with pytest.raises(ModelError, match=message):
        region(body, words() if tree else None)


def test_a_yolo_section_has_no_tree():
    with pytest.raises(ModelError, match=r"\[yolo\]: a tree was given, which a \[region\] section"):
        read_level(parse("[net]\n[yolo]")[1], CELL, Shape(3, 32, 32), words())


def test_yolo9000_has_the_published_sections():
    with torch.device("meta"):
        model = build("yolo9000", 9418)
    state = model.state_dict()
    assert [tuple(maps.shape) for maps in model.raw(torch.empty(1, 3, 544, 544, device="meta"))] == [(1, 28269, 17, 17)]
    floats = sum(t.numel() for key, t in state.items() if not key.endswith("num_batches_tracked"))
    assert floats == 19_831_776 + 1024 * 28269 + 28269  # what darknet19_448.conv.23 holds, and the last convolution
    assert state["layers.22.0.weight"].shape == (1024, 512, 3, 3)


def test_a_cfg_with_a_tree_is_the_same_network():
    options = SMALL["yolo9000"].options
    model = build("yolo9000", 4, options)
    again = build("darknet", 4, {"cfg": model.cfg, "tree": options["tree"], "map": options["map"]})
    again.load_darknet(model.save_darknet())
    assert again.cfg == model.cfg
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tree": ANIMALS}, "the tree has 7 nodes, and 3 labels were given; expected a line of the map for each label"),
        ({"tree": ANIMALS, "map": "0\n1\n"}, "the map has 2 lines, and 3 labels were given"),
        ({"map": "0\n1\n2\n"}, "the option map names nodes of a tree: give the option tree too"),
        ({"hier_threshold": 1.5}, "option hier_threshold is 1.5; it must be between 0 and 1"),
    ],
)
def test_trees_and_labels_that_do_not_fit(options, message):
    with pytest.raises(ModelError, match=message):
        build("yolo9000", 3, options)
