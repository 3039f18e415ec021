import pytest

from shardlens.models import build
from shardlens.models.darknet.cfg import parse, render
from shardlens.models.darknet.cfg import section as made
from shardlens.models.errors import ModelError
from tests.models.samples import CLASSES, TINY_CFG


def section(body, kind="convolutional"):
    return parse(f"[net]\n[{kind}]\n{body}")[1]


def test_sections_keys_comments_and_spaces():
    first, second = parse("# a comment\n[net]\nwidth = 320 ; \n\n[Convolutional] # 1\n; note\n anchors = 1, 2,3,\n")
    assert (first.kind, first.line, second.kind, second.line) == ("net", 2, "convolutional", 5)
    assert second.integers("anchors") == (1, 2, 3)
    assert second.entries["anchors"].line == 7


def test_of_a_key_given_twice_the_first_counts():
    assert section("size=3\nsize=5").integer("size", 1) == 3


def test_defaults_stand_where_a_key_is_missing():
    empty = section("")
    assert (empty.integer("size", 7), empty.number("scale", 0.5), empty.text("activation", "linear")) == (
        7,
        0.5,
        "linear",
    )
    assert (empty.integers("mask", (1, 2)), empty.numbers("anchors")) == ((1, 2), ())


@pytest.mark.parametrize(
    ("body", "read", "message"),
    [
        (
            "\nsize=three",
            lambda s: s.integer("size", 1),
            r"cfg line 4, \[convolutional\]: size=three, expected a whole",
        ),
        ("size=0", lambda s: s.integer("size", 1, least=1), "line 3, .*size=0, expected at least 1"),
        ("scale=x", lambda s: s.number("scale", 1), "scale=x, expected a number"),
        ("mask=1;2", lambda s: s.integers("mask"), "mask=1;2, expected whole numbers between commas"),
        ("anchors=1,b", lambda s: s.numbers("anchors"), "anchors=1,b, expected numbers between commas"),
        ("xnor=1", lambda s: s.refuse("binary", "xnor"), "xnor=1 is not supported; remove it or set it to 0"),
    ],
)
def test_a_bad_value_is_reported_with_its_section_and_line(body, read, message):
    with pytest.raises(ModelError, match=message):
        read(section(body))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ("", r"found no section at all, expected \[net\] first; is it a Darknet .cfg\?"),
        ("[yolo]\n", r"found \[yolo\] at line 1, expected \[net\] first"),
        ("<html>\n", r"cfg line 1: found '<html>', expected \[section\] or key=value"),
        ("width=3\n[net]", "cfg line 1: found 'width=3'"),
        ("[net]\n=4", "cfg line 2: found '=4'"),
    ],
)
def test_what_is_no_cfg_is_refused(cfg, message):
    with pytest.raises(ModelError, match=message):
        parse(cfg)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[dropout]",
            "[softmax]",
            r"line 33, \[softmax\]: layer 5 is of a kind that is not supported; supported: conv",
        ),
        ("activation=mish", "activation=mihs", r"line 27, .*activation=mihs is not known; known: linear, leaky"),
        (
            "layers=-1, 1",
            "layers=-1, 9",
            r"line 44, \[route\]: layers=-1,9 at layer 8, expected numbers of layers before",
        ),
        ("layers=-1, 1", "layers=-1, 0", None),
        ("layers=-1, 1", "layers=-1, 6", r"layers 7 \(c, h, w = \(4, 16, 32\)\), 6 \(c, .*differ in height or width"),
        ("from=-2", "from=-3", r"\[shortcut\]: layers 3 \(c, h, w = \(4, .*, 1 .*differ in shape"),
        ("group_id=1", "group_id=2", r"group_id=2 of groups=2 cannot be taken from 1"),
        ("filters=27", "filters=28", r"line 54, \[yolo\]: 28 channels come in; 3 anchors of 4 classes need 27"),
        ("mask = 0,1,2", "mask = 0,1,4", r"line 52, \[yolo\]: mask=0,1,4 picks from 4 anchors"),
        ("channels=3", "channels=1", r"line 5, \[net\]: channels=1, expected 3: images come as RGB"),
        ("height=32", "height=0", r"line 4, \[net\]: height=0, expected 1 to 16384"),
        ("size=2\nstride=2", "size=70\nstride=2\npadding=0", r"\[maxpool\]: layer 7 gives nothing"),
        ("filters=4\n", "filters=4\ngroups=3\n", "groups=3 divides not both 4 channels and 4 filters"),
    ],
)
def test_a_network_that_cannot_be_is_reported_with_its_line(old, new, message):
    assert TINY_CFG.count(old) == 1
    cfg = TINY_CFG.replace(old, new)
    if message is None:
        build("darknet", CLASSES, {"cfg": cfg})
        return
    with pytest.raises(ModelError, match=message):
        build("darknet", CLASSES, {"cfg": cfg})


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ("[net]\nwidth=32\nheight=32\nchannels=3\n[yolo]", r"line 5, \[yolo\]: nothing comes before it"),
        (
            TINY_CFG.partition("[yolo]")[0],
            r"the network's \[yolo\] and \[region\] layers are: none; expected at least one",
        ),
    ],
)
def test_a_network_without_an_end_or_a_beginning(cfg, message):
    with pytest.raises(ModelError, match=message):
        build("darknet", CLASSES, {"cfg": cfg})


def test_sections_made_here_are_read_back_as_they_were():
    sections = [made("net", width=64, channels=3), made("yolo", mask=(0, 1), scale_x_y=1.05, iou_loss="ciou")]
    again = parse(render(sections))
    assert [(s.kind, {key: entry.text for key, entry in s.entries.items()}) for s in again] == [
        ("net", {"width": "64", "channels": "3"}),
        ("yolo", {"mask": "0,1", "scale_x_y": "1.05", "iou_loss": "ciou"}),
    ]
    assert again[1].integers("mask") == sections[1].integers("mask") == (0, 1)


def test_labels_must_be_as_many_as_classes():
    with pytest.raises(ModelError, match="the cfg has 4 classes; 80 labels were given"):
        build("darknet", 80, {"cfg": TINY_CFG})
