"""What networks do, as a loss of their weights; and their running statistics, taken anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from converters import Structure, execute

__all__ = ["behaviour_loss", "recalibrated"]

KINDS = ("squared", "divergence")


def behaviour_loss(
    decoded: Mapping[str, Tensor],
    original: Mapping[str, Tensor],
    inputs: Tensor,
    structure: Structure,
    kind: str = "squared",
    own_inputs: bool = False,
    batch_statistics: bool = False,
) -> Tensor:
    r"""How far decoded networks compute something else than the original ones (Meynent et al. 2025).

    .. math:: \mathcal L_B = \mathrm{mean}_{i, x} \lVert f(x; \hat w_i) - f(x; w_i) \rVert^2 / \mathrm{Var} f(x; w_i)

    or of classifiers with ``kind="divergence"`` that of the classes' probabilities,
    :math:`\mathrm{mean}_{i, x} \mathrm{KL}(p(x; w_i) \,\Vert\, p(x; \hat w_i))`, which does not ask for the part of the
    scores that all classes share. A weight counts by what it does, which the distance of weights does not
    know. The originals' outputs are divided by their variance over networks and inputs, so that 1 is the loss of a
    constant.

    Args:
        decoded, original: stacks ``{name: [n, *shape]}``; gradients reach the decoded ones alone.
        inputs: real ones, as the networks take them.
        structure: of the networks.
        kind: ``"squared"`` or ``"divergence"``.
        own_inputs: every network has inputs of its own (images of its own classes); False: all see the same.
        batch_statistics: the decoded networks' batch normalisation takes the statistics of these inputs, so that the
            loss is of the networks that `recalibrated` makes of them.

    Shapes:
        - inputs: ``[B, ...]``, with own ones ``[n, B, ...]``; result: ``[]``

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is one of {', '.join(KINDS)}")
    run = partial(execute, structure=structure, own_inputs=own_inputs)
    with torch.no_grad():
        wanted: Tensor = run(original, inputs)
    found: Tensor = run(decoded, inputs, batch_statistics=batch_statistics)
    if kind == "squared":
        return (found - wanted).square().mean() / wanted.var().clamp_min(1e-12)
    divergence = functional.kl_div(found.log_softmax(2), wanted.log_softmax(2), reduction="none", log_target=True)
    return divergence.sum(2).mean()


def recalibrated(model: nn.Module, weights: Mapping[str, Tensor], inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """Networks whose running statistics are those of their own activations on these inputs.

    The statistics of a decoded network's normalisation layers are those of other weights: near by, but every layer
    multiplies the error. They are thrown away and taken anew, over all inputs together, by torch's ``update_bn``.

    Args:
        model: a network of the same class; it stays as it is.
        weights: a stack ``{name: [n, *shape]}``.
        inputs: batches of training inputs, of more than one each; a sequence or a loader, not an iterator.

    Returns:
        the stack with new statistics; without normalisation layers that have any, the stack as it was.
    """
    worker = copy.deepcopy(model)
    count = len(next(iter(weights.values())))
    states = []
    with torch.random.fork_rng(devices=[]):  # dropout draws while statistics are taken
        for number in range(count):
            worker.load_state_dict({name: tensor[number] for name, tensor in weights.items()})
            with torch.no_grad():
                update_bn(inputs, worker)
            states.append({name: tensor.clone() for name, tensor in worker.state_dict().items()})
    return {name: torch.stack([state[name] for state in states]) for name in weights}
