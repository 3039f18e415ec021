import io
import itertools
import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from shardlens.models import build, find
from shardlens.models.detection.detr.network import select
from shardlens.models.detection.detr.positions import padding, sine_positions
from shardlens.models.detection.detr.set_loss import Found, Truth, assign, matching_cost, set_loss
from shardlens.models.detection.detr.transformer import DecoderLayer, EncoderLayer, Transformer
from shardlens.models.errors import ModelError, WeightsError
from shardlens.pipeline.networks.weights import load
from tests.models.samples import sample_images, sample_options

SMALL = sample_options("detr")
WIDTH, FEEDFORWARD = 256, 2048


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def attention(name):
    whole = {f"{name}.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.in_proj_bias": (3 * WIDTH,)}
    return whole | linear(f"{name}.out_proj", WIDTH, WIDTH)


def norm(name):
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def layer(name, attentions):
    shapes = linear(f"{name}.linear1", WIDTH, FEEDFORWARD) | linear(f"{name}.linear2", FEEDFORWARD, WIDTH)
    for i, kind in enumerate(attentions):
        shapes |= attention(f"{name}.{kind}") | norm(f"{name}.norm{i + 1}")
    return shapes | norm(f"{name}.norm{len(attentions) + 1}")


def published_shapes():
    """Names and shapes of the tensors in the published detr-r50 checkpoint."""
    shapes = {}
    for i in range(6):
        shapes |= layer(f"transformer.encoder.layers.{i}", ["self_attn"])
        shapes |= layer(f"transformer.decoder.layers.{i}", ["self_attn", "multihead_attn"])
    shapes |= norm("transformer.decoder.norm") | linear("class_embed", WIDTH, 92)
    for i, outputs in enumerate((WIDTH, WIDTH, 4)):
        shapes |= linear(f"bbox_embed.layers.{i}", WIDTH, outputs)
    shapes |= {
        "query_embed.weight": (100, WIDTH),
        "input_proj.weight": (WIDTH, 2048, 1, 1),
        "input_proj.bias": (WIDTH,),
    }
    with torch.device("meta"):
        body = resnet50().state_dict()
    kept = {key: tuple(value.shape) for key, value in body.items() if not key.startswith("fc.")}
    return shapes | {f"backbone.0.body.{k}": v for k, v in kept.items() if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def original():
    with torch.device("meta"):
        return build("detr", 91)


def test_names_and_shapes_are_those_of_the_published_checkpoint(original):
    assert {key: tuple(value.shape) for key, value in original.state_dict().items()} == published_shapes()


def test_it_trains_the_published_number_of_parameters(original):
    assert sum(p.numel() for p in original.parameters() if p.requires_grad) == 41_302_368
    assert not [key for key, _ in original.named_parameters() if ".bn" in key]  # frozen norms are buffers


def test_the_published_labels_fit(original):
    labels = find("detr").labels
    assert (len(labels), labels[1], labels[90]) == (91, "person", "toothbrush")  # COCO's ids
    assert original.class_embed.out_features == len(labels) + 1


def test_a_checkpoint_under_the_key_model_loads_strictly():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = build("detr", 4, {**SMALL, "frozen": True}).state_dict()
    assert not [key for key in state if key.endswith("num_batches_tracked")]
    sink = io.BytesIO()
    torch.save({"model": state}, sink)
    model = build("detr", 4, {**SMALL, "frozen": True})
    load(model, sink.getvalue(), "detr.pth")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_another_network_is_reported_by_the_first_key():
    sink = io.BytesIO()
    torch.save({"model": build("detr", 4, {**SMALL, "queries": 20}).state_dict()}, sink)
    with pytest.raises(WeightsError, match=r"query_embed.weight \(20, 32\) in the file, \(10, 32\) in the model"):
        load(build("detr", 4, SMALL), sink.getvalue(), "detr.pth")


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_best_of_all(seed):
    cost = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))
    rows, columns = assign(cost)
    best = min(sum(cost[i, p].item() for i, p in enumerate(order)) for order in itertools.permutations(range(5)))
    assert sorted(rows.tolist()) == sorted(columns.tolist()) == list(range(5))
    assert cost[rows, columns].sum().item() == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize(("queries", "objects"), [(7, 3), (3, 7), (4, 0)])
def test_matching_leaves_out_what_is_too_many(queries, objects):
    rows, columns = assign(torch.rand(queries, objects))
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == min(queries, objects)


def test_matching_survives_costs_that_are_no_numbers():
    rows, _ = assign(torch.tensor([[math.nan, math.inf], [1.0, 2.0], [2.0, -math.inf]]))
    assert rows.tolist() == [1, 2]


def test_matching_cost_by_hand():
    truth = Truth(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]))
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.2]])
    logits = torch.tensor([[0.0, math.log(2), 0.0], [0.0, 0.0, 0.0]])
    # class 1/2 and 1/3; L1 0 and 0.2; GIoU 1 and 1/2
    torch.testing.assert_close(matching_cost(logits, boxes, truth), torch.tensor([[-2.5], [1.0 - 1 / 3 - 1.0]]))


def test_losses_by_hand():
    found = Found(torch.zeros(1, 2, 3), torch.tensor([[[0.5, 0.5, 0.4, 0.2], [0.1, 0.1, 0.1, 0.1]]]))
    losses = set_loss(found, [Truth(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]))])
    assert losses["class"].item() == pytest.approx(math.log(3))  # the mean by weight of two equal losses
    assert losses["l1"].item() == pytest.approx(5 * 0.2)
    assert losses["giou"].item() == pytest.approx(2 * 0.5)


def test_no_object_counts_a_tenth():
    logits = torch.zeros(1, 2, 3)
    logits[0, 1, 2] = 5.0  # the second query is unmatched, and nearly sure of it
    found = Found(logits, torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]]]))
    loss = set_loss(found, [Truth(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]))])["class"]
    sure = math.log(1 + 2 * math.exp(-5))
    assert loss.item() == pytest.approx((math.log(3) + 0.1 * sure) / 1.1, rel=1e-5)


def test_losses_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    logits, boxes = torch.randn(2, 6, 5, generator=generator), torch.rand(2, 6, 4, generator=generator)
    truths = [
        Truth(torch.tensor([1, 3]), torch.rand(2, 4, generator=generator)),
        Truth(torch.tensor([2]), boxes[0, :1]),
    ]
    cross, weights, distance = 0.0, 0.0, 0.0
    for image, truth in enumerate(truths):
        rows, columns = assign(matching_cost(logits[image], boxes[image], truth))
        owner = dict(zip(rows.tolist(), columns.tolist(), strict=True))
        for query in range(6):
            label = int(truth.labels[owner[query]]) if query in owner else 4
            weight = 1.0 if query in owner else 0.1
            cross -= weight * float(logits[image, query].log_softmax(0)[label])
            weights += weight
            if query in owner:
                distance += float((boxes[image, query] - truth.boxes[owner[query]]).abs().sum())
    losses = set_loss(Found(logits, boxes), truths)
    assert losses["class"].item() == pytest.approx(cross / weights, rel=1e-5)
    assert losses["l1"].item() == pytest.approx(5 * distance / 3, rel=1e-5)


def test_every_decoder_layer_has_its_losses():
    model = build("detr", 4, {**SMALL, "layers": 3}).train()
    target = {"boxes": torch.tensor([[4.0, 5, 30, 40]]), "labels": torch.tensor([2])}
    losses = model(sample_images((64, 64)), [target])
    assert set(losses) == {f"{name}{layer}" for name in ("class", "l1", "giou") for layer in ("_0", "_1", "")}


def test_positions_by_hand():
    positions = sine_positions(torch.zeros(1, 2, 4, dtype=torch.bool), 8)
    assert positions.shape == (1, 8, 2, 4)
    y, x = positions[0, :4], positions[0, 4:]
    torch.testing.assert_close(y[:2, 0, 0], torch.tensor([math.sin(math.pi), math.cos(math.pi)]), atol=1e-5, rtol=0)
    slow = 0.75 * 2 * math.pi / 10_000 ** (2 / 4)
    torch.testing.assert_close(x[2:, 0, 2], torch.tensor([math.sin(slow), math.cos(slow)]), atol=1e-5, rtol=0)


def test_positions_do_not_see_the_padding():
    padded = torch.zeros(1, 4, 6, dtype=torch.bool)
    padded[:, 3:], padded[:, :, 4:] = True, True
    alone = sine_positions(torch.zeros(1, 3, 4, dtype=torch.bool), 16)
    torch.testing.assert_close(sine_positions(padded, 16)[:, :, :3, :4], alone)


def test_padding_of_features():
    padded = padding([(32, 40), (64, 64)], torch.zeros(2, 3, 64, 64), torch.zeros(2, 1, 4, 4))
    assert padded[0].tolist() == [[False, False, False, True]] * 2 + [[True] * 4] * 2
    assert not padded[1].any()


def test_layers_without_positions_are_those_of_attention_is_all_you_need():
    x, memory, nowhere = torch.rand(2, 5, 16), torch.rand(2, 7, 16), torch.zeros(2, 5, 16)
    padded = torch.zeros(2, 7, dtype=torch.bool)
    padded[1, 4:] = True
    encoder, decoder = EncoderLayer(16, 4, 32, 0.0), DecoderLayer(16, 4, 32, 0.0)
    reference: nn.Module = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
    reference.load_state_dict(encoder.state_dict())
    found = encoder(memory, torch.zeros_like(memory), padded)
    torch.testing.assert_close(found[~padded], reference(memory, src_key_padding_mask=padded)[~padded])
    reference = nn.TransformerDecoderLayer(16, 4, 32, 0.0, batch_first=True)
    reference.load_state_dict(decoder.state_dict())
    expected = reference(x, memory, memory_key_padding_mask=padded)
    torch.testing.assert_close(decoder(x, nowhere, memory, memory, padded), expected)


def test_positions_go_to_queries_and_keys_but_not_to_values():
    layer, x, at = EncoderLayer(16, 4, 32, 0.0), torch.rand(2, 5, 16), torch.rand(2, 5, 16)
    attended = layer.self_attn(x + at, x + at, x)[0]
    between = layer.norm1(x + attended)
    expected = layer.norm2(between + layer.linear2(layer.linear1(between).relu()))
    torch.testing.assert_close(layer(x, at, torch.zeros(2, 5, dtype=torch.bool)), expected)


def test_nobody_attends_to_the_padding():
    transformer = Transformer(2, 16, 2, 32, 0.0).eval()
    features, queries = torch.rand(1, 16, 3, 4), torch.rand(5, 16)
    padded = torch.zeros(1, 3, 4, dtype=torch.bool)
    padded[:, :, 3] = True
    positions = sine_positions(padded, 16)
    before = transformer(features, positions, padded, queries)
    features[..., 3] = 100.0
    torch.testing.assert_close(transformer(features, positions, padded, queries), before)


def test_selection():
    logits = torch.full((1, 3, 4), -9.0)  # background, two labels, no object
    for query, label, value in ((0, 2, 1.0), (1, 3, 9.0), (2, 0, 9.0)):
        logits[0, query, label] = value
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2]]])
    (found,) = select(Found(logits, boxes), [(40, 80)], 0.5)
    assert found["labels"].tolist() == [2]
    torch.testing.assert_close(found["boxes"], torch.tensor([[20.0, 10, 60, 30]]))


def test_targets_are_asked_for():
    with pytest.raises(ModelError, match="DETR in training needs targets"):
        build("detr", 2, SMALL).train()(sample_images((64, 64)))


@pytest.mark.parametrize(("option", "value"), [("width", 30), ("layers", 0), ("queries", 0), ("dropout", 1.0)])
def test_limits(option, value):
    with pytest.raises(ModelError, match=f"option {option} is {value}"):
        build("detr", 2, {**SMALL, option: value})
