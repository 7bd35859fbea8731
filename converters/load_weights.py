"""Weights from disk: safetensors, torch checkpoints and Hugging Face folders; a file that carries code is refused."""

from __future__ import annotations

import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from converters.errors import StructureMismatch, WeightsError
from converters.structure import Structure
from converters.weights import check_finite, checked_weights

__all__ = ["load_weights", "read_json"]

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What Hugging Face folders hold, in the order in which they are looked for."""

CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
"""Entries under which training scripts keep the state_dict inside a checkpoint."""

MAX_DEPTH = 4
COPY_AGAIN = "copy, download or save it again"


def load_weights(
    path: str | PathLike[str],
    *,
    structure: Structure | None = None,
    key: str | None = None,
    allow_nonfinite: bool = False,
) -> dict[str, Tensor]:
    """The state_dict in a file or a folder, on the CPU; each tensor is read once and never copied.

    Reads ``.safetensors``, sharded weights by their ``*.index.json``, ``.pt``, ``.pth``, ``.ckpt`` and ``.bin`` (with
    ``weights_only=True``, always), and Hugging Face folders. A checkpoint may keep its state_dict in an entry such as
    ``state_dict`` or ``model``. Names are returned as they are in the file. Safetensors files do not keep the order of
    the names.

    Args:
        path: a file or a folder.
        structure: checks names and shapes; tied tensors, which safetensors store once, get all their names back.
        key: the checkpoint's entry that holds the state_dict, where that is not obvious.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        WeightsError: the file is missing, empty, truncated, of another format, wants to run code, has no obvious
            state_dict, or holds NaN or infinity.
        StructureMismatch: names or shapes are not those of ``structure``; all of them are listed.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"weight": torch.ones(3, 2)}, f"{folder}/model.safetensors")
    ...     load_weights(folder)["weight"].shape
    torch.Size([3, 2])
    """
    file = _file_of(Path(path))
    tensors = _read(file, key)
    if not tensors:
        raise WeightsError(f"{file} holds no tensors; save model.state_dict() of a network that has weights")
    if structure is not None:
        return _fitted(tensors, structure, file, finite=not allow_nonfinite)
    if not allow_nonfinite:
        check_finite(tensors, str(file))
    return tensors


def read_json(file: Path) -> Any:
    """What a JSON file holds; errors are those of reading and of parsing."""
    return json.loads(file.read_text(encoding="utf-8"))


# -- which file --------------------------------------------------------------------------------------------------------


def _file_of(path: Path) -> Path:
    """The file to read: the path itself, or the weights of a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"{path} does not exist; pass a file ({_known()}) or a folder that holds one")
    present = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    for name in FOLDER_FILES:
        if name in present:
            return path / name
    indices = [name for name in present if name.endswith(".index.json")]
    found = indices or [name for name in present if Path(name).suffix in READERS]
    if len(found) == 1:
        return path / found[0]
    if found:
        raise WeightsError(f"{path} holds several weight files: {_some(found)}; pass the one you mean")
    raise WeightsError(
        f"{path} holds no weights, only {_some(present) if present else 'nothing'}; "
        f"wanted is {FOLDER_FILES[0]}, {FOLDER_FILES[1]} or another file of {_known()}"
    )


def _read(file: Path, key: str | None) -> dict[str, Tensor]:
    if file.name.endswith(".index.json"):
        return _read_sharded(file)
    reader = READERS.get(file.suffix)
    if reader is None:
        raise WeightsError(f"{file}: files of type {file.suffix or 'no suffix'} are not read; known are {_known()}")
    with file.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise WeightsError(f"{file} is empty (0 bytes); it was never written to its end, copy or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{file} is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`")
    return reader(file, key)


def _some(names: Iterable[object], limit: int = 12) -> str:
    """A list of names that stays readable."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _known() -> str:
    return ", ".join((*READERS, "*.index.json"))


# -- safetensors -------------------------------------------------------------------------------------------------------


def _read_safetensors(file: Path, key: str | None) -> dict[str, Tensor]:
    if key is not None:
        raise WeightsError(f"{file}: safetensors files have no entries to choose from; leave out key={key!r}")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise WeightsError(f"{file} {_safetensors_fault(file)}; {COPY_AGAIN} ({error})") from error


def _safetensors_fault(file: Path) -> str:
    """What is wrong with a file that safetensors refused."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(9)
        if len(start) < 9:
            return f"is truncated: its {size} bytes do not even hold a header"
        (length,) = struct.unpack("<Q", start[:8])
        if start[8:] != b"{":
            return "is not a safetensors file"
        if 8 + length > size:
            return f"is truncated: its header alone takes {8 + length} bytes, the file has {size}"
        try:
            header = json.loads(start[8:] + stream.read(length - 1))
            wanted = 8 + length + max(int(e["data_offsets"][1]) for n, e in header.items() if n != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has a damaged header"
    return f"is truncated: its header promises {wanted} bytes, the file has {size}" if wanted > size else "is damaged"


# -- shards ------------------------------------------------------------------------------------------------------------


def _read_sharded(index: Path) -> dict[str, Tensor]:
    """All shards that an index names, each tensor from the shard the index promises it in."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shard_of = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} is not an index of shards, which is JSON with an entry weight_map {{name: file}}; {COPY_AGAIN}"
        ) from error
    shards = sorted(set(shard_of.values()))
    outside = [shard for shard in shards if Path(shard).name != shard or Path(shard).suffix not in READERS]
    if outside:
        raise WeightsError(f"{index} names shards that are no weight files beside it: {_some(outside)}; none was read")
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise WeightsError(
            f"{index} names {len(shards)} shards, of which {len(missing)} are missing: {_some(missing)}; "
            f"put them into {index.parent}"
        )
    tensors: dict[str, Tensor] = {}
    faults = []
    for shard in shards:
        content = _read(index.parent / shard, None)
        promised = {name for name, where in shard_of.items() if where == shard}
        if lacking := promised - content.keys():
            faults.append(f"{shard} lacks {_some(sorted(lacking))}")
        if surplus := content.keys() - promised:
            faults.append(f"{shard} also holds {_some(sorted(surplus))}")
        tensors.update(content)
    if faults:
        listed = "\n  ".join(faults)
        raise WeightsError(f"{index} and its shards do not belong together:\n  {listed}\n{COPY_AGAIN.capitalize()}.")
    return {name: tensors[name] for name in shard_of}


# -- torch checkpoints -------------------------------------------------------------------------------------------------


def _read_checkpoint(file: Path, key: str | None) -> dict[str, Tensor]:
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped and not zipfile.is_zipfile(file):
        raise WeightsError(f"{file} is truncated: its table of contents, which comes last, is missing; {COPY_AGAIN}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; the cause is kept
        raise WeightsError(f"{file} {_checkpoint_fault(file, zipped, str(error))}") from error
    return _state_dict(content, file, key)


def _checkpoint_fault(file: Path, zipped: bool, message: str) -> str:
    """What is wrong with a file that ``torch.load`` refused, and the remedy."""
    remedy = "Nothing of it was run. Where you trust its source, load it there and save model.state_dict() alone."
    wanted = re.search(r"GLOBAL (\w[\w.]*)", message)
    if wanted:
        return f"wants to run code: it asks for {wanted[1].rstrip('.')}, which is no part of weights. {remedy}"
    if "TorchScript" in message:
        return f"is a TorchScript archive, which carries code. {remedy}"
    if not zipped:
        names, complete = _pickled_globals(file)
        if names and complete:
            return f"is a Python pickle, not a torch checkpoint, and wants to run code: {_some(names)}. {remedy}"
        with file.open("rb") as stream:
            if stream.read(1) != b"\x80":
                return "is not a torch checkpoint; rename it if it is of another of the known types"
    return f"is truncated or damaged; {COPY_AGAIN}"


def _pickled_globals(file: Path) -> tuple[list[str], bool]:
    """The globals a pickle asks for, read off its opcodes without running any, and whether it is complete."""
    found: dict[str, None] = {}
    strings: list[str] = []
    memo: dict[object, str] = {}
    latest = ""
    complete = False
    try:
        with file.open("rb") as stream:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    found[str(argument).replace(" ", ".")] = None
                elif opcode.name == "STACK_GLOBAL":
                    found[".".join(strings[-2:])] = None
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = latest
                elif opcode.name in ("BINGET", "LONG_BINGET") and memo.get(argument):
                    strings.append(memo[argument])
                latest = argument if isinstance(argument, str) else ""
                strings += [latest] if latest and opcode.name != "GLOBAL" else []
                complete = opcode.name == "STOP"
    except Exception:  # a damaged pickle breaks the disassembler in many ways
        complete = False
    return list(found), complete


def _state_dict(content: Any, file: Path, key: str | None) -> dict[str, Tensor]:
    """The state_dict of a checkpoint: the whole, the entry ``key``, or the obvious entry."""
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            keys = f"has {_keys(content)}" if isinstance(content, Mapping) else f"is a {type(content).__name__}"
            raise WeightsError(f"{file} has no entry {key!r}; it {keys}; leave out key, or name one of them")
        content = content[key]
        if not _is_state_dict(content):
            raise WeightsError(f"{file}: the entry {key!r} ({_kind(content)}) is not a dictionary of tensors")
    for _ in range(MAX_DEPTH):
        if not _is_state_dict(content):
            content = _entry(content, file)
    if not _is_state_dict(content):
        raise WeightsError(f"{file} nests its state_dict more than {MAX_DEPTH} deep; save model.state_dict()")
    return {name: tensor.detach() for name, tensor in content.items()}


def _entry(content: Any, file: Path) -> Any:
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} is a {_kind(content)}, not a state_dict; save model.state_dict()")
    known = [name for name in CONTAINERS if isinstance(content.get(name), Mapping) and content[name]]
    found = [name for name in known if _is_state_dict(content[name])] or known
    if not found:
        found = [name for name, value in content.items() if _is_state_dict(value)]
    if len(found) == 1:
        return content[found[0]]
    if len(found) > 1:
        raise WeightsError(f"{file} holds several state_dicts: {_some(found)}; say which with key=...")
    if any(isinstance(value, Tensor) for value in content.values()):
        others = [f"{name} ({_kind(value)})" for name, value in content.items() if not isinstance(value, Tensor)]
        raise WeightsError(
            f"{file} mixes tensors with other entries: {_some(others)}; save the tensors alone, or under 'state_dict'"
        )
    raise WeightsError(
        f"{file} holds no state_dict; its keys are {_keys(content) or 'none, it is empty'}. "
        "Save model.state_dict(), or name the entry that holds it with key=..."
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _keys(content: Mapping[Any, Any]) -> str:
    return _some([f"{name} ({_kind(value)})" for name, value in content.items()])


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"dictionary of {len(value)}"
    return type(value).__name__


# -- fitting a structure -----------------------------------------------------------------------------------------------


def _fitted(tensors: dict[str, Tensor], structure: Structure, file: Path, *, finite: bool) -> dict[str, Tensor]:
    """The tensors in the structure's order, or an error that names the file and every fault."""
    for parameter in structure.parameters:
        if parameter.alias_of is not None and parameter.alias_of in tensors:
            tensors.setdefault(parameter.name, tensors[parameter.alias_of])
    try:
        return checked_weights(tensors, structure, finite=finite)
    except StructureMismatch as error:
        prefix = next(iter(tensors)).partition(".")[0] + "."
        shorter = {name.removeprefix(prefix) for name in tensors}
        hint = ""
        if all(name.startswith(prefix) for name in tensors) and shorter & structure.parameter.keys():
            hint = f"\nEvery name starts with {prefix!r}; without it they are names of the structure."
        raise StructureMismatch(f"{file}: {error}{hint}") from None
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from None


READERS: Mapping[str, Callable[[Path, str | None], dict[str, Tensor]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_checkpoint,
    ".pth": _read_checkpoint,
    ".ckpt": _read_checkpoint,
    ".bin": _read_checkpoint,
}
"""File suffix -> reader."""
