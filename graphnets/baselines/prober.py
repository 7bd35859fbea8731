from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from converters import ACTIVATIONS, Structure, StructureMismatch, execute, to_state_dict
from converters.layout import same_layout
from converters.to_state_dict import stacked_weights
from graphnets.layered import Networks, networks_of, structures_of

__all__ = ["Prober"]

LIMIT = 10.0
POINTS = 4
JITTER = 0.4


def groups_of(batch):
    everyone = structures_of(batch)
    rows = {}
    for i, s in enumerate(everyone):
        rows.setdefault(id(s), (s, []))[1].append(i)
    groups = [(s, torch.tensor(r, device=batch.x.device)) for s, r in rows.values()]
    first = groups[0][0]
    if all(same_layout(first, s) for s, _ in groups):
        whole = stacked_weights(batch, first)
        if len(groups) == 1:
            return [(first, groups[0][1], whole)]
        return [(s, r, {k: v.index_select(0, r) for k, v in whole.items()}) for s, r in groups]
    out = []
    for s, r in groups:
        each = [to_state_dict(batch[i]) for i in r.tolist()]
        out.append((s, r, {k: torch.stack([e[k] for e in each]) for k in each[0]}))
    return out


def resample(values):
    L = values.shape[1]
    at = torch.linspace(0, L - 1, POINTS, dtype=values.dtype, device=values.device)
    low = at.floor().long().clamp(max=max(L - 2, 0))
    frac = at - low
    high = (low + 1).clamp(max=L - 1)
    frac = frac.view(-1, *[1] * (values.dim() - 2))
    return (values[:, low] * (1 - frac) + values[:, high] * frac).flatten(1)


def describe(weights, structure):
    mats = [p.name for p in structure.parameters if not p.buffer and p.alias_of is None and len(p.shape) > 1]
    vecs = [p.name for p in structure.parameters if not p.buffer and p.alias_of is None and len(p.shape) == 1]
    parts = []
    for names in (mats, vecs):
        s = torch.stack([(weights[n].flatten(1).square().mean(1) + 1e-12).log() / 2 for n in names], 1)
        parts.append(resample(s))
    acts = [ACTIVATIONS.index(l.activation) for l in structure.layers if l.kind != "input"]
    hot = torch.nn.functional.one_hot(torch.tensor(acts), len(ACTIVATIONS)).to(parts[0])
    B = parts[0].shape[0]
    parts.append(resample(hot.unsqueeze(0)).expand(B, -1))
    return torch.cat(parts, 1)


class Prober(nn.Module):
    def __init__(self, structure, targets, probes=128, hidden=(128, 128), temperatures=(1.0, 3.0), weight_noise=0.05,
                 gain=20 / 3, label_gain=20/3, dropout=0.0, norm="batch", per_probe=True, jitters=0, scale=1.0, label_scale=1.0, sens=False, outs=("agree","ent","ce","margin","scale")):
        super().__init__()
        self.sens = sens
        self.targets, self.probes_n, self.temps, self.weight_noise = targets, probes, temperatures, weight_noise
        self.gain, self.label_gain, self.norm, self.per_probe, self.jitters, self.outs = gain, label_gain, norm, per_probe, jitters, outs
        spec = structure.program.inputs[0]
        self.classes = structure.layers[-1].size
        self.probes = nn.Parameter(torch.randn(probes, *spec.shape[1:]) * scale / gain)
        self.labels = nn.Parameter(torch.randn(probes, self.classes) * label_scale / label_gain)
        self.hidden = hidden
        self.dropout = dropout
        self.head = None

    def build(self, width):
        L = []
        for a, b in zip((width, *self.hidden[:-1]), self.hidden):
            L += [nn.Linear(a, b), nn.SiLU(), nn.Dropout(self.dropout)]
        self.head = nn.Sequential(*L, nn.Linear(self.hidden[-1], self.targets))
        self.bn = nn.BatchNorm1d(width, affine=False, momentum=0.1)
        self.register_buffer("mean", torch.zeros(width)); self.register_buffer("dev", torch.ones(width)); self.register_buffer("keep", torch.ones(width))

    def read_out(self, z):  # [B,P,C]
        label = (self.labels * self.label_gain).softmax(-1)
        f = []
        for T in self.temps:
            logp = (z / T).log_softmax(-1); p = logp.exp()
            q = p * label  # B,P,C
            agree = q.sum(-1)
            f += [q.sum(1) / label.sum(0), agree.mean(1, keepdim=True), agree.std(1, keepdim=True)]
            if self.per_probe: f.append(agree)
            if T == 1.0:
                ent = -(p * logp).sum(-1); ce = -(logp * label).sum(-1)
                top = z.topk(2, -1).values
                m = (top[..., 0] - top[..., 1])
                own = (z * label).sum(-1) - z.mean(-1)
                for v in (ent, ce.clamp(max=20), m.log1p(), own):
                    f += [v.mean(1, keepdim=True), v.std(1, keepdim=True)]
                f.append((p.mean(1) + 1e-6).log())
                f.append(z.std(-1).mean(1, keepdim=True).add(1e-6).log())
                f.append(z.std(1).add(1e-6).log())
        return torch.cat(f, 1)

    def features(self, batch):
        x = self.probes * self.gain
        groups = groups_of(batch)
        out = None
        for s, rows, w in groups:
            if self.training and self.weight_noise:
                w = {k: v * (1 + self.weight_noise * torch.randn_like(v)) for k, v in w.items()}
            f = [describe(w, s), self.read_out(execute(w, x, structure=s))]
            for j in range(self.jitters):
                wj = {}
                for k, v in w.items():
                    rms = v.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (v.dim() - 1))
                    wj[k] = v + JITTER * 2 ** 0.5 * rms * torch.sin(v * (200.0 + 77.7 * j) + 1.3 * j)
                f.append(self.read_out(execute(wj, x, structure=s)))
            f = torch.cat(f, 1)
            if len(groups) == 1: return f
            if out is None: out = f.new_zeros(len(structures_of(batch)), f.shape[1])
            out = out.index_copy(0, rows, f)
        return out

    @torch.no_grad()
    def fit_statistics(self, batches):
        t = self.training; self.eval()
        f = torch.cat([self.features(networks_of(b)) for b in batches])
        self.train(t)
        if self.head is None: self.build(f.shape[1])
        self.mean.copy_(f.mean(0)); d = f.std(0); self.keep.copy_((d > 1e-6).float()); self.dev.copy_(d.clamp_min(1e-6))
        self.bn.running_mean.copy_(f.mean(0)); self.bn.running_var.copy_(d.square().clamp_min(1e-12))

    def forward(self, batch):
        f = self.features(batch)
        if self.norm == "batch": f = self.bn(f)
        else: f = (f - self.mean) / self.dev
        return self.head((f * self.keep).clamp(-LIMIT, LIMIT))
