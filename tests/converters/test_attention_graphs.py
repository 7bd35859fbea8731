"""Attention, embeddings, experts: one graph per function, every parameter exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters import to_graph, trace
from tests.converters.entry import draw
from tests.converters.graph_laws import assert_laws, content, edge_types, kinds, seeded
from tests.converters.modules import Net

TOKENS, VECTORS = torch.tensor([[1, 4, 2, 7, 3, 5]]), draw(1, 6, 8)


def split(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def rotate(x: Tensor, base: float) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * base ** (-torch.arange(half) / half)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def attend(
    n: Any,
    x: Tensor,
    heads: int = 2,
    scores: Callable[[Tensor], Tensor] = lambda s: s,
    turn: Callable[[Tensor], Tensor] = lambda t: t,
    roles: str = "qkv",
    weigh: Callable[[Tensor], Tensor] = lambda s: s.softmax(-1),
) -> Tensor:
    """Multi-head attention whose parts can be exchanged."""
    q, k, v = (split(getattr(n, role)(x), heads) for role in roles)
    s = scores(turn(q) @ turn(k).transpose(-2, -1) / q.shape[-1] ** 0.5)
    return n.o(merge(weigh(s) @ v))


def attention(**options: Any) -> nn.Module:
    layers = {name: nn.Linear(8, 8) for name in "qkvo"}
    return Net(lambda n, x: n.last(attend(n, x, **options)), first=nn.Linear(8, 8), last=nn.Linear(8, 2), **layers)


def fused(heads: int = 2, **options: Any) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = (split(part(x), heads) for part in (n.q, n.k, n.v))
        return n.o(merge(F.scaled_dot_product_attention(q, k, v, **options)))

    return Net(forward, **{name: nn.Linear(8, 8) for name in "qkvo"})


def below(s: Tensor, reach: int = 99) -> Tensor:
    seen = torch.ones(s.shape[-2:], dtype=torch.bool).tril()
    return s.masked_fill(~(seen & ~seen.tril(-reach)), float("-inf"))


def alibi(s: Tensor, slope: float) -> Tensor:
    places = torch.arange(s.shape[-1])
    return s - slope * (places[:, None] - places).abs()


def grouped(heads: int, served: int) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        q, k, v = split(n.q(x), heads), split(n.k(x), served), split(n.v(x), served)
        k, v = (t.repeat_interleave(heads // served, 1) for t in (k, v))
        return n.o(merge((q @ k.transpose(-2, -1)).softmax(-1) @ v))

    return Net(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 4), v=nn.Linear(8, 4), o=nn.Linear(8, 2))


def block(order: str, norm: Callable[[], nn.Module]) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        if order == "pre":
            return n.last(x + attend(n, n.norm(x)))
        return n.last(n.norm(x + attend(n, x)))

    return Net(forward, norm=norm(), last=nn.Linear(8, 2), **{name: nn.Linear(8, 8) for name in "qkvo"})


def windows(shift: int) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        rolled = x.roll(shift, 1).reshape(-1, 3, 8)
        return n.last(attend(n, rolled).reshape(x.shape).roll(-shift, 1))

    return Net(forward, last=nn.Linear(8, 2), **{name: nn.Linear(8, 8) for name in "qkvo"})


def language(read: str) -> nn.Module:
    """Two tables of one shape; which is read at the end is the variant."""

    def forward(n: Any, tokens: Tensor) -> Tensor:
        h = n.a(tokens) + n.places[: tokens.shape[1]]
        return F.linear(n.middle(h).relu(), getattr(n, read).weight)

    parts = {"a": nn.Embedding(9, 8), "b": nn.Embedding(9, 8), "middle": nn.Linear(8, 8)}
    return Net(forward, places=nn.Parameter(draw(12, 8)), **parts)


def experts(count: int, first: bool = False) -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        gate = n.router(x)
        gate = gate.softmax(-1) if first else gate
        top = gate.topk(count, -1)
        kept = torch.zeros_like(gate).scatter(-1, top.indices, top.values if first else top.values.softmax(-1))
        inner = torch.stack([F.relu(F.linear(x, w)) for w in n.inner], -2)
        return n.last((inner * kept[..., None]).sum(-2))

    return Net(forward, router=nn.Linear(8, 4), inner=nn.Parameter(draw(4, 6, 8)), last=nn.Linear(6, 2))


VARIANTS: dict[str, list[Callable[[], nn.Module]]] = {
    "heads": [lambda heads=heads: attention(heads=heads) for heads in (1, 2, 4)],
    "fused_heads": [lambda heads=heads: fused(heads) for heads in (1, 2, 4)],
    "fused": [fused, lambda: fused(is_causal=True), lambda: fused(scale=0.3)],
    "scores": [
        attention,
        lambda: attention(scores=below),
        lambda: attention(scores=lambda s: below(s, 2)),
        lambda: attention(scores=lambda s: s * 2),
        lambda: attention(scores=lambda s: torch.tanh(s / 5) * 5),
        lambda: attention(scores=lambda s: alibi(s, 0.5)),
        lambda: attention(scores=lambda s: alibi(s, 0.25)),
        lambda: attention(weigh=lambda s: s.sigmoid()),
        lambda: attention(weigh=lambda s: s.softmax(-2)),
    ],
    "roles": [lambda roles=roles: attention(roles=roles) for roles in ("qkv", "kqv", "qvk", "vkq")],
    "rotary": [
        attention,
        lambda: attention(turn=lambda t: rotate(t, 10000.0)),
        lambda: attention(turn=lambda t: rotate(t, 500.0)),
    ],
    "served": [lambda: grouped(4, 2), lambda: grouped(2, 1)],
    "norm": [
        lambda: block("pre", lambda: nn.LayerNorm(8, bias=False)),
        lambda: block("post", lambda: nn.LayerNorm(8, bias=False)),
        lambda: block("pre", lambda: nn.LayerNorm(8, eps=1e-3, bias=False)),
        lambda: block("pre", lambda: nn.RMSNorm(8, eps=1e-5)),
        lambda: block("post", lambda: nn.RMSNorm(8, eps=1e-5)),
    ],
    "window": [lambda: windows(0), lambda: windows(1), lambda: windows(2)],
    "tying": [lambda: language("a"), lambda: language("b")],
    "experts": [lambda: experts(1), lambda: experts(2), lambda: experts(2, first=True)],
}


@pytest.mark.parametrize("row", VARIANTS)
def test_different_functions_have_different_graphs(row: str) -> None:
    seen: dict[Any, int] = {}
    same = []
    for number, make in enumerate(VARIANTS[row]):
        model = make().eval()
        inputs = TOKENS if row == "tying" else VECTORS
        graph = content(to_graph(seeded(model), structure=trace(model, inputs)))
        if graph in seen:
            same.append((seen[graph], number))
        seen[graph] = number
    assert same == []


@pytest.mark.parametrize("row", VARIANTS)
def test_laws(row: str) -> None:
    assert_laws(VARIANTS[row][-1](), TOKENS if row == "tying" else VECTORS)


def test_dropout_does_not_count() -> None:
    plain, dropped = attention(), attention(weigh=lambda s: F.dropout(s.softmax(-1), 0.3, training=False))
    one, other = (to_graph(seeded(m.eval()), structure=trace(m.eval(), VECTORS)) for m in (plain, dropped))
    assert content(one) == content(other)


@pytest.mark.parametrize("make", [attention, fused])
def test_query_key_and_value_are_told_apart(make: Callable[..., nn.Module]) -> None:
    structure = trace(make().eval(), VECTORS)
    into = {block.edge_type: structure.layers[block.target] for block in structure.blocks}
    assert into["query"] == into["key"] != into["value"] == into["attention"]
    assert dict(into["query"].attributes)["heads"] == dict(into["value"].attributes)["heads"] == 2
    assert into["query"].size == 2


@pytest.mark.parametrize("make", [lambda: attention(scores=below), lambda: fused(is_causal=True)])
def test_causal_is_an_attribute_whatever_the_length(make: Callable[[], nn.Module]) -> None:
    graphs = []
    for length in (4, 9):
        model = make().eval()
        structure = trace(model, draw(1, length, 8))
        assert [dict(layer.attributes).get("causal") for layer in structure.layers].count(1.0) == 1
        graphs.append(content(to_graph(seeded(model), structure=structure)))
    assert graphs[0] == graphs[1]


def test_a_tied_table_is_on_edges_once() -> None:
    tied, untied = (trace(language(read).eval(), TOKENS) for read in "ab")
    assert edge_types(tied).count("tied") == 1
    assert "tied" not in edge_types(untied)
    for structure in (tied, untied):
        held = [block.parameter for block in structure.blocks if block.parameter]
        assert len(held) == len(set(held))
        assert {"a.weight", "places"} <= {b.parameter for b in structure.blocks if b.edge_type == "embedding"}


def test_a_split_weight_lies_on_three_blocks() -> None:
    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    structure = assert_laws(Net(lambda n, x: n.mha(x, x[:, 1:], x[:, 1:])[0], mha=mha), VECTORS)
    parts = [block.span for block in structure.blocks if block.parameter == "mha.in_proj_weight"]
    assert parts == [((0, 0, 8),), ((0, 8, 16),), ((0, 16, 24),)]
    assert kinds(structure).count("input") == 2


def test_projections_of_one_input_share_its_nodes() -> None:
    assert kinds(assert_laws(fused(), VECTORS)).count("input") == 1
    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    assert kinds(assert_laws(Net(lambda n, x: n.mha(x, x, x)[0], mha=mha), VECTORS)).count("input") == 1


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), VECTORS),
        (nn.Transformer(8, 2, 1, 1, 12, batch_first=True), (VECTORS, draw(1, 4, 8))),
        (Net(lambda n, x: n.norm(n.conv(x)), conv=nn.Conv2d(2, 3, 3), norm=nn.LayerNorm([3, 4, 5])), draw(1, 2, 6, 7)),
        (
            Net(lambda n, x: n.last(n.act(n.first(x))), first=nn.Linear(8, 5), act=nn.PReLU(), last=nn.Linear(5, 2)),
            VECTORS,
        ),
        (
            Net(
                lambda n, x: F.linear(x, n.weight + n.up @ n.down),
                weight=nn.Parameter(draw(4, 8)),
                up=nn.Parameter(draw(4, 3)),
                down=nn.Parameter(draw(3, 8)),
            ),
            VECTORS,
        ),
        (
            Net(
                lambda n, x: torch.cat([n.token.expand(len(x), -1, -1), n.first(x)], 1) + n.places,
                first=nn.Linear(8, 6),
                token=nn.Parameter(draw(1, 1, 6)),
                places=nn.Parameter(draw(1, 7, 6)),
            ),
            VECTORS,
        ),
        (
            Net(
                lambda n, x: torch.einsum("eti,eio->to", x.expand(3, -1, -1), n.stack),
                stack=nn.Parameter(draw(3, 8, 5)),
            ),
            VECTORS,
        ),
    ],
    ids=["encoder", "transformer", "norm_of_three_axes", "one_slope", "low_rank", "class_token", "stack"],
)
def test_every_parameter_has_a_place(model: nn.Module, inputs: Any) -> None:
    assert assert_laws(model, inputs).extras == ()
