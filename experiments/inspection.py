"""What ``graphnets inspect`` shows of a network, as plain data and as tables."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from converters import Structure, SymmetryReport
from converters.symmetry.verify import coverage

__all__ = ["describe", "show", "table"]


def describe(structure: Structure, report: SymmetryReport | None = None, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything that is shown, ready for JSON.

    Args:
        structure: of the network.
        report: what verifying it found; None if it was not verified.
        notes: what else the reader should know.
    """
    layers, groups = structure.layers, structure.groups
    return {
        "network": structure.name,
        "fingerprint": structure.fingerprint,
        "certified": structure.certified,
        "parameters": structure.num_parameters,
        "nodes": structure.num_nodes,
        "edges": structure.num_edges,
        "coverage": coverage(structure),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "size": layer.size,
                "activation": layer.activation,
                "groups": [groups[g].name for g in sorted(set(layer.axis.groups))],
                "owns": dict(layer.slots),
            }
            for layer in layers
        ],
        "weights": [
            {
                "name": block.parameter,
                "source": layers[block.source].name,
                "target": layers[block.target].name,
                "pattern": block.pattern,
                "shape": list(block.shape),
                "kernel": list(block.kernel),
            }
            for block in structure.blocks
            if block.parameter is not None
        ],
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "role": group.role,
                "permutable": group.permutable,
                "inside": None if group.parent is None else groups[group.parent].name,
                "cells": group.cells,
                "reason": group.reason,
            }
            for group in groups
        ],
        "frozen_axes": _frozen_axes(structure),
        "frozen_reasons": [{"where": where, "why": why} for where, why in structure.frozen_reasons],
        "inputs": []
        if structure.program is None
        else [{"where": spec.where, "shape": list(spec.shape)} for spec in structure.program.inputs],
        "certificate": None if report is None else _certificate(report),
        "notes": list(notes),
    }


def _certificate(report: SymmetryReport) -> dict[str, Any]:
    return {
        "sound": report.sound,
        "error": report.error,
        "tolerance": report.tolerance,
        "negative_control": None if math.isnan(report.control) else report.control,
        "unsound": list(report.unsound),
        "units": report.units,
    }


def _frozen_axes(structure: Structure) -> list[dict[str, Any]]:
    """Axes of parameters of which no neuron may be permuted, inputs, outputs and kernels left out, with the reason."""
    found = []
    for parameter in structure.parameters:
        for number, axis in enumerate(parameter.axes):
            groups = [structure.groups[g] for g in sorted(set(axis.groups))]
            if len(axis) < 2 or parameter.alias_of is not None or any(group.permutable for group in groups):
                continue
            reasons = [group.reason for group in groups if group.role == "fixed"]
            if reasons:
                why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
                found.append({"parameter": parameter.name, "axis": number, "size": len(axis), "why": why})
    return found


def table(*columns: str) -> Table:
    """A table without lines."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in made.columns:
        column.justify = "right" if column.header == "size" else "left"
    return made


def show(found: dict[str, Any], console: Console) -> None:
    """Print what :func:`describe` found."""
    permutable = [group for group in found["groups"] if group["permutable"]]
    console.print(
        f"[bold]{found['network']}[/]: {found['parameters']:,} parameters, {found['nodes']:,} nodes, "
        f"{found['edges']:,} edges; {len(permutable)} groups of neurons may be permuted"
    )
    roles = {group["name"]: group["role"] for group in found["groups"]}
    layers = table("layer", "kind", "size", "activation", "group", "owns")
    for layer in found["layers"]:
        names = layer["groups"]
        group = f"{names[0]}: {roles[names[0]]}" if len(names) == 1 else ", ".join(names)
        activation = "" if layer["activation"] == "identity" else layer["activation"]
        layers.add_row(layer["name"], layer["kind"], f"{layer['size']:,}", activation, group, ", ".join(layer["owns"]))
    console.print(layers)
    weights = table("weight", "from", "to", "pattern", "shape", "kernel")
    for block in found["weights"]:
        shape, kernel = (" x ".join(map(str, block[key])) for key in ("shape", "kernel"))
        weights.add_row(block["name"], block["source"], block["target"], block["pattern"], shape, kernel)
    console.print(weights)
    if permutable:
        groups = table("group", "size", "role", "inside")
        for group in permutable:
            inside = "" if group["inside"] is None else f"each of {group['cells']} cells of {group['inside']}"
            groups.add_row(group["name"], f"{group['size']:,}", group["role"], inside)
        console.print(groups)
    for axis in found["frozen_axes"]:
        place = f"{axis['parameter']} axis {axis['axis']} ({axis['size']})"
        console.print(f"fixed: {place}: {axis['why']}", markup=False, highlight=False)
    for reason in found["frozen_reasons"]:
        console.print(f"kept fixed: {reason['where']}: {reason['why']}", markup=False, highlight=False)
    console.print(f"coverage {found['coverage']:.1%} of the axes that could be permuted", highlight=False)
    for note in found["notes"]:
        console.print(note, markup=False, highlight=False)
