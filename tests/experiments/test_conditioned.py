"""Tasks on conditions: what a condition is, what is scored, and that nothing of a test network leaks into samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from converters import execute
from experiments.config import CONFIG_DIR, parse
from experiments.evaluation.space import draw_interpolation, draw_space, interpolation
from experiments.predictor import Predictor
from experiments.pretraining import Composed, Sampled, codes_of
from experiments.tasks import Sampling, SharedSpace
from experiments.tasks.conditioned import HalvesApart, HalvesTogether
from experiments.training import train
from experiments.zoo import Zoo, get_zoo
from graphnets.contrastive import chance_nt_xent, class_means, from_rows, nt_xent, to_rows
from graphnets.contrastive.rows import held
from tests.experiments.test_weight_coding import SMALL

LATENT = 6
PIXELS = {"name": "pixels", "channels": 4}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    config = {**SMALL, "name": "conditioned", "size": 60, "checkpoints": 2, "early": {"uniform": [3, 10]}}
    return get_zoo(config, tmp_path_factory.mktemp("conditioned"), progress=False)


@pytest.fixture(scope="module")
def shared(zoo: Zoo) -> SharedSpace:
    return SharedSpace(zoo, LATENT, PIXELS, align=False)


@pytest.fixture(scope="module")
def sampling(zoo: Zoo) -> Sampling:
    return Sampling(zoo, LATENT, PIXELS, samples=3, align=False)


def whole(task: SharedSpace | Sampling, split: str) -> Tensor:
    return torch.cat([target for _, target in task.loader(split, 7)]).double()


def test_a_condition_is_the_classes_in_order_and_the_result(shared: SharedSpace, zoo: Zoo) -> None:
    target = whole(shared, "val")
    records = zoo.records[zoo.records["split"] == "val"]
    assert shared.numbers == 3 * 4 + 1
    for row, (_, record) in zip(target, records.iterrows(), strict=True):
        classes = [int(each) for each in record["classes"].split("-")]
        expected = class_means(shared.features, shared.data.pool_labels, classes)
        assert torch.allclose(row[:12], expected.double())
        turned = class_means(shared.features, shared.data.pool_labels, classes[::-1])
        assert not torch.allclose(row[:12], turned.double())
        assert float(row[12]) == pytest.approx(record["test_loss"], rel=1e-6)
        assert row[13:].tolist() == pytest.approx([record["run"], record["test_accuracy"], *classes])


def test_batches_carry_their_conditions(shared: SharedSpace) -> None:
    class First(nn.Module):
        encoder = nn.Identity()

        def encode(self, graphs: Any) -> Tensor:
            return torch.ones(graphs.num_graphs, 2, 3)

    for graphs, target in shared.loader("train", 11):
        codes = codes_of(First(), graphs)
        assert codes.shape == (len(target), 6 + shared.numbers)
        assert torch.equal(codes[:, 6:], target[:, : shared.numbers])


def test_perfect_projections_find_everything_and_equal_ones_nothing(shared: SharedSpace) -> None:
    target = whole(shared, "test")
    torch.manual_seed(0)
    latents = torch.randn(len(target), LATENT).double()
    perfect = shared.score(torch.cat([latents, latents], 1), target)["gallery"]
    assert perfect["recall_1"] == perfect["recall_10"] == perfect["recall_1_weights"] == 1.0
    assert perfect["recall_1_lift"] == len(target)
    assert perfect["below_chance"] > 1.0
    assert perfect["below_chance"] == pytest.approx(perfect["chance"] - perfect["nt_xent"])
    constant = torch.cat([torch.ones_like(latents), latents], 1)
    assert shared.score(constant, target)["gallery"]["recall_1"] <= 1 / len(target) + 1e-9
    assert shared.answers(torch.cat([latents, latents], 1), target)[0].mean() == 1.0


def test_probes_are_not_fitted_to_what_they_are_scored_on(shared: SharedSpace) -> None:
    target = whole(shared, "train")
    torch.manual_seed(0)
    noise = torch.randn(len(target), LATENT).double()
    found = shared.score(torch.cat([noise, noise], 1), target)["gallery"]
    assert found["probe_accuracy"] < 0.2
    assert found["probe_class"] < 0.4
    noise[:, 0] = target[:, shared.numbers + 1]
    assert shared.score(torch.cat([noise, noise], 1), target)["gallery"]["probe_accuracy"] > 0.95


def test_the_objectives(shared: SharedSpace) -> None:
    target = whole(shared, "train")[:8]
    torch.manual_seed(0)
    output = torch.randn(8, 2 * LATENT).double()
    runs = target[:, shared.numbers]
    together, apart = shared.objective(), shared.objective("mse")
    assert type(together) is HalvesTogether
    assert isinstance(apart, HalvesApart)
    expected = nt_xent(*output.chunk(2, 1), 0.1, runs)
    assert float(together.loss(output, target)) == pytest.approx(float(expected))
    assert float(nt_xent(*output.chunk(2, 1), 0.1)) != pytest.approx(float(expected)), "snapshots of a run are masked"
    assert chance_nt_xent(8, runs) < chance_nt_xent(8)
    assert float(apart.loss(output, target)) == pytest.approx(float((output[:, :6] - output[:, 6:]).square().mean()))
    with pytest.raises(ValueError, match="nt_xent, mse"):
        shared.objective("huber")


def test_what_is_asked_knows_nothing_of_the_test_network(sampling: Sampling, shared: SharedSpace) -> None:
    asked, own = whole(sampling, "test"), whole(shared, "test")
    column = sampling.numbers - 1
    levels = asked[:, column].unique()
    assert len(levels) == min(Sampling.LEVELS, len(asked))
    training = whole(shared, "train")[:, column]
    assert training.min() <= levels.min() < levels.max() <= training.max()
    assert torch.equal(asked[:, :column], own[:, :column]), "data sets are theirs"
    assert not torch.allclose(asked[:, column], own[:, column])
    assert torch.equal(whole(sampling, "train"), whole(shared, "train")), "training networks keep their results"


def test_sampled_networks_are_run_on_their_own_classes(sampling: Sampling, zoo: Zoo) -> None:
    target = whole(sampling, "test")
    dataset = sampling.dataset("test")
    rows = to_rows(dataset.weights(range(len(dataset))), sampling._structure).double()
    found = sampling.score(rows.repeat(1, 3), target)["unseen tasks"]
    records = zoo.records[zoo.records["split"] == "test"]
    assert found["reached_accuracy"] == pytest.approx(records["test_accuracy"].mean(), abs=1e-6)
    assert found["diversity"] == 0.0
    assert found["distance"] > 0.3
    accuracy, loss, _, _ = sampling._measured(rows.repeat(1, 3), target)
    assert torch.allclose(loss[:, 0], torch.tensor(records["test_loss"].tolist()).double(), atol=1e-5)
    assert torch.allclose(accuracy[:, 1], torch.tensor(records["test_accuracy"].tolist()).double(), atol=1e-6)


def test_a_copy_has_no_distance_and_order_by_loss_is_seen(sampling: Sampling) -> None:
    target = whole(sampling, "test")
    train_set = sampling.dataset("train")
    copies = to_rows(train_set.weights(range(len(target))), sampling._structure).double()
    assert sampling.score(copies.repeat(1, 3), target)["unseen tasks"]["distance"] < 1e-3
    _, loss, _, _ = sampling._measured(copies.repeat(1, 3), target)
    ordered = target.clone()
    ordered[:, sampling.numbers - 1] = loss[:, 0]
    assert sampling.score(copies.repeat(1, 3), ordered)["unseen tasks"]["spearman"] == pytest.approx(1.0)


def test_unlike_samples_are_diverse(sampling: Sampling) -> None:
    target = whole(sampling, "test")
    dataset = sampling.dataset("test")
    rows = to_rows(dataset.weights(range(len(dataset))), sampling._structure).double()
    three = torch.cat([rows, rows.roll(1, 0), rows.roll(2, 0)], 1)
    stack = from_rows(three[:1].view(3, -1).float(), sampling._structure)
    logits = execute(stack, sampling.prepare(sampling.data.test).float(), structure=sampling._structure)
    classes = [int(each) for each in target[0, sampling.numbers + 2 :]]
    own = torch.tensor([int(label) in classes for label in sampling.data.test_labels])
    given = logits.argmax(2)[:, own]
    expected = sum(float((given[i] != given[j]).double().mean()) for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    assert float(sampling._measured(three, target)[2][0]) == pytest.approx(expected)


def test_a_wrong_encoder_or_result_is_named(zoo: Zoo) -> None:
    with pytest.raises(ValueError, match=r"task\.encoder\.name='eyes' is one of pixels, trained, clip"):
        SharedSpace(zoo, LATENT, {"name": "eyes"})
    with pytest.raises(ValueError, match=r"task\.result='beauty' is no column"):
        SharedSpace(zoo, LATENT, PIXELS, result="beauty")


def compiled(experiment: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return parse(compose("train", [f"experiment=contrastive/{experiment}", "scale=tiny", *overrides]))


@pytest.mark.parametrize("method", ["projection", "projection_density", "flow", "nearest", "mean", "noise"])
def test_samples_do_not_see_the_weights_of_test_networks(method: str, sampling: Sampling, tmp_path: Path) -> None:
    parsed = compiled("conditional_sampling")
    (settings,) = next(each for each in parsed.methods if each.name == method).trials
    settings.model["data_channels"] = 12
    assert settings.pretraining is not None
    settings.pretraining.model.update(latent=LATENT, examples=None)
    model, outcome = train(settings, sampling, 0, tmp_path / "one", shared=tmp_path / "shared")
    assert isinstance(model, Sampled)
    assert outcome.parameters > 0
    graphs, _ = next(iter(sampling.loader("test", 5)))
    rows = model(graphs)
    assert rows.shape == (5, 3 * sum(p.numel for p in held(sampling._structure)))
    blank = graphs.clone()
    blank.edge_attr = torch.zeros_like(blank.edge_attr)
    blank.condition = graphs.condition
    predictor = Predictor([(model, sampling.objective(settings.trainer.loss))])
    draw_interpolation(predictor, sampling, tmp_path / "drawn")
    assert (tmp_path / "drawn" / "interpolation.png").exists() is method.startswith("projection")
    again, _ = train(settings, sampling, 0, tmp_path / "two", shared=tmp_path / "shared")
    assert torch.allclose(again(blank), rows, atol=1e-5)
    assert len(list((tmp_path / "shared").iterdir())) == 1, "one first stage for both"


def test_methods_share_their_first_stage(shared: SharedSpace, tmp_path: Path) -> None:
    parsed = compiled("shared_encoder")
    (settings,) = next(each for each in parsed.methods if each.name == "shared_encoder").trials
    settings.model["data_channels"] = 12
    assert settings.pretraining is not None
    settings.pretraining.model.update(latent=LATENT, examples=None)
    models = [
        train(settings, shared, seed, tmp_path / str(i), shared=tmp_path / "s")[0] for i, seed in enumerate((0, 0, 1))
    ]
    assert len(list((tmp_path / "s").iterdir())) == 2, "a seed has its own"
    alone, _ = train(settings, shared, 0, tmp_path / "alone")
    assert (tmp_path / "alone" / "pretraining" / "best.ckpt").exists()
    graphs, _ = next(iter(shared.loader("test", 5)))
    found = [model.eval()(graphs) for model in (*models, alone)]
    assert all(isinstance(model, Composed) for model in models)
    assert shared.invariance(Predictor([(models[0].eval(), shared.objective())])) < 1e-4
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[3]), "a shared first stage is the one that would be trained alone"
    assert not torch.allclose(found[0], found[2])


def test_figures_of_the_space(shared: SharedSpace, sampling: Sampling, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Guess(nn.Module):
        def forward(self, graphs: Any) -> Tensor:
            return torch.randn(graphs.num_graphs, 2 * LATENT)

    predictor = Predictor([(Guess(), shared.objective())])
    draw_space(predictor, shared, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{n}.{s}" for n in ("similarities", "space") for s in ("png", "svg")
    }
    draw_space(predictor, sampling, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_order_of_neurons_that_shows_is_reported(shared: SharedSpace) -> None:
    class First(nn.Module):
        encoder = nn.Identity()

        def encode(self, graphs: Any) -> Tensor:
            return graphs.edge_attr.view(graphs.num_graphs, -1)[:, :LATENT]

    class Second(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == LATENT + shared.numbers
            return x[:, : 2 * LATENT]

    model = Composed(First(), Second())
    assert shared.invariance(Predictor([(model, shared.objective())])) > 0.01


def test_interpolation_goes_from_one_projection_to_the_other(sampling: Sampling, tmp_path: Path) -> None:
    parsed = compiled("conditional_sampling")
    (settings,) = next(each for each in parsed.methods if each.name == "projection").trials
    settings.model["data_channels"] = 12
    assert settings.pretraining is not None
    settings.pretraining.model.update(latent=LATENT, examples=None)
    model, _ = train(settings, sampling, 0, tmp_path)
    assert isinstance(model, Sampled)
    accuracy, loss = interpolation(model, sampling)
    graphs, target = next(iter(sampling.loader("test", 40)))
    assert accuracy.shape == loss.shape == (len(target), 9)
    asked = whole(sampling, "test")[:, sampling.numbers - 1]
    for end, result in ((0, asked.max()), (-1, asked.min())):
        graphs.condition[:, -1] = result
        rows = model(graphs).view(len(target), 3, -1)
        assert torch.allclose(sampling.reached(rows.float(), target)[1][:, 0], loss[:, end], atol=1e-4)
