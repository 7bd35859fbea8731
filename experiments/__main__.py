"""Run an experiment: ``python -m experiments experiment=weightnet/properties scale=small``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config import CONFIG_DIR, ConfigError
from experiments.data import DataError
from experiments.run import run
from experiments.zoo import ZooConfigError, ZooError

__all__ = ["check_choice", "main"]


def check_choice(arguments: Sequence[str]) -> None:
    """Name the known experiments where none or an unknown one was chosen; hydra would list folders only.

    Raises:
        ConfigError: the arguments choose no experiment, or one that is not there.
    """
    if any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments):
        return
    folder = CONFIG_DIR / "experiment"
    known = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    chosen = [name for a in arguments if a.startswith("experiment=") for name in a.partition("=")[2].split(",")]
    wrong = [name for name in chosen if name not in known]
    if wrong or not chosen:
        what = f"{', '.join(wrong)} is not there" if wrong else "none chosen, such as experiment=" + known[0]
        raise ConfigError("this command", [f"experiment: {what}; known are {', '.join(known)}"])


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def main(config: DictConfig) -> None:
    """Compose the config, run the experiment in its folder."""
    try:
        run(config, Path(HydraConfig.get().runtime.output_dir))
    except (ConfigError, ZooConfigError, ZooError, DataError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        check_choice(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    main()
