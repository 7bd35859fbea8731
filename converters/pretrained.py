"""Weights without code: the network that a folder, a file or a state_dict belongs to, built without its weights."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.errors import ArchitectureError, ConversionError, ExampleInputError
from converters.example_inputs import example_inputs_of
from converters.load_weights import load_weights, read_json
from converters.renaming import renamed
from converters.structure import Structure
from converters.trace import trace
from converters.trace.stand_ins import without_weights

__all__ = ["Architecture", "Pretrained", "has_config", "load_pretrained"]

Architecture = str | nn.Module | Callable[..., nn.Module]
"""``"package.module:name"``, a module, or a class or function that makes one."""

STEERING = ("auto_map", "trust_remote_code", "use_kernels", "_name_or_path", "name_or_path")
"""Entries of a config that could bring in code or files from elsewhere; never read."""

QUANTIZED = "quantization_config"


@dataclass(frozen=True)
class Pretrained:
    """A network without weights, and its weights.

    Args:
        model: its parameters are on the meta device; ``model.load_state_dict(weights, assign=True)`` fills them in
            without a copy.
        weights: under the model's names, in its order; views of the file where it is memory-mapped.
        example_inputs: candidates for ``trace``, the likeliest first.
        notes: what was done to the names.
    """

    model: nn.Module
    weights: dict[str, Tensor]
    example_inputs: tuple[Any, ...]
    notes: tuple[str, ...] = ()

    def trace(self, example_inputs: Any = None, **options: Any) -> Structure:
        """The network's structure, on the given inputs or on the first candidate that it accepts.

        Raises:
            ExampleInputError: it accepts none; each is listed with its error.
        """
        if example_inputs is not None or not self.example_inputs:
            return trace(self.model, example_inputs, **options)
        faults = []
        for inputs in self.example_inputs:
            try:
                return trace(self.model, inputs, **options)
            except ExampleInputError as error:
                faults.append(f"{', '.join(f'{k} {list(v.shape)}' for k, v in inputs.items())}: {error}".split("\n")[0])
        raise ExampleInputError(
            f"no input could be made up for {type(self.model).__name__}; tried were\n  "
            + "\n  ".join(faults)
            + "\nPass example_inputs: a dictionary of keyword arguments that its forward accepts."
        )

    def inputs_of(self, structure: Structure) -> Any:
        """The candidate that a structure was traced on; None if there was none."""
        used = set() if structure.program is None else {spec.path[0] for spec in structure.program.inputs}
        return next((inputs for inputs in self.example_inputs if set(inputs) == used), None)


def has_config(path: str | PathLike[str]) -> bool:
    """Whether a folder says by a ``config.json`` what its weights belong to."""
    return (Path(path) / "config.json").is_file()


def load_pretrained(
    source: str | PathLike[str] | Mapping[str, Tensor],
    architecture: Architecture | None = None,
    *,
    finite: bool = False,
) -> Pretrained:
    """The network that weights belong to, and the weights under its names; no code of the folder's is ever run.

    A Hugging Face folder names its class in ``config.json``; it is built by the installed ``transformers`` from that
    config, or refused if that does not know the class. Anything else needs ``architecture``.

    Names may differ by the prefix of the base model (``bert.``), by a wrapper's (``module.``, ``model.``), or by the
    old names of normalisation (``gamma``, ``beta``); names tied in the network and buffers that it makes itself may be
    missing from the file. Every other difference is an error that lists it.

    Args:
        source: a folder, a file, or a state_dict.
        architecture: what to build where the config does not tell, or instead of what it tells. A class of
            ``transformers`` takes the folder's config.
        finite: read all weights once to refuse NaN and infinity.

    Raises:
        ArchitectureError: there is no architecture to be had, with what is missing.
        WeightsError: the weights cannot be read.
        StructureMismatch: they are not those of the architecture; missing, unexpected and misshapen names are listed.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> weights = {f"module.{name}": value for name, value in net.state_dict().items()}
    >>> found = load_pretrained(weights, lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> list(found.weights), found.notes
    (['0.weight', '0.bias', '2.weight', '2.bias'], ("4 names without 'module.'",))
    """
    where, config = _described(source)
    if architecture is None and config is None:
        raise ArchitectureError(
            f"{where} holds weights alone: {_absent(source)}, so nobody knows what they compute. "
            'Name it: architecture="package.module:name", a module, or a class or function that makes one.'
        )
    model = _build(architecture, config, where).eval()
    weights = source if isinstance(source, Mapping) else load_weights(source, allow_nonfinite=not finite)
    fitted, notes = renamed(weights, model, where)
    return Pretrained(_typed(model, fitted), fitted, tuple(example_inputs_of(model)), notes)


def _described(source: Any) -> tuple[str, dict[str, Any] | None]:
    """How to call the source, and its config if it has one."""
    if isinstance(source, Mapping):
        return "the state_dict", None
    path = Path(source)
    if not path.is_dir():
        return str(path), None
    file = path / "config.json"
    if not file.is_file():
        return str(path), None
    try:
        config = read_json(file)
    except (ValueError, OSError, RecursionError) as error:
        raise ArchitectureError(f"{file} is not JSON ({error}); copy or download it again") from error
    if not isinstance(config, dict):
        raise ArchitectureError(f"{file} is a {type(config).__name__}, not the entries of a config")
    return str(path), config


def _absent(source: Any) -> str:
    if isinstance(source, Mapping):
        return "a state_dict has no config"
    return "there is no config.json in it" if Path(source).is_dir() else "a file has no config.json beside its tensors"


# -- building ----------------------------------------------------------------------------------------------------------


def _build(architecture: Architecture | None, config: dict[str, Any] | None, where: str) -> nn.Module:
    if isinstance(architecture, nn.Module):
        return architecture
    if architecture is None:
        return _from_config(None, config or {}, where)
    made = _imported(architecture) if isinstance(architecture, str) else architecture
    if isinstance(made, nn.Module):
        return made
    if inspect.isclass(made) and hasattr(made, "config_class"):
        if config is None:
            raise ArchitectureError(
                f"{made.__name__} is built from a config, and {where} has no config.json; "
                "put it there, or pass a function that makes the network"
            )
        return _from_config(made, config, where)
    if not callable(made):
        raise ArchitectureError(
            f"architecture {architecture!r} is a {type(made).__name__}, nothing that makes a module"
        )
    try:
        with without_weights():
            model = made()
    except TypeError as error:
        raise ArchitectureError(f"architecture {architecture!r} cannot be called without arguments: {error}") from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"architecture {architecture!r} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def _imported(name: str) -> Any:
    where, _, attribute = name.partition(":")
    if not attribute:
        raise ArchitectureError(f"architecture {name!r} is not package.module:name, such as transformers:BertModel")
    if where.partition(".")[0] == "transformers":
        _transformers(name)
    try:
        made: Any = importlib.import_module(where)
    except ImportError as error:
        raise ArchitectureError(f"architecture {name!r}: cannot import {where!r} ({error})") from error
    for part in attribute.split("."):
        if not hasattr(made, part):
            raise ArchitectureError(f"architecture {name!r}: {where} has no {attribute!r}")
        made = getattr(made, part)
    return made


def _transformers(where: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ArchitectureError(
            f"{where}: its architecture is one of the package transformers, which is not installed; "
            'install it with pip install "graphnets[hub]", or pass architecture='
        ) from error


def _from_config(cls: Any, config: dict[str, Any], where: str) -> nn.Module:
    """The network of a config, by the classes of the installed transformers alone."""
    names = config.get("architectures") or []
    kind = config.get("model_type")
    if not isinstance(kind, str) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ArchitectureError(
            f"{where}/config.json names no model_type, so it is no config of transformers; pass architecture="
        )
    if QUANTIZED in config:
        raise ArchitectureError(
            f"{where}/config.json has a {QUANTIZED}: its tensors are packed, not the weights themselves; "
            "dequantise the network and save it again"
        )
    package = _transformers(where)
    hint = ""
    if "auto_map" in config:
        hint = " The folder brings code of its own (auto_map), which is never run."
    known = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    if kind not in known:
        raise ArchitectureError(
            f"{where}/config.json has the model_type {kind!r}, which transformers {package.__version__} does not know."
            f"{hint} Install a version that does, or pass architecture= with the class itself."
        )
    if cls is None:
        cls = _class_of(package, names, known[kind], where, hint)
    try:
        with _offline(), without_weights(), torch.random.fork_rng(devices=[]):
            made = known[kind].from_dict(_plain(config))
            made._attn_implementation = "eager"
            model: nn.Module = cls._from_config(made)
    except ConversionError:
        raise
    except Exception as error:  # a config may be wrong in any way; the cause is kept
        raise ArchitectureError(
            f"{where}/config.json: {cls.__name__} cannot be built from it ({type(error).__name__}: {error})"
        ) from error
    return _uncached(model)


def _class_of(package: Any, names: list[str], config_class: Any, where: str, hint: str) -> Any:
    """The class that a config names, or its plain model where it names none."""
    if not names:
        mapping = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_MAPPING
        if config_class not in mapping:
            raise ArchitectureError(f"{where}/config.json names no architectures; pass architecture=")
        found = mapping[config_class]
        return found[0] if isinstance(found, tuple) else found
    cls = getattr(package, names[0], None)
    if not inspect.isclass(cls) or not issubclass(cls, package.PreTrainedModel):
        raise ArchitectureError(
            f"{where}/config.json names the class {names[0]!r}, which is no model of transformers "
            f"{package.__version__}.{hint} Pass architecture= with the class itself."
        )
    return cls


def _plain(config: Any) -> Any:
    """A config without what could fetch code or weights."""
    if isinstance(config, list):
        return [_plain(item) for item in config]
    if not isinstance(config, dict):
        return config
    kept = {k: _plain(v) for k, v in config.items() if k not in STEERING and "attn_implementation" not in str(k)}
    kept = {k: v for k, v in kept.items() if "experts_implementation" not in str(k)}
    return {k: False if k == "use_pretrained_backbone" else v for k, v in kept.items()}


def _uncached(model: nn.Module) -> nn.Module:
    """Key and value caches are for generation; here they would only be outputs."""
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False
    return model


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is looked up elsewhere while a config is read."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


# -- dtypes ------------------------------------------------------------------------------------------------------------


def _typed(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network with parameters of the dtypes that the file has."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    holders = dict(model.named_modules(remove_duplicate=False))
    for name, old in list(model.named_parameters(remove_duplicate=False)):
        wanted = weights[name].dtype
        if old.device.type != "meta" or old.dtype == wanted:
            continue
        if old not in made:
            made[old] = nn.Parameter(torch.empty_like(old, dtype=wanted), requires_grad=wanted.is_floating_point)
        prefix, _, slot = name.rpartition(".")
        holders[prefix]._parameters[slot] = made[old]
    return model
