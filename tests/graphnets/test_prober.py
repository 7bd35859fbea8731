from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converters import NeuronGraphs, Structure, StructureMismatch, collate, to_graph, to_graphs, trace
from graphnets import Prober
from graphnets.baselines.probing import by_structure, changed, describe, input_and_classes, read_scores, shaken
from graphnets.testing import assert_independent, assert_invariant, permuted

from .networks import Residual, cnn, mlp, random_weights, stack

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Tanh, nn.GELU)


def activations() -> NeuronGraphs:
    """One layout, three activations, in no order."""
    kinds = [trace(mlp(4, 6, 5, 3, activation=kind)) for kind in ACTIVATIONS]
    return to_graphs(random_weights(kinds[0], 7), [kinds[i] for i in (2, 0, 1, 1, 0, 2, 0)])


def depths() -> NeuronGraphs:
    """Several depths, widths and activations, in no order."""
    nets = [mlp(4, 6, 3), mlp(4, 5, 7, 6, 3, activation=nn.Tanh), mlp(4, 6, 3), mlp(4, 9, 3), mlp(4, 3)]
    return collate([to_graph(net.double()) for net in nets])


def images() -> NeuronGraphs:
    """Convolutional networks with and without BatchNorm, a residual connection and grouped layers."""
    image = torch.zeros(1, 2, 8, 8)
    kinds = [trace(cnn(), image), trace(Residual(), image), trace(cnn(nn.Tanh), image)]
    graphs = []
    for kind in (kinds[0], kinds[1], kinds[2], kinds[1]):
        one = {name: value[0] for name, value in random_weights(kind, 1).items()}
        graphs.append(to_graph(one, structure=kind))
    return collate(graphs)


def shapes() -> NeuronGraphs:
    """Perceptrons that take four numbers in a row, and convolutional networks that take them as an image."""
    convolutional = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3))
    image = trace(convolutional, torch.zeros(1, 1, 2, 2))
    nets = [to_graph({name: v[0] for name, v in random_weights(image, 1).items()}, structure=image) for _ in range(2)]
    return collate([nets[0], to_graph(mlp(4, 6, 3).double()), nets[1], to_graph(mlp(4, 5, 3).double())])


BATCHES: dict[str, Callable[[], NeuronGraphs]] = {
    "activations": activations,
    "depths": depths,
    "images": images,
    "shapes": shapes,
}


def prober(batch: NeuronGraphs, targets: int = 2, **options: object) -> Prober:
    model = Prober(None, targets, probes=12, hidden=(16, 16), **options).double()
    model.fit_statistics([batch])
    return model.double().eval()


@pytest.mark.parametrize("shakes", [0, 2])
@pytest.mark.parametrize("name", BATCHES)
def test_predictions_are_invariant_and_independent_of_other_networks(
    name: str, shakes: int, seeded: torch.Generator
) -> None:
    batch = BATCHES[name]()
    model = prober(batch, shakes=shakes)
    assert_invariant(model, batch, seeded)
    assert_independent(model, batch)


def test_what_networks_answer_is_what_the_modules_answer(seeded: torch.Generator) -> None:
    batch = depths()
    nets = [mlp(4, 6, 3), mlp(4, 5, 7, 6, 3, activation=nn.Tanh), mlp(4, 6, 3), mlp(4, 9, 3), mlp(4, 3)]
    nets = [net.double() for net in nets]
    batch = collate([to_graph(net) for net in nets])
    model = prober(batch)
    labels = model.questions.labels()
    for net, features in zip(nets, model.features(batch), strict=True):
        answers = net(model.questions.probes())
        agreement = (answers.softmax(-1) * labels).sum(-1).mean()
        soft = ((answers / 3).softmax(-1) * labels).sum(-1).mean()
        wide = describe({k: v.unsqueeze(0) for k, v in net.state_dict().items()}, trace(net)).shape[1]
        torch.testing.assert_close(features[wide : wide + 2], torch.stack([agreement, soft]), rtol=1e-10, atol=1e-12)


def test_readings_are_those_of_their_formulas() -> None:
    scores, labels = torch.randn(3, 5, 4, dtype=torch.float64), torch.rand(5, 4, dtype=torch.float64).softmax(-1)
    found = read_scores(scores, labels, (1.0, 2.0))
    soft = scores.softmax(-1)
    entropy = torch.distributions.Categorical(probs=soft).entropy()
    crossed = nn.functional.cross_entropy(scores.flatten(0, 1), labels.repeat(3, 1), reduction="none").view(3, 5)
    ordered = scores.sort(-1).values
    margin = (1 + ordered[..., -1] - ordered[..., -2]).log()
    width = found.shape[1] // 2
    for column, expected in ((2, entropy), (3, crossed), (4, margin)):
        torch.testing.assert_close(found[:, column], expected.mean(1))
        torch.testing.assert_close(found[:, width + column], expected.std(1, unbiased=False), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[:, 6:10], (soft * labels).mean(1))
    torch.testing.assert_close(found[:, 10:14], ((scores / 2).softmax(-1) * labels).mean(1))


def test_descriptions_have_one_width_and_tell_the_layers() -> None:
    shallow, deep = trace(mlp(4, 6, 3)), trace(mlp(4, 5, 7, 6, 3, activation=nn.Tanh))
    a, b = (describe(random_weights(structure, 2), structure) for structure in (shallow, deep))
    assert a.shape == b.shape
    weights = random_weights(deep, 2)
    twice = {k: 2 * v if k == "0.weight" else v for k, v in weights.items()}
    change = describe(twice, deep) - describe(weights, deep)
    assert float((change[:, 0] - torch.tensor(2.0).log()).abs().max()) < 1e-6
    assert float(change[:, 1:].abs().max()) < 1e-9


def test_gradients_reach_probes_labels_and_every_layer() -> None:
    batch = activations()
    model = prober(batch).train()
    model(batch).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_gradients_reach_the_networks() -> None:
    batch = activations()
    model = prober(batch)
    batch.edge_attr.requires_grad_()
    model(batch).sum().backward()
    assert batch.edge_attr.grad is not None
    assert bool((batch.edge_attr.grad != 0).any(1).double().mean() > 0.9)


def test_noise_on_weights_is_there_in_training_alone() -> None:
    batch = activations()
    model = prober(batch, weight_noise=0.1)
    assert torch.equal(model.features(batch), model.features(batch))
    model.train()
    assert not torch.equal(model.features(batch), model.features(batch))


@pytest.mark.parametrize("name", BATCHES)
def test_a_state_dict_makes_an_equal_model(name: str) -> None:
    batch = BATCHES[name]()
    model = prober(batch)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Prober(None, 2, probes=12, hidden=(16, 16)).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.double().eval()(batch), model(batch))


def test_the_seed_decides_the_start() -> None:
    structure = trace(mlp(4, 6, 3))
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(Prober(structure, 1).state_dict()["questions.stored_probes"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_examples_with_labels_are_the_first_probes() -> None:
    examples, own = torch.rand(12, 4), torch.arange(12) % 3
    model = Prober(trace(mlp(4, 6, 3)), 1, probes=12, examples=(examples, own))
    torch.testing.assert_close(model.questions.probes(), examples)
    assert torch.equal(model.questions.labels().argmax(-1), own)
    image = Prober(trace(mlp(4, 6, 3)), 1, probes=12, examples=(examples.view(12, 1, 2, 2), own))
    torch.testing.assert_close(image.questions.probes(), examples)


def test_diverged_networks_do_no_harm() -> None:
    structure = trace(mlp(4, 6, 5, 3, activation=nn.GELU))
    weights = {name: value.float() for name, value in random_weights(structure, 8).items()}
    weights = {name: torch.cat([value, 1e20 * value[:1], -1e30 * value[:1]]) for name, value in weights.items()}
    batch = to_graphs(weights, structure)
    model = Prober(structure, 2, probes=12, shakes=1)
    model.fit_statistics([batch])
    assert bool(torch.isfinite(model.eval().features(batch)).all())
    model.train()(batch).square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_what_does_not_vary_in_training_has_no_say_later() -> None:
    relu = trace(mlp(4, 6, 5, 3))
    model = prober(stack(relu, 20))
    varies = model.scale.varies.bool()
    assert 0 < int(varies.sum()) < len(varies)
    features = model.features(stack(relu, 1))
    changed = torch.where(varies, features, features + 1e3)
    assert torch.equal(model.scale(features), model.scale(changed))
    far = model.scale(features + 1e6)
    assert float(far.detach().abs().max()) <= 10


def test_it_learns_how_networks_answer(seeded: torch.Generator) -> None:
    """Accuracy on inputs that the model never sees."""
    structure = trace(mlp(4, 6, 3))
    weights = {k: v.float() for k, v in random_weights(structure, 400, 1.0).items()}
    batch = to_graphs(weights, structure)
    truth = torch.randn(4, 3, generator=seeded)
    inputs = torch.randn(500, 4, generator=seeded)
    labels = (inputs @ truth).argmax(-1)
    hidden = torch.relu(torch.einsum("bhi,ni->bnh", weights["0.weight"], inputs) + weights["0.bias"].unsqueeze(1))
    scores = torch.einsum("bch,bnh->bnc", weights["2.weight"], hidden) + weights["2.bias"].unsqueeze(1)
    accuracy = (scores.argmax(-1) == labels).float().mean(1, keepdim=True)
    torch.manual_seed(0)
    model = Prober(structure, 1, probes=32, hidden=(32,))
    parts = [
        (to_graphs({k: v[i : i + 50] for k, v in weights.items()}, structure), accuracy[i : i + 50])
        for i in range(0, 300, 50)
    ]
    model.fit_statistics(parts)
    mean, deviation = accuracy[:300].mean(), accuracy[:300].std()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        for part, target in parts:
            optimizer.zero_grad()
            (model(part) - (target - mean) / deviation).square().mean().backward()
            optimizer.step()
    new = (accuracy[300:] - mean) / deviation
    error = float((model.eval()(batch)[300:].detach() - new).square().mean() / (new - new.mean()).square().mean())
    assert error < 0.35


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(a + b)


class Score(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sum(-1)


def unprobed() -> dict[str, tuple[Structure, str]]:
    row = torch.zeros(2, 4)
    words = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    return {
        "two inputs": (trace(Pair(), (row, row)), "takes 2 input tensors, probes are one"),
        "no classes": (trace(Score(), row), r"gives \[2\] instead of \[2, classes\]"),
        "one class": (trace(mlp(4, 5, 1)), "with at least 2 classes"),
        "words": (trace(words, torch.zeros(2, 3, dtype=torch.int64)), "of type int64; learned probes are real numbers"),
    }


@pytest.mark.parametrize("case", ["two inputs", "no classes", "one class", "words"])
def test_networks_that_cannot_be_probed_are_named(case: str) -> None:
    structure, message = unprobed()[case]
    with pytest.raises(StructureMismatch, match=f"{structure.name} cannot be probed: .*{message}"):
        Prober(structure, 1)


def test_networks_of_other_sizes_are_named() -> None:
    model = Prober(trace(mlp(4, 6, 3)), 1, probes=6)
    for other in (mlp(5, 6, 3), mlp(4, 6, 7)):
        with pytest.raises(StructureMismatch, match=r"this Prober asks inputs of shape \(4,\) and reads 3 classes"):
            model(collate([to_graph(mlp(4, 6, 3)), to_graph(other)]))


def test_a_structure_is_needed_before_the_first_prediction() -> None:
    with pytest.raises(RuntimeError, match="has not seen networks; call fit_statistics"):
        Prober(None, 1)(to_graph(mlp(4, 6, 3)))


def test_wrong_arguments_are_named() -> None:
    structure = trace(mlp(4, 6, 3))
    with pytest.raises(
        ValueError, match=r"examples has shape \[12, 5\]; 12 probes of these networks have shape \[12, 4\]"
    ):
        Prober(structure, 1, probes=12, examples=torch.zeros(12, 5))
    with pytest.raises(ValueError, match="the classes of examples must be 12 integers from 0 to 2"):
        Prober(structure, 1, probes=12, examples=(torch.zeros(12, 4), torch.full((12,), 3)))
    with pytest.raises(ValueError, match="probes=0 must be at least 1"):
        Prober(structure, 1, probes=0)


def test_groups_keep_every_network_and_its_place() -> None:
    batch = depths()
    groups = by_structure(batch)
    assert sorted(torch.cat([places for _, places, _ in groups]).tolist()) == list(range(5))
    assert len(groups) == 4
    for structure, places, weights in groups:
        assert input_and_classes(structure) == ((4,), 3)
        for row, place in enumerate(places.tolist()):
            assert batch[place].structure == structure
            edges = batch[place].edge_attr.flatten()
            flat = torch.cat([weights[b.parameter][row].flatten() for b in structure.blocks if b.parameter])
            assert torch.equal(edges, flat)


def test_permuting_changes_the_graph_that_the_prediction_ignores(seeded: torch.Generator) -> None:
    batch = activations()
    assert not torch.equal(permuted(batch, seeded).edge_attr, batch.edge_attr)


def test_shaking_is_noise_of_the_given_size_that_differs_from_one_number_to_the_next() -> None:
    weights = torch.randn(3, 400, 50, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1)
    noise = [
        (shaken(weights, 0.4, number) - weights) / weights.square().mean((1, 2), keepdim=True).sqrt()
        for number in (0, 1)
    ]
    for each in noise:
        assert float(each.mean((1, 2)).abs().max()) < 0.02
        torch.testing.assert_close(each.std((1, 2)), torch.full((3,), 0.4, dtype=torch.float64), rtol=0.03, atol=0)
    both = torch.stack([each.flatten(1) for each in (*noise, weights)], 1)
    for network in both:
        assert float((torch.corrcoef(network) - torch.eye(3)).abs().max()) < 0.05
    assert torch.equal(shaken(weights, 0.4, 0), shaken(weights, 0.4, 0))


def test_changes_leave_buffers_alone_and_tied_tensors_tied() -> None:
    structure = trace(Residual(), torch.zeros(1, 2, 8, 8))
    weights = random_weights(structure, 2)
    twice = changed(weights, structure, lambda value: 2 * value)
    for parameter in structure.parameters:
        factor = 1 if parameter.buffer else 2
        assert torch.equal(twice[parameter.name], factor * weights[parameter.name])
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    own = trace(tied)
    stack = {name: value.detach().unsqueeze(0) for name, value in tied.state_dict().items()}
    noisy = changed(stack, own, lambda value: value + torch.randn_like(value))
    assert torch.equal(noisy["0.weight"], noisy["2.weight"])
    assert not torch.equal(noisy["0.weight"], stack["0.weight"])
