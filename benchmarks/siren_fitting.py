"""How many SIRENs a minute of one processor fits: stacked, and one after the other.

``python benchmarks/siren_fitting.py`` fits the SIRENs of the zoo ``digits_siren`` (2-32-32-1, 8 x 8 pixels) from their
own starts, by its steps of Adam on all pixels. Both ways run in this process, in turns, and are timed in processor
time, so a busy machine disturbs the ratio little.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.nn import functional

from experiments.data import load_images
from experiments.zoo import SirenArchitecture, SirenConfig
from experiments.zoo.sampling import stream
from experiments.zoo.sirens.fitting import fit_stack, learning_rate
from experiments.zoo.sirens.network import grid, initial_siren
from experiments.zoo.sirens.signals import Signals, psnr, targets_of

CONFIGS = Path(__file__).parents[1].resolve() / "configs" / "zoo"
ZOOS = ("digits_siren", "digits_siren_4px", "digits_siren_8px", "fashion_siren")


def plain_fit(config: SirenConfig, architecture: SirenArchitecture, start: Tensor, image: Tensor) -> float:
    """The usual way: one module, one optimiser of torch.optim, one loop; the mean squared error."""
    module = architecture.build()
    nn.utils.vector_to_parameters(start.clone(), module.parameters())
    inputs, target = grid(*image.shape[1:]), image.flatten(1).t()
    optimiser = torch.optim.Adam(module.parameters(), lr=config.learning_rate)
    for step in range(config.steps):
        optimiser.param_groups[0]["lr"] = learning_rate(config.learning_rate, config.schedule, step, config.steps)
        optimiser.zero_grad()
        functional.mse_loss(module(inputs), target).backward()
        optimiser.step()
    with torch.no_grad():
        return float(functional.mse_loss(module(inputs), target))


def main() -> None:
    """Prints SIRENs per thread-minute of both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", choices=ZOOS, default="digits_siren", help="whose SIRENs")
    parser.add_argument("--stack", type=int, help="SIRENs fitted at once [the zoo's]")
    parser.add_argument("--stacks", type=int, default=5, help="stacks to time")
    parser.add_argument("--plain", type=int, default=4, help="SIRENs fitted one by one after each stack")
    parser.add_argument("--steps", type=int, help="steps of every SIREN [the zoo's]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = [] if arguments.steps is None else [f"steps={arguments.steps}"]
        config = SirenConfig.parse(compose(arguments.zoo, overrides=overrides))
    size = arguments.stack or config.stack_size
    data = load_images(config.data)
    images, _ = targets_of(data)
    architecture = config.architecture(data)

    stacked, plain, errors = [], [], {"stacked": [0.0], "plain": [0.0]}
    for number in range(arguments.stacks + 1):  # the first one warms up
        chosen = images[number * size : (number + 1) * size]
        rows = [initial_siren(architecture, config.variant, stream(config.seed, i, "start")) for i in range(size)]
        starts = torch.from_numpy(np.stack(rows)).float()
        signals = Signals(grid(*chosen.shape[2:]), chosen.flatten(2))
        begun = time.process_time()
        _, found = fit_stack(architecture, starts, signals, config.steps, config.learning_rate, config.schedule)
        stacked.append((time.process_time() - begun) / size)
        begun = time.process_time()
        pairs = zip(starts[: arguments.plain], chosen, strict=False)
        alone = [plain_fit(config, architecture, start, image) for start, image in pairs]
        plain.append((time.process_time() - begun) / arguments.plain)
        errors = {"stacked": found.tolist(), "plain": alone}
    rates = [60 / statistics.median(seconds[1:]) for seconds in (stacked, plain)]
    shown = [statistics.mean(map(psnr, errors[way])) for way in ("stacked", "plain")]
    sizes, pixels = "-".join(map(str, architecture.sizes)), " x ".join(map(str, data.image_shape[1:]))
    print(f"{sizes}, {pixels} pixels, {config.steps} steps, one thread, processor time")
    print(f"stacked ({size} at once): {rates[0]:7.0f} SIRENs per minute, {shown[0]:.1f} dB")
    print(f"plain loop:           {rates[1]:7.0f} SIRENs per minute, {shown[1]:.1f} dB")
    print(f"ratio:                {rates[0] / rates[1]:7.1f}")


if __name__ == "__main__":
    main()
