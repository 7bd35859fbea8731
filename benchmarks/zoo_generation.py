"""How many zoo networks a minute of one processor trains: stacked, and one after the other.

``python benchmarks/zoo_generation.py`` trains 16-16-16-10 perceptrons on pooled digits for 400 steps, each with
its own hyper-parameters as in ``digits_mlp``, and measures all their properties. ``--zoo digits_cnn`` does so with
that zoo's convolutional networks, each for its own number of steps. Both ways run in this process, in turns, and
are timed in processor time, so a busy machine disturbs the ratio little.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from experiments.data import ImageData, load_images
from experiments.zoo import ZooConfig
from experiments.zoo.generation import StackTask, plan_stacks, train_shards
from experiments.zoo.nets import ACTIVATION_MODULES, architectures_of
from experiments.zoo.properties import noisy_images
from experiments.zoo.sampling import Recipe, initial_weights, training_set

CONFIGS = Path(__file__).parents[1].resolve() / "configs" / "zoo"
ACTIVATIONS = {type(make()) for make in ACTIVATION_MODULES.values()}
DROPOUTS: dict[str, type[nn.Module]] = {"mlp": nn.Dropout, "cnn": nn.Dropout2d}
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
    "adam": torch.optim.Adam,
}


def plain_network(config: ZooConfig, recipe: Recipe, data: ImageData) -> list[float]:
    """The usual way: one module, one optimiser of torch.optim, one loop; the same properties."""
    module = recipe.architecture.build()
    start = initial_weights(config, recipe)
    module.load_state_dict({name: torch.from_numpy(value).float() for name, value in start.items()})
    seen = training_set(config, recipe, data)
    pool = recipe.architecture.prepare(data.pool)
    layers: list[nn.Module] = []
    for layer in module:
        hidden = type(layer) in ACTIVATIONS
        layers += [layer, DROPOUTS[recipe.architecture.family](recipe.dropout)] if hidden else [layer]
    net = nn.Sequential(*layers)
    optimiser = OPTIMISERS[recipe.optimiser](
        net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    for images in seen.batches:
        loss = F.cross_entropy(net(pool[images]), seen.labels[images])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def accuracy(images: torch.Tensor, labels: torch.Tensor) -> float:
        return float((module(recipe.architecture.prepare(images)).argmax(1) == labels).float().mean())

    measured = [
        accuracy(data.test, data.test_labels),
        accuracy(data.pool[seen.member], data.pool_labels[seen.member]),
        accuracy(data.shifted, data.shifted_labels),
        accuracy(*noisy_images(config, data)),
    ]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(int(config.properties["weight_noise_draws"])):
        scale = float(config.properties["weight_noise"])
        noisy = {k: v + scale * v.square().mean().sqrt() * torch.randn_like(v) for k, v in state.items()}
        module.load_state_dict(noisy)
        measured.append(accuracy(data.test, data.test_labels))
    return measured


def drawn_steps(tasks: list[StackTask]) -> tuple[int, int]:
    steps = [recipe.steps for task in tasks for recipe in task.recipes]
    return min(steps), max(steps)


def main() -> None:
    """Prints networks per thread-minute of both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", choices=["digits_mlp", "digits_cnn"], default="digits_mlp", help="whose networks")
    parser.add_argument("--stack", type=int, default=100, help="networks trained at once")
    parser.add_argument("--stacks", type=int, default=3, help="stacks to time")
    parser.add_argument("--plain", type=int, default=8, help="networks trained one by one after each stack")
    parser.add_argument("--steps", type=int, help="steps of every network [digits_mlp: 400, others: as drawn]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        values = OmegaConf.to_container(compose(arguments.zoo))
    assert isinstance(values, dict)
    values |= {"size": arguments.stack * (arguments.stacks + 1), "stack_size": arguments.stack}
    steps = arguments.steps or (400 if arguments.zoo == "digits_mlp" else None)
    if steps:
        values["ranges"]["steps"] = steps
    config = ZooConfig.parse({str(key): value for key, value in values.items()})
    data = load_images(config.data)
    tasks = plan_stacks(config, architectures_of(config.architecture, data.image_shape, data.classes))
    train_shards(tasks[-1])  # warm-up
    plain_network(config, tasks[-1].recipes[0], data)

    stacked, plain = [], []
    for task in tasks[:-1]:
        start = time.process_time()
        train_shards(task)
        stacked.append((time.process_time() - start) / len(task.recipes))
        start = time.process_time()
        for recipe in task.recipes[: arguments.plain]:
            plain_network(config, recipe, data)
        plain.append((time.process_time() - start) / arguments.plain)
    rates = [60 / statistics.median(seconds) for seconds in (stacked, plain)]
    sizes = "-".join(map(str, tasks[0].recipes[0].architecture.sizes))
    seen = steps or "{} to {}".format(*drawn_steps(tasks))
    print(f"{sizes}, {seen} steps of {config.batch_size} images, one thread, processor time")
    print(f"stacked ({arguments.stack} at once): {rates[0]:7.0f} networks per minute")
    print(f"plain loop:            {rates[1]:7.0f} networks per minute")
    print(f"ratio:                 {rates[0] / rates[1]:7.1f}")


if __name__ == "__main__":
    main()
