"""Run an experiment: ``python -m experiments experiment=weightnet/properties scale=small``."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config import CONFIG_DIR, ConfigError
from experiments.run import run
from experiments.zoo import ZooConfigError

__all__ = ["main"]


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def main(config: DictConfig) -> None:
    """Compose the config, run the experiment in its folder."""
    try:
        run(config, Path(HydraConfig.get().runtime.output_dir))
    except (ConfigError, ZooConfigError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
