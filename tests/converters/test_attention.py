"""Attention in its many forms: which groups it has, and that none is false."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from converters import Structure, align, permute, sample_permutation, trace, verify
from tests.converters.laws import difference, outputs, random_state

WIDTH, HEADS, HIDDEN, LENGTH = 10, 4, 3, 5
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Embeds, attends, reads out; ``mix`` is what happens to queries, keys and values ``[B, L, heads, size]``."""

    def __init__(self, mix: Mix, keys: int = HEADS, size: int = HIDDEN) -> None:
        super().__init__()
        self.mix, self.size = mix, size
        self.table = nn.Embedding(20, WIDTH)
        self.q = nn.Linear(WIDTH, HEADS * size)
        self.k, self.v = nn.Linear(WIDTH, keys * size), nn.Linear(WIDTH, keys * size)
        self.o = nn.Linear(HEADS * size, WIDTH)
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        q, k, v = (f(x).unflatten(-1, (-1, self.size)) for f in (self.q, self.k, self.v))
        out: Tensor = self.last(self.norm(x + self.o(self.mix(q, k, v).flatten(-2))).mean(1))
        return out


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return ((q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v).transpose(1, 2)


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = (t.transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)


def rotary(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_hand(turned(q), turned(k), v)


def turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    rates = 1.0 / 100.0 ** (torch.arange(half) / half)
    angle = torch.outer(torch.arange(x.shape[1]), rates.repeat(2))[:, None].to(x.dtype)
    return x * angle.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * angle.sin()


class Normed(nn.Module):
    """Queries and keys normalised inside their heads, with one scale per dimension that all heads share."""

    def __init__(self, inner: Mix, size: int) -> None:
        super().__init__()
        self.inner = inner
        self.q, self.k = nn.RMSNorm(size), nn.RMSNorm(size)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.inner(self.q(q), self.k(k), v)


def shared(inner: Mix) -> Mix:
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        copies = HEADS // k.shape[2]
        return inner(q, k.repeat_interleave(copies, 2), v.repeat_interleave(copies, 2))

    return mix


def expanded(inner: Mix) -> Mix:
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def copied(t: Tensor) -> Tensor:
            copies = HEADS // t.shape[2]
            return t[:, :, :, None].expand(-1, -1, -1, copies, -1).flatten(2, 3)

        return inner(q, copied(k), copied(v))

    return mix


def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ALiBi: each head has a slope of its own, so heads differ."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    slopes = torch.tensor([0.5**i for i in range(HEADS)], dtype=q.dtype)[:, None, None]
    distance = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    return ((q @ k.transpose(-1, -2) - slopes * distance).softmax(-1) @ v).transpose(1, 2)


# Members per permutable group beside the residual stream: heads, then the dimensions inside them.
CASES: dict[str, tuple[Callable[[], Attention], tuple[int, ...]]] = {
    "by_hand": (lambda: Attention(by_hand), (HEADS, HEADS * HIDDEN, HEADS * HIDDEN)),
    "einsum": (lambda: Attention(einsum), (HEADS, HEADS * HIDDEN, HEADS * HIDDEN)),
    "fused": (lambda: Attention(fused), (HEADS, HEADS * HIDDEN, HEADS * HIDDEN)),
    "rotary": (lambda: Attention(rotary, size=4), (HEADS, HEADS * 4)),
    "alibi": (lambda: Attention(biased), (HIDDEN,) * (2 * HEADS)),
    "grouped_query": (lambda: Attention(expanded(by_hand), keys=2), (2, HEADS, 2 * HIDDEN, 2 * HIDDEN)),
    "multi_query": (lambda: Attention(expanded(by_hand), keys=1), (HEADS, HIDDEN, HIDDEN)),
    "grouped_query_rotary": (lambda: Attention(expanded(rotary), keys=2, size=4), (2, HEADS, 2 * 4)),
    "normed": (lambda: Attention(Normed(by_hand, HIDDEN)), (HEADS, HIDDEN, HEADS * HIDDEN)),
    "normed_rotary": (lambda: Attention(Normed(rotary, 4), size=4), (HEADS, HEADS * 4)),
    "normed_grouped": (lambda: Attention(Normed(expanded(rotary), 4), keys=2, size=4), (2, HEADS, 2 * 4)),
    "repeat_interleave": (lambda: Attention(shared(by_hand), keys=2), (2, HEADS, 2 * HIDDEN, 2 * HIDDEN)),
}


def tokens() -> Tensor:
    return torch.randint(0, 20, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def sizes(structure: Structure) -> list[int]:
    return sorted(group.size for group in structure.groups if group.permutable and not group.factors)


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    make, expected = CASES[name]
    torch.manual_seed(0)
    model = make()
    structure = trace(model, tokens())
    assert sizes(structure) == sorted((WIDTH, *expected))
    report = verify(model, tokens(), structure)
    assert report.sound, str(report)
    assert report.error < 1e-12
    assert report.control > 1e-3


def test_inner_groups_lie_in_their_heads() -> None:
    structure = trace(Attention(by_hand), tokens())
    (heads,) = (g for g, group in enumerate(structure.groups) if group.permutable and group.size == HEADS)
    inner = [group for group in structure.groups if group.size == HEADS * HIDDEN and group.permutable]
    assert [group.parent for group in inner] == [heads, heads]
    assert [group.cells for group in inner] == [HEADS, HEADS]


def test_query_heads_that_share_a_key_move_as_pairs() -> None:
    model = Attention(expanded(by_hand), keys=2)
    structure = trace(model, tokens())
    pairs = [group for group in structure.groups if group.factors]
    assert len(pairs) == 2
    for group in pairs:
        assert group.size == HEADS * HIDDEN
        assert sorted(structure.groups[f].size for f in group.factors) == [HEADS, 2 * HIDDEN]
    assert structure.parameter["q.weight"].axes[0].groups == (structure.groups.index(pairs[0]),)
    again = Structure.from_json(structure.to_json())
    assert again == structure
    assert again.groups == structure.groups


def test_pairs_are_aligned() -> None:
    torch.manual_seed(1)
    model = Attention(expanded(by_hand), keys=2).double()
    structure = trace(model, tokens())
    state = random_state(model)
    moved = permute(state, sample_permutation(structure, torch.Generator().manual_seed(2)))
    back = permute(moved, align(moved, state, structure))
    worst = max(float((back[name] - state[name]).abs().max()) for name in state)
    assert worst == 0.0
    assert difference(outputs(model, state, (tokens(),), {}), outputs(model, moved, (tokens(),), {})) < 1e-12


def test_one_group_of_a_wreath_alone() -> None:
    model = Attention(expanded(by_hand), keys=2)
    structure = trace(model, tokens())
    state = random_state(model)
    expected = outputs(model, state, (tokens(),), {})
    for g, group in enumerate(structure.groups):
        if not group.permutable or group.factors:
            continue
        alone = sample_permutation(structure, torch.Generator().manual_seed(g), groups={g})
        assert g in alone
        moved = permute(state, alone)
        assert any(not torch.equal(moved[name], state[name]) for name in state)
        assert difference(expected, outputs(model, moved, (tokens(),), {})) < 1e-12
        false = sample_permutation(structure, torch.Generator().manual_seed(g), coupled=False, groups={g})
        assert difference(expected, outputs(model, permute(state, false), (tokens(),), {})) > 1e-3


class Relative(nn.Module):
    """Tokens of a 3 x 3 image attend with a learned score per head and relative position, beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        place = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")).flatten(1)
        offset = place[:, :, None] - place[:, None, :] + 2
        self.register_buffer("index", offset[0] * 5 + offset[1], persistent=False)
        self.table = nn.Parameter(torch.randn(25, 2))
        self.patches, self.qkv = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24)
        self.out, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).mT
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mask = self.table[self.index.flatten()].view(9, 9, 2).permute(2, 0, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
        result: Tensor = self.last((x + self.out(mixed.transpose(1, 2).flatten(2))).mean(1))
        return result


def test_relative_positions_are_not_permutable() -> None:
    """Two corners see the same offsets, as query and as key: that does not make them one."""
    torch.manual_seed(0)
    model, image = Relative(), torch.randn(1, 3, 12, 12)
    structure = trace(model, image)
    assert verify(model, image, structure).sound
    assert sizes(structure) == [2, 8, 8, 8]
    assert not any(structure.groups[g].permutable for g in structure.parameter["table"].axes[0].groups)


class Latents(nn.Module):
    """Learned vectors attend to each other; in no order unless attention is causal."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.latents = causal, nn.Parameter(torch.randn(1, 1, 5, 4))
        self.enter, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.relu(self.latents + self.enter(x)[:, None, None])
        mixed = functional.scaled_dot_product_attention(mixed, mixed, mixed, is_causal=self.causal)
        result: Tensor = self.last(mixed.mean((1, 2)))
        return result


@pytest.mark.parametrize(("causal", "free"), [(False, True), (True, False)])
def test_learned_latents_have_an_order_where_attention_is_causal(causal: bool, free: bool) -> None:
    torch.manual_seed(0)
    model, x = Latents(causal), torch.randn(2, 3)
    structure = trace(model, x)
    assert verify(model, x, structure).sound
    groups = structure.parameter["latents"].axes[2].groups
    assert any(structure.groups[g].permutable for g in groups) is free


def by_shared_table(heads: int, width: int) -> nn.Module:
    """Every head's scores get its queries' products with one table for all heads."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.qkv = nn.Linear(3, heads * width), nn.Linear(heads * width, 3 * heads * width)
            self.table, self.last = nn.Parameter(torch.randn(5, width)), nn.Linear(heads * width, 2)

        def forward(self, x: Tensor) -> Tensor:
            count, length = x.shape[:2]
            mixed = self.qkv(self.first(x)).reshape(count, length, 3, heads, width).permute(2, 0, 3, 1, 4)
            q, k, v = mixed.reshape(3, count * heads, length, width).unbind(0)
            scores = q @ k.transpose(-2, -1) + torch.einsum("blc,jc->blj", q, self.table)
            out = (scores.softmax(-1) @ v).view(count, heads, length, width).transpose(1, 2)
            return self.last(out.reshape(count, length, heads * width))

    torch.manual_seed(0)
    return Shared().eval()


def test_a_table_shared_by_all_heads_ties_their_dimensions() -> None:
    """Heads change places, dimensions of queries and keys change places alike in all heads, those of values freely."""
    model, x = by_shared_table(2, 3), torch.randn(1, 5, 3)
    structure = trace(model, x)
    report = verify(model, x, structure)
    assert report.sound, str(report)
    assert report.control > 1e-3
    assert report.coverage == 1.0
    free = sorted((g.size // g.cells, g.cells) for g in structure.groups if g.permutable and not g.factors)
    assert free == [(2, 1), (3, 1), (3, 2), (6, 1)]
