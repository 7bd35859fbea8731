"""What is done to a network's Python while it is recorded: values that leave torch are noticed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._C._functorch import _unwrap_functional_tensor, is_functionaltensor
from torch._subclasses.fake_tensor import is_fake
from torch.overrides import TorchFunctionMode

from converters.errors import ExampleInputError

__all__ = ["Watch", "plain_functions", "quiet"]


class Reader(Protocol):
    """A recorder that is told when a value is read."""

    reading: str
    seen: Tensor | None
    ragged: set[int]


READS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "__complex__")
}
"""Ways out of torch: what a network does with such a number cannot be seen."""


WHOLE = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
"""Those that look at memory, of which a functional tensor has none."""

ATTRIBUTES: Any = vars(torch._C.TensorBase)
"""Tensors' attributes as what gets and sets them."""

SIZES = {ATTRIBUTES["shape"].__get__, Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__}
"""Ways out of torch for the number of things that were selected by value."""

GRADIENTS = {Tensor.requires_grad_, ATTRIBUTES["requires_grad"].__set__}
"""What a forward pass asks of gradients, of which there are none."""


DATA = ATTRIBUTES["data"].__set__
"""Other values for a parameter, which are written into it."""

OPERATORS = {f"__i{name}__" for name in "add sub mul div truediv floordiv mod pow and or xor lshift rshift".split()}
OPERATORS |= {"__setitem__"}
"""Operators that write in place."""


class Watch(TorchFunctionMode):
    """Notices values that leave torch, and runs plainly what functionalisation does not see through.

    Circular padding and filled diagonals write in place; ``one_hot`` looks at its values to check them.
    """

    def __init__(self, recorder: Reader) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in GRADIENTS:
            return args[0]
        if func in READS:
            self._tell("value", args[0])
            if func in WHOLE and self.recorder.seen is not None:
                return func(self.recorder.seen, *args[1:], **kwargs)
        if func in SIZES and self.recorder.ragged:
            self._tell("shape", args[0])
        if func is Tensor.fill_diagonal_ and len(args) == 2 and args[0].dim() == 2 and not kwargs:
            args[0].diagonal().fill_(args[1])
            return args[0]
        if func == DATA:
            if (args[0].shape, args[0].dtype) != (args[1].shape, args[1].dtype):
                raise ExampleInputError(
                    "the forward pass gives a tensor data of another shape or dtype, which cannot be followed: "
                    f"{list(args[0].shape)} {args[0].dtype} becomes {list(args[1].shape)} {args[1].dtype}"
                )
            return self.__torch_function__(Tensor.copy_, types, (args[0].detach(), args[1]))
        if _writes(func) and isinstance(args[0], Tensor) and not is_functionaltensor(args[0]):
            if func is Tensor.__setitem__ and isinstance(args[2], (bool, int, float)) and _is_basic(args[1]):
                return args[0][args[1]].fill_(args[2])
            return func(args[0], *map(_bare, args[1:]), **{key: _bare(value) for key, value in kwargs.items()})
        if func is nn.functional.one_hot:
            index, classes = (*args, *(kwargs[k] for k in ("tensor", "input", "num_classes") if k in kwargs), -1)[:2]
            if classes > 0:
                return (index[..., None] == torch.arange(classes, device=index.device)).long()
        if func is nn.functional.pad:
            x, amounts, mode = (*args, *(kwargs[k] for k in ("input", "pad", "mode") if k in kwargs), "constant")[:3]
            if mode == "circular":
                for i in range(0, len(amounts), 2):
                    x = _wrapped(x, x.dim() - 1 - i // 2, amounts[i], amounts[i + 1])
                return x
        return func(*args, **kwargs)

    def _tell(self, what: str, tensor: Tensor) -> None:
        """Show the recorder, below functionalisation, the tensor whose value or shape is read."""
        self.recorder.reading = what
        try:
            torch.ops.aten.clone.default(tensor)
        finally:
            self.recorder.reading = ""


def _writes(func: Any) -> bool:
    """Whether a function or method writes into its first argument."""
    name: str = getattr(func, "__name__", "")
    return name in OPERATORS or (name.endswith("_") and not name.endswith("__"))


def _is_basic(index: Any) -> bool:
    """Whether an index is made of numbers and slices, so that it makes a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or type(part) in (int, slice) for part in parts)


def _bare(value: Any) -> Any:
    """A tensor without functionalisation: what is computed from weights alone has none, and can be written into."""
    if not isinstance(value, Tensor) or not is_functionaltensor(value):
        return value
    torch._functionalize_sync(value)
    return _unwrap_functional_tensor(value, True)


def _wrapped(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    size = x.shape[axis]
    head = [x.narrow(axis, size - before, before)] if before > 0 else []
    tail = [x.narrow(axis, 0, after)] if after > 0 else []
    kept = x.narrow(axis, max(-before, 0), size - max(-before, 0) - max(-after, 0))
    return torch.cat([*head, kept, *tail], axis) if head or tail else kept


class _Context:
    """What an autograd function keeps for a backward pass that never comes."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (False,) * count
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Nothing runs forwards through derivatives."""

    def mark_dirty(self, *tensors: Any) -> None:
        """Writes in place are seen without being announced."""

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Nothing is differentiated."""

    def set_materialize_grads(self, value: bool) -> None:
        """Nothing is differentiated."""


_lock = threading.RLock()


@contextmanager
def plain_functions() -> Iterator[None]:
    """Functions that torch would run where they cannot be followed run as the Python they were written in.

    Custom ``torch.autograd.Function`` run their forward alone (functionalisation refuses those of the older form), and
    scripted functions run what was scripted. Only for this thread: others keep their gradients and their scripts.
    """
    function, scripted, owner = torch.autograd.Function, torch.jit.ScriptFunction, threading.get_ident()

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            return original.__func__(cls, *args, **kwargs)
        if cls.setup_context is not function.setup_context:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(len(args)), *args, **kwargs)

    def call(script: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(script, "_torchdynamo_inline", None)
        return (
            compiled(script, *args, **kwargs)
            if source is None or threading.get_ident() != owner
            else source(*args, **kwargs)
        )

    with _lock:
        original, compiled = function.__dict__["apply"], scripted.__call__
        setattr(function, "apply", classmethod(apply))  # noqa: B010 - an assignment is no method to mypy
        setattr(scripted, "__call__", call)  # noqa: B010
        try:
            yield
        finally:
            setattr(function, "apply", original)  # noqa: B010
            setattr(scripted, "__call__", compiled)  # noqa: B010


@contextmanager
def quiet(model: nn.Module, scope: list[str]) -> Iterator[None]:
    """Eval mode, no gradients, no fused paths; modules announce themselves; everything is put back."""
    modules: dict[str, Any] = dict(model.named_modules())
    training = {module: module.training for module in modules.values()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not is_fake(buffer)}
    attributes = {module: dict(vars(module)) for module in modules.values()}
    handles = []
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        fused = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for name, module in modules.items():
                handles.append(module.register_forward_pre_hook(lambda m, a, name=name: scope.append(name)))
                handles.append(module.register_forward_hook(lambda m, a, o: _leave(scope)))
            model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            torch._C._set_mkldnn_enabled(fused)
            for handle in handles:
                handle.remove()
            for module, before in attributes.items():
                vars(module).clear()
                vars(module).update(before)  # states and caches that the forward left behind
            for module, mode in training.items():
                module.training = mode
            for name, buffer in model.named_buffers():
                if name in buffers and not torch.equal(buffers[name], buffer):
                    buffer.copy_(buffers[name])


def _leave(scope: list[str]) -> None:
    scope.pop()
