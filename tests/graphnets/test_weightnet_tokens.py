"""The paper's tokens and sorted ones: what stands where, and which symmetry is kept."""

from __future__ import annotations

import io
import itertools
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from converters import NeuronGraphs, Structure, collate, sample_permutation, to_graph, to_graphs, to_state_dict, trace
from converters.structure import Group
from graphnets import WeightNet
from graphnets.layered import Layered
from graphnets.message_passing.encodings import squash
from graphnets.testing import assert_independent, assert_invariant, in_double, permuted
from graphnets.weightnet import PlaceEncoding, SequenceTokens
from graphnets.weightnet.order import NeuronTable, sorted_nodes
from graphnets.weightnet.sequences import widest_input

from .networks import Residual, cnn, mixture, mlp, random_weights, stack, structures

SEQUENCES = ("paper", "sorted")


class Depthwise(nn.Module):
    """A depthwise convolution beside a residual connection, a grouped convolution and a bias-free head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=8)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2)
        self.head = nn.Linear(6 * 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.depthwise(x).relu()
        return self.head(self.grouped(x).relu().flatten(1))


def every_structure() -> dict[str, Structure]:
    normed = nn.Sequential(nn.Linear(4, 12), nn.GroupNorm(3, 12), nn.ReLU(), nn.Linear(12, 3))
    return {
        **structures(),
        "depthwise": trace(Depthwise(), torch.zeros(1, 2, 4, 4)),
        "group_norm": trace(normed, torch.zeros(1, 4)),  # cells of neurons
    }


def fitted(model: WeightNet, batch: NeuronGraphs) -> WeightNet:
    model.double().fit_statistics([batch])
    return model.eval()


def row(state: dict[str, Tensor], weight: str, neuron: int, width: int) -> Tensor:
    """A neuron's incoming numbers as the paper flattens them: ``weight[j].flatten()``, zeros behind."""
    numbers = state[weight][neuron].flatten()
    return torch.cat([numbers, numbers.new_zeros(width)])[:width]


@pytest.mark.parametrize(("network", "width"), [("mlp", 6), ("deep", 7), ("cnn", 30), ("residual", 54)])
def test_the_width_is_that_of_the_widest_neuron(network: str, width: int) -> None:
    assert widest_input(structures()[network]) == width


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("network", ["mlp", "cnn", "residual", "depthwise"])
def test_a_token_is_the_projection_of_incoming_weights_and_own_parameters(network: str, mixed: bool) -> None:
    structure = every_structure()[network]
    batch = stack(structure, 2)
    tokens = SequenceTokens(structure, 8, encodings=(), positions=()).double()
    with torch.no_grad():  # so that the row is W[j] itself
        fan_in = Layered(batch).fan_in.double()
        first = [int(start) for start in structure.edge_offsets[:-1]]
        tokens.scaling.edge_scale.copy_(fan_in[first].sqrt())
    found = tokens(batch, Layered(batch, mixed=mixed))
    states = [to_state_dict(graph) for graph in batch.to_data_list()]
    assert tokens.max_inputs is not None
    blank = torch.zeros(tokens.max_inputs, dtype=torch.float64)
    seen = 0
    for number, layer in enumerate(structure.layers[1:], 1):
        weights = [b.parameter for b in structure.blocks if b.target == number and b.parameter is not None]
        for network_number, state in enumerate(states):
            for neuron in range(layer.size):
                place = neuron + network_number * layer.size
                token = found[number][0, place] if mixed else found[number][network_number, neuron]
                incoming = row(state, weights[0], neuron, tokens.max_inputs) if weights else blank
                own = torch.zeros(6, dtype=torch.float64)
                mask = torch.zeros(6, dtype=torch.float64)
                for slot, name in layer.slots:
                    column = ("bias", "scale", "running_mean", "running_var", "slope", "value").index(slot)
                    own[column], mask[column] = state[name][neuron], 1
                expected = tokens.projection(squash(incoming))
                expected = expected + tokens.node_encoding.parameters_of(torch.cat([squash(own), mask]))
                assert torch.allclose(token, expected, rtol=0, atol=1e-12)
                seen += 1
    assert seen == 2 * (structure.num_nodes - structure.layers[0].size)


def test_numbers_beyond_the_width_are_cut_off_and_missing_ones_are_zeros() -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 3)
    wide, narrow = (SequenceTokens(None, 8, max_inputs=width).double() for width in (9, 5))
    with torch.no_grad():
        narrow.load_state_dict({**wide.state_dict(), "projection.weight": narrow.projection.weight})
        wide.projection.weight.zero_()
        for half in range(2):
            wide.projection.weight[:, 9 * half : 9 * half + 5] = narrow.projection.weight[:, 5 * half : 5 * half + 5]
    view = Layered(batch)
    for a, b in zip(wide(batch, view), narrow(batch, view), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    cut = in_double(batch)
    cut.edge_attr = cut.edge_attr.clone()
    fifth = (structure.node_offsets[1] + 5 == batch.edge_index[0] % structure.num_nodes).nonzero()  # the sixth source
    cut.edge_attr[fifth] += 1
    assert len(fifth) == 3 * 5
    assert torch.equal(narrow(cut, view)[2], narrow(batch, view)[2])


@pytest.mark.parametrize("network", ["mlp", "cnn", "residual"])
def test_the_papers_tokens_notice_true_permutations(network: str, seeded: torch.Generator) -> None:
    structure = structures()[network]
    batch = stack(structure, 6)
    model = fitted(WeightNet(structure, 3, channels=16, tokens="paper"), batch)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(model, batch, seeded)
    with torch.no_grad():
        expected = model(batch)
        moved = float((model(permuted(batch, seeded)) - expected).abs().max() / expected.std(0).max())
    assert moved > 0.1  # of the spread between networks; rounding is 1e-15
    assert torch.equal(model(batch), expected)


@pytest.mark.parametrize("kinds", [["layer"], ["sequence"], ["layer", "sequence"]])
def test_positions_end_the_invariance_of_invariant_tokens(kinds: list[str], seeded: torch.Generator) -> None:
    structure = structures()["mlp"]
    batch = stack(structure)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(
            fitted(WeightNet(structure, 3, channels=8, positions=kinds), batch), batch, seeded, tolerance=1e-3
        )
    assert_invariant(fitted(WeightNet(structure, 3, channels=8, positions=[]), batch), batch, seeded)


@pytest.mark.parametrize("with_structure", [False, True])
@pytest.mark.parametrize("network", ["mlp", "deep", "cnn", "residual", "depthwise", "group_norm"])
def test_sorted_tokens_are_invariant(network: str, with_structure: bool, seeded: torch.Generator) -> None:
    structure = every_structure()[network]
    batch = stack(structure, 5)
    model = WeightNet(structure if with_structure else None, 3, channels=8, tokens="sorted", pre_norm=True)
    assert_invariant(fitted(model, batch), batch, seeded, samples=4)


def test_sorted_tokens_of_mixed_architectures_are_invariant(seeded: torch.Generator) -> None:
    more = [graph for name in ("depthwise", "group_norm") for graph in stack(every_structure()[name], 2).to_data_list()]
    batch = collate([*mixture().to_data_list(), *more])
    model = fitted(WeightNet(None, 3, channels=8, tokens="sorted"), batch)
    assert_invariant(model, batch, seeded, samples=4, noticed=1e-5)


def nested() -> Structure:
    """Two layers of 6 neurons: 3 cells of 2 in the second, which move with the first layer's 3 neurons."""
    structure = trace(mlp(2, 3, 6, 2))
    return replace(structure, groups=tuple(_celled(i, g) for i, g in enumerate(structure.groups)))


def _celled(number: int, group: Group) -> Group:
    return Group(group.name, 6, "hidden", parent=1, cells=3) if number == 2 else group


def test_nested_groups_are_sorted_within_their_cells_and_with_their_parents(seeded: torch.Generator) -> None:
    structure = nested()
    assert any(group.parent is not None for group in every_structure()["group_norm"].groups)
    table = NeuronTable.of(Layered(stack(structure, 2)))
    assert [len(level) for level in table.levels] == [3, 6]
    sizes = torch.rand(2, structure.num_nodes, generator=seeded).double()
    place = sorted_nodes(sizes, table)
    first, second = slice(2, 5), slice(5, 11)
    whole = sizes[:, first] + sizes[:, second].view(2, 3, 2).sum(-1)
    cells = whole.argsort(1).argsort(1)
    assert torch.equal(place[:, first] - 2, cells)
    inside = sizes[:, second].view(2, 3, 2).argsort(2).argsort(2)
    assert torch.equal(place[:, second] - 5, (2 * cells.unsqueeze(-1) + inside).flatten(1))
    assert torch.equal(place[:, :2], torch.arange(2).expand(2, -1))
    assert torch.equal(place[:, 11:], torch.arange(11, 13).expand(2, -1))
    order = sample_permutation(structure, seeded)
    moved = sizes.clone()
    moved[:, first], moved[:, second] = sizes[:, first][:, order[1]], sizes[:, second][:, order[2]]
    again = sorted_nodes(moved, table)
    canonical = torch.empty_like(sizes).scatter(1, place, sizes)
    assert torch.equal(torch.empty_like(sizes).scatter(1, again, moved), canonical)


@pytest.mark.parametrize("network", ["cnn", "residual", "depthwise"])
@pytest.mark.parametrize("mixed", [False, True])
def test_nodes_that_are_permuted_together_are_sorted_together(network: str, mixed: bool) -> None:
    structure = every_structure()[network]
    batch = stack(structure, 3)
    view = Layered(batch, mixed=mixed)
    table = NeuronTable.of(view)
    sizes = torch.rand(view.rows, len(table.member), dtype=torch.float64)
    place = sorted_nodes(sizes, table).view(3, -1)
    if mixed:
        place = place - torch.arange(3).unsqueeze(1) * structure.num_nodes
    found = structure.node_offsets
    for number, (layer, (start, stop)) in enumerate(zip(structure.layers, itertools.pairwise(found), strict=True)):
        here = place[:, start:stop]
        assert torch.equal(here.sort(1).values, torch.arange(start, stop).expand(3, -1))
        member = torch.from_numpy(layer.axis.member.values.copy())
        slot = torch.from_numpy(layer.axis.slot.values.copy())
        assert torch.equal(slot[here - start], slot.expand(3, -1))
        for other, begin in zip(structure.layers, found, strict=False):
            if layer.axis == other.axis:
                assert torch.equal(place[:, begin : begin + layer.size] - begin, here - start)
        if layer.kind == "flatten":  # every pixel of a channel follows it
            source = next(block.source for block in structure.blocks if block.target == number)
            channels = place[:, found[source] : found[source + 1]] - found[source]
            assert torch.equal(member[here - start], channels[:, member])


def test_ties_keep_the_stored_order_and_copies_of_a_neuron_do_no_harm(seeded: torch.Generator) -> None:
    structure = structures()["mlp"]
    weights = random_weights(structure, 4)
    weights["0.weight"][:, 1], weights["0.bias"][:, 1] = weights["0.weight"][:, 4], weights["0.bias"][:, 4]
    weights["2.weight"][:, :, 1] = weights["2.weight"][:, :, 4]
    batch = to_graphs(weights, structure)
    assert_invariant(fitted(WeightNet(structure, 3, channels=8, tokens="sorted"), batch), batch, seeded)
    table = NeuronTable.of(Layered(batch))
    assert torch.equal(sorted_nodes(torch.ones(4, 18), table), torch.arange(18).expand(4, -1))


def test_sorting_is_discontinuous_where_two_neurons_tie() -> None:
    structure = trace(mlp(2, 2, 1))
    weights = {
        "0.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "0.bias": torch.zeros(2),
        "2.weight": torch.ones(1, 2),
        "2.bias": torch.zeros(1),
    }
    jumps = {}
    for tokens in ("invariant", "sorted"):
        model = WeightNet(structure, 1, channels=8, tokens=tokens).double().eval()
        out = []
        for shift in (-1e-9, 1e-9):
            moved = {name: value.double().unsqueeze(0) for name, value in weights.items()}
            moved["0.weight"][0, 0, 0] += shift
            out.append(model(to_graphs(moved, structure)))
        jumps[tokens] = float((out[0] - out[1]).detach().abs())
    assert jumps["invariant"] < 1e-7
    assert jumps["sorted"] > 1e-4


@pytest.mark.parametrize("tokens", SEQUENCES)
@pytest.mark.parametrize("network", ["mlp", "cnn", "residual", "depthwise"])
def test_the_dense_and_the_mixed_path_agree(tokens: str, network: str) -> None:
    structure = every_structure()[network]
    batch = stack(structure)
    model = fitted(WeightNet(structure, 3, channels=8, tokens=tokens), batch)
    results = []
    for mixed in (False, True):
        out = model.predict(batch, Layered(batch, mixed=mixed))
        results.append((out, torch.autograd.grad(out.square().sum(), list(model.parameters()))))
    (dense, grads), (other, other_grads) = results
    assert torch.allclose(dense, other, rtol=0, atol=1e-10)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-9) for a, b in zip(grads, other_grads, strict=True))


@pytest.mark.parametrize("tokens", SEQUENCES)
def test_a_prediction_depends_on_no_other_architecture(tokens: str) -> None:
    batch = mixture()
    assert_independent(fitted(WeightNet(None, 3, channels=8, tokens=tokens), batch), batch)


@pytest.mark.parametrize("tokens", ["invariant", *SEQUENCES])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "moments"])
def test_every_option_goes_with_every_kind_of_token(tokens: str, pooling: str) -> None:
    batch = mixture()
    model = WeightNet(
        None, 2, channels=8, tokens=tokens, pooling=pooling, encodings=[], pre_norm=True, dropout=0.5, weight_noise=0.1
    )
    fitted(model, batch).train()
    one, other = model(batch), model(batch)
    assert bool((one != other).any())  # dropout and noise
    one.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.tokens.parameters())
    names = {key.split(".")[0] for key, _ in model.named_parameters()}
    assert not names & {"segment", "layer_type", "depth"}
    assert torch.equal(model.eval()(batch), model(batch))


@pytest.mark.parametrize("tokens", SEQUENCES)
def test_the_width_is_learnt_from_the_networks_and_kept_in_the_state(tokens: str) -> None:
    known = structures()
    model = WeightNet(None, 1, channels=8, tokens=tokens)
    with pytest.raises(RuntimeError, match="without max_inputs and has not seen networks"):
        model(stack(known["mlp"]))
    model.double().fit_statistics(iter([(stack(known["mlp"]), None), (stack(known["cnn"]), None)]))
    assert isinstance(model.tokens, SequenceTokens)
    assert model.tokens.max_inputs == 30
    assert model.tokens.projection.weight.dtype == torch.float64
    model.fit_statistics([stack(known["residual"])])
    assert model.tokens.max_inputs == 30
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = WeightNet(None, 1, channels=8, tokens=tokens).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    batch = mixture()
    assert torch.equal(other.eval()(batch), model.eval()(batch))  # residual networks are cut off at 30


def test_own_kernels_are_read_whatever_the_batch_pads_them_to() -> None:
    torch.manual_seed(0)
    convolution, dense = to_graph(cnn().double(), torch.zeros(1, 2, 8, 8).double()), to_graph(mlp(4, 6, 3).double())
    wide = to_graph(Residual().double(), torch.zeros(1, 2, 8, 8).double(), kernel_size=(5, 5))
    model = fitted(WeightNet(None, 1, channels=8, tokens="paper", max_inputs=60), collate([convolution, dense]))
    together = model(collate([convolution, dense, wide]))
    alone = torch.cat([model(graph) for graph in (convolution, dense, wide)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


def test_places_are_the_sinusoids_of_the_transformer() -> None:
    structure = structures()["mlp"]
    view = Layered(stack(structure, 2))
    table, node = NeuronTable.of(view), torch.arange(18).unsqueeze(0)
    place = torch.tensor([*range(6), *range(5), *range(3)]).double()
    for kind, places in (("layer", place), ("sequence", torch.arange(14).double())):
        found = PlaceEncoding([kind], 6)(node, table, view, torch.float64)[0, 4:]
        for k in range(3):
            phase = places / 10000 ** (2 * k / 6)
            assert torch.allclose(found[:, 2 * k], phase.sin())
            assert torch.allclose(found[:, 2 * k + 1], phase.cos())
    both = PlaceEncoding(["sequence", "layer"], 7)(node, table, view, torch.float64)
    assert torch.equal(both[..., :3], PlaceEncoding(["layer"], 3)(node, table, view, torch.float64))
    assert torch.equal(both[..., 3:], PlaceEncoding(["sequence"], 4)(node, table, view, torch.float64))


def test_places_of_a_mixed_batch_start_anew_for_every_network() -> None:
    known = structures()
    graphs = [graph for name in ("mlp", "deep") for graph in stack(known[name], 1).to_data_list()]
    view = Layered(collate(graphs))
    encoding = PlaceEncoding(["layer", "sequence"], 8)
    together = encoding(torch.arange(18 + 25).unsqueeze(0), NeuronTable.of(view), view, torch.float64)[0]
    owner, layer = view.node_owner[0], view.node_field("node_layer")
    for number, graph in enumerate(graphs):
        alone_view = Layered(graph)
        nodes = torch.arange(graph.num_nodes).unsqueeze(0)
        alone = encoding(nodes, NeuronTable.of(alone_view), alone_view, torch.float64)[0]
        assert torch.equal(together[owner == number], alone)
    assert len(owner) == len(layer) == 43


def test_noise_on_weights_does_not_change_the_order() -> None:
    structure = structures()["mlp"]
    batch = stack(structure, 3)
    plain = SequenceTokens(structure, 8, sort=True).double()
    noisy = deepcopy(plain).train()
    noisy.weight_noise = 0.5
    with torch.no_grad():
        noisy.projection.weight.zero_()
        plain.projection.weight.zero_()
    view = Layered(batch)
    assert all(torch.equal(a, b) for a, b in zip(noisy(batch, view), plain(batch, view), strict=True))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens='raw' is unknown; choose one of invariant, paper, sorted"):
        WeightNet(None, 1, tokens="raw")
    with pytest.raises(ValueError, match="unknown positions depth; known are layer, sequence"):
        WeightNet(None, 1, tokens="paper", positions=["depth"])
    with pytest.raises(ValueError, match="max_inputs=0 leaves no room"):
        WeightNet(None, 1, tokens="paper", max_inputs=0)


def test_a_printed_model_tells_its_tokens() -> None:
    assert "as stored, max_inputs=unknown yet" in repr(WeightNet(None, 1, tokens="paper"))
    assert "sorted, max_inputs=6" in repr(WeightNet(structures()["mlp"], 1, tokens="sorted"))
    assert "PlaceEncoding(layer, sequence)" in repr(WeightNet(None, 1, tokens="paper"))
