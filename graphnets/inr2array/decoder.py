"""From latent vectors to the weights of networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from converters import Structure

__all__ = ["HyperNetwork"]

FORMS = ("tensor", "single")


class HyperNetwork(nn.Module):
    r"""Perceptrons that write the weights of a network (Sitzmann et al. 2020, arXiv:2006.09661, Section 4.4).

    .. math:: \hat W_t(z) = f_t(z) \qquad\text{or, additive,}\qquad \hat W_t(z) = W^0_t + s_t f_t(z)

    for every tensor t of the network, with a learned initial network :math:`W^0`, which starts as a SIREN does, and a
    learned scale :math:`s_t`, which starts as the deviation of :math:`W^0_t`. The last layer of every perceptron starts
    with small weights and with biases in the range of a network's initial weights, so that all latent vectors begin at
    one and the same initial network.

    Args:
        structure: of the networks to write.
        latent: size d of the latent vectors.
        hidden: width of the perceptrons; ``layers`` how many hidden layers they have.
        form: ``"tensor"``: a perceptron for every tensor; ``"single"``: one for all.
        additive: whether an initial network is learned, to which differences are written.

    Shapes:
        - latents: ``[N, latent]``
        - result: ``{name: [N, *shape]}``

    Raises:
        ValueError: the form is unknown, there are no hidden layers, or networks have buffers, which are not written.

    >>> from converters import trace
    >>> structure = trace(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)))
    >>> HyperNetwork(structure, latent=5, hidden=16)(torch.randn(4, 5))["0.weight"].shape
    torch.Size([4, 8, 2])
    """

    def __init__(
        self,
        structure: Structure,
        latent: int,
        hidden: int = 256,
        layers: int = 2,
        form: str = "tensor",
        additive: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(FORMS)}")
        if layers < 1:
            raise ValueError(f"layers={layers}: a perceptron needs a hidden layer")
        if any(parameter.buffer or parameter.alias_of for parameter in structure.parameters):
            raise ValueError(f"{structure.name} has buffers or shared tensors; a hypernetwork writes parameters alone")
        self.structure, self.latent, self.form = structure, latent, form
        self.shapes = {parameter.name: parameter.shape for parameter in structure.parameters}
        starts = _starts(structure)
        tasks = [[name] for name in self.shapes] if form == "tensor" else [list(self.shapes)]
        self.perceptrons = nn.ModuleList(
            _perceptron(latent, hidden, layers, starts, names, additive) for names in tasks
        )
        self.start = nn.ParameterList(starts.values() if additive else [])
        self.scale = nn.ParameterList([_deviation(start) for start in starts.values()] if additive else [])

    def extra_repr(self) -> str:
        """The contract and the size."""
        size = sum(p.numel() for p in self.parameters())
        added = "differences to a learned network" if len(self.start) else "weights"
        return f"{self.latent} -> {added} of {self.structure.name}, {size:,} parameters"

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Write."""
        flat = torch.cat([perceptron(latents) for perceptron in self.perceptrons], 1)
        pieces = flat.split([math.prod(shape) for shape in self.shapes.values()], 1)
        written = {
            name: piece.reshape(-1, *shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
        if not len(self.start):
            return written
        learned = zip(written.items(), self.start, self.scale, strict=True)
        return {name: start + scale * change for (name, change), start, scale in learned}


def _starts(structure: Structure) -> dict[str, Tensor]:
    """Random tensors in the ranges of a SIREN's: 1/n, then the root of 6/n over the frequency; biases 1/root n."""
    frequency = max(dict(layer.attributes).get("activation_scale", 1.0) for layer in structure.layers)
    biases = {name: index for index, layer in enumerate(structure.layers) for _, name in layer.slots}
    inputs = {block.target: block.cols // block.groups * math.prod(block.kernel) for block in structure.blocks}
    targets = {block.parameter: block.target for block in structure.blocks}
    found: dict[str, Tensor] = {}
    for parameter in structure.parameters:
        layer = biases.get(parameter.name, targets.get(parameter.name))
        count = inputs.get(layer, 1) if layer is not None else 1
        if parameter.name in biases:
            bound = count**-0.5
        else:
            bound = 1 / count if layer == 1 else (6 / count) ** 0.5 / frequency
        found[parameter.name] = torch.empty(parameter.shape).uniform_(-bound, bound)
    return found


def _deviation(start: Tensor) -> Tensor:
    return start.std() if start.numel() > 1 else start.abs().mean()


def _perceptron(
    latent: int, hidden: int, layers: int, starts: dict[str, Tensor], names: list[str], additive: bool
) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(latent, hidden), nn.ReLU()]
        latent = hidden
    last = nn.Linear(hidden, sum(starts[name].numel() for name in names))
    with torch.no_grad():
        if additive:
            last.weight.mul_(0.1)
            last.bias.zero_()
        else:
            nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
            last.weight.mul_(0.01)
            last.bias.copy_(torch.cat([starts[name].flatten() for name in names]))
    return nn.Sequential(*parts, last)
