"""The Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448): 30000 convolutional networks per data set.

A folder per data set::

    weights.npy       [N, 4970] float32, a row per checkpoint, TensorFlow's order of axes
    metrics.csv.gz    a row per checkpoint: config.*, modeldir, step, accuracies and losses
    layout.csv        varname, start_idx, end_idx, shape: what the columns of weights.npy are
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.zoo.errors import ZooError
from experiments.zoo.importers.published import Published
from experiments.zoo.nets import Architecture

__all__ = ["FINAL_STEP", "read_small_cnn_zoo"]

FINAL_STEP = 86
"""The epoch of a run's last checkpoint, the only one that is read."""

WEIGHTS_FILE, METRICS_FILE, LAYOUT_FILE = "weights.npy", "metrics.csv.gz", "layout.csv"
STRIDE = 2
"""Of every convolution, without padding; the files do not say it."""

ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "elu": "elu", "gelu": "gelu", "swish": "silu"}
MEASURED = ("test_accuracy", "train_accuracy", "test_loss", "train_loss")
HYPERPARAMETERS = {"optimizer": "optimiser", "l2reg": "weight_decay", "w_init": "initialisation"}
"""Keras' names of hyper-parameters that are called otherwise here; the others keep theirs."""


@dataclass(frozen=True)
class _Tensor:
    """Columns of ``weights.npy`` that are one kernel or bias."""

    layer: str
    kind: str
    start: int
    stop: int
    shape: tuple[int, ...]

    def read(self, matrix: np.ndarray) -> Tensor:
        """From ``[n, columns]`` to torch's order: ``[n, out, in, h, w]``, ``[n, out, in]`` or ``[n, out]``."""
        values = matrix[:, self.start : self.stop].reshape(len(matrix), *self.shape)
        if self.kind == "kernel":
            values = np.moveaxis(values, (-1, -2), (1, 2))
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def read_small_cnn_zoo(folder: Path) -> Published:
    """The final networks of one data set's folder; nothing but their weights is read later.

    Raises:
        ZooError: files are missing, truncated, or do not fit together; the message lists every fault.
    """
    paths = {name: folder / name for name in (WEIGHTS_FILE, METRICS_FILE, LAYOUT_FILE)}
    missing = [f"{path} is missing" for path in paths.values() if not path.is_file()]
    _refuse(folder, missing)
    matrix, metrics = _read_weights(paths[WEIGHTS_FILE]), _read_table(paths[METRICS_FILE])
    tensors, faults = _layout(_read_table(paths[LAYOUT_FILE]), matrix.shape[1])
    wanted = ("modeldir", "step", "config.activation", *MEASURED)
    faults += [f"{METRICS_FILE}: no column {name}" for name in wanted if name not in metrics]
    if len(metrics) != len(matrix):
        faults.append(f"{METRICS_FILE} has {len(metrics)} rows, {WEIGHTS_FILE} has {len(matrix)}")
    _refuse(folder, faults)
    final = metrics[metrics["step"] == FINAL_STEP]
    strange = sorted(set(final["config.activation"]) - ACTIVATIONS.keys())
    if strange:
        faults.append(f"{METRICS_FILE}: activations {', '.join(strange)}; known are {', '.join(ACTIVATIONS)}")
    if final.empty:
        faults.append(f"{METRICS_FILE}: no row has step {FINAL_STEP}, the end of a run")
    _refuse(folder, faults)
    sizes = _sizes(tensors)
    built = {name: _architecture(sizes, ACTIVATIONS[name]) for name in sorted(set(final["config.activation"]))}
    architectures = {each.name: each for each in built.values()}

    def weights(architecture: str, ids: Sequence[int]) -> dict[str, Tensor]:
        part = np.asarray(matrix[np.asarray(ids, dtype=np.int64)])
        ordered = [tensor for layer in dict.fromkeys(t.layer for t in tensors) for tensor in _pair(tensors, layer)]
        names = architectures[architecture].shapes
        return {name: tensor.read(part) for name, tensor in zip(names, ordered, strict=True)}

    records = _records(final, {name: each.name for name, each in built.items()})
    return Published(records, architectures, weights, _fingerprint(paths, matrix))


def _refuse(folder: Path, faults: list[str]) -> None:
    if faults:
        hint = "the folder needs the three files of one data set of the Small CNN Zoo, unpacked"
        raise ZooError("\n  ".join([f"{folder} cannot be read as a Small CNN Zoo ({hint}):", *faults]))


def _read_weights(path: Path) -> np.ndarray:
    """The matrix, mapped: its rows are read when they are needed."""
    try:
        matrix: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ZooError(f"{path} is truncated or damaged ({error}); download and unpack it again") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise ZooError(f"{path} should be a matrix of floats, a row per network; it is {matrix.dtype}{matrix.shape}")
    return matrix


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (ValueError, OSError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ZooError(f"{path} is truncated or damaged ({error}); download and unpack it again") from error


def _layout(table: pd.DataFrame, columns: int) -> tuple[list[_Tensor], list[str]]:
    """The tensors in the order of their columns, and what is wrong with them."""
    absent = [name for name in ("varname", "start_idx", "end_idx", "shape") if name not in table]
    if absent:
        return [], [f"{LAYOUT_FILE}: no column {name}" for name in absent]
    if not all(pd.api.types.is_integer_dtype(table[name]) for name in ("start_idx", "end_idx")):
        return [], [f"{LAYOUT_FILE}: start_idx and end_idx should be integers in every row"]
    tensors, faults, upto = [], list[str](), 0
    for row in table.sort_values("start_idx").to_dict("records"):
        layer, _, kind = str(row["varname"]).rpartition("/")
        shape = tuple(int(size) for size in re.findall(r"\d+", str(row["shape"])))
        tensor = _Tensor(layer, kind.partition(":")[0], int(row["start_idx"]), int(row["end_idx"]), shape)
        if tensor.kind not in ("kernel", "bias"):
            faults.append(f"{LAYOUT_FILE}: {row['varname']} is neither a kernel nor a bias")
        if tensor.start != upto or tensor.stop - tensor.start != math.prod(shape):
            faults.append(
                f"{LAYOUT_FILE}: {row['varname']} of shape {shape} should take columns {upto} to "
                f"{upto + math.prod(shape)}, not {tensor.start} to {tensor.stop}"
            )
        upto = tensor.stop
        tensors.append(tensor)
    if upto != columns:
        faults.append(f"{LAYOUT_FILE} describes {upto} columns, {WEIGHTS_FILE} has {columns}")
    return tensors, faults or _layer_faults(tensors)


def _pair(tensors: Sequence[_Tensor], layer: str) -> list[_Tensor]:
    """Kernel and bias of a layer."""
    return sorted((tensor for tensor in tensors if tensor.layer == layer), key=lambda t: t.kind, reverse=True)


def _layer_faults(tensors: Sequence[_Tensor]) -> list[str]:
    """Whether they are 3x3 convolutions and one dense layer, each with a bias, each fitting the one before."""
    faults = []
    layers = list(dict.fromkeys(tensor.layer for tensor in tensors))
    before: int | None = None
    for number, layer in enumerate(layers):
        pair = _pair(tensors, layer)
        if [tensor.kind for tensor in pair] != ["kernel", "bias"]:
            faults.append(f"{LAYOUT_FILE}: {layer} should have one kernel and one bias")
            continue
        kernel, bias = (tensor.shape for tensor in pair)
        last = number == len(layers) - 1
        inputs = kernel[-2] if before is None and len(kernel) > 1 else before
        expected = (inputs, kernel[-1]) if last else (3, 3, inputs, kernel[-1])
        if kernel != expected or bias != (kernel[-1],) or len(layers) < 2:
            form = "dense, as the last layer," if last else "a 3x3 convolution"
            faults.append(f"{LAYOUT_FILE}: {layer} with kernel {kernel} and bias {bias} is not {form} after {before}")
        before = kernel[-1]
    return faults


def _sizes(tensors: Sequence[_Tensor]) -> tuple[int, ...]:
    kernels = [tensor.shape for tensor in tensors if tensor.kind == "kernel"]
    return (kernels[0][-2], *(kernel[-1] for kernel in kernels))


def _architecture(sizes: tuple[int, ...], activation: str) -> Architecture:
    return Architecture("cnn", sizes, activation, strides=(STRIDE,) * (len(sizes) - 2))


def _records(final: pd.DataFrame, architectures: dict[str, str]) -> pd.DataFrame:
    """A row per final checkpoint, called as in zoos of our own; ids are rows of ``weights.npy``."""
    configured = [name for name in final if str(name).startswith("config.")]
    renamed: dict[Any, Any] = {name: str(name).removeprefix("config.") for name in configured}
    renamed = {name: HYPERPARAMETERS.get(short, short) for name, short in renamed.items()}
    records = final[[*configured, "step", *MEASURED]].rename(columns=renamed)
    records.insert(0, "id", final.index.to_numpy())
    records.insert(1, "run", pd.factorize(final["modeldir"])[0])
    records["architecture"] = final["config.activation"].map(architectures)
    records["activation"] = final["config.activation"].map(ACTIVATIONS)
    records["generalization_gap"] = records["train_accuracy"] - records["test_accuracy"]
    return records.reset_index(drop=True)


def _fingerprint(paths: dict[str, Path], matrix: np.ndarray) -> str:
    """Of the two tables and the matrix's shape: hashing gigabytes at every look would take longer than reading them."""
    digest = hashlib.sha256(repr((matrix.shape, matrix.dtype.str)).encode())
    for name in (METRICS_FILE, LAYOUT_FILE):
        digest.update(paths[name].read_bytes())
    return digest.hexdigest()[:16]
