"""The constant vocabularies of the neuron graph: one meaning per column and per integer, for every structure.

The tuples only ever grow at their end, so a predictor trained with an older version keeps its embeddings.
"""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "EDGE_TYPES", "LAYER_ATTRIBUTES", "LAYER_KINDS", "NODE_SLOTS"]

NODE_SLOTS: tuple[str, ...] = ("bias", "scale", "running_mean", "running_var", "slope", "value")
"""Columns of ``NeuronGraph.x``: the parameters a single neuron or channel can own."""

LAYER_KINDS: tuple[str, ...] = (
    "input",
    "linear",
    "convolution",
    "transposed_convolution",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "activation",
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "where",
    "bias",
    "scale",
    "prelu",
    "softmax",
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "mean",
    "sum",
    "amax",
    "norm",
    "flatten",
    "slice",
    "cat",
    "upsample",
    "pad",
    "attention",
    "embedding",
    "recurrent",
    "parameter",
    "fixed",
    "other",
)
"""``NeuronGraph.node_type`` indexes this tuple: what kind of layer a node belongs to."""

EDGE_TYPES: tuple[str, ...] = (
    "linear",
    "convolution",
    "transposed_convolution",
    "depthwise",
    "identity",
    "flatten",
    "norm",
    "residual",
    "gate",
    "pool",
    "reduce",
    "slice",
    "cat",
    "query",
    "key",
    "value",
    "attention",
    "embedding",
    "recurrent",
    "tied",
    "parameter",
    "other",
    "second_operand",
    "third_operand",
)
"""``NeuronGraph.edge_type`` indexes this tuple: what an edge carries its source's value through."""

ACTIVATIONS: tuple[str, ...] = (
    "identity",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "tanh",
    "sigmoid",
    "sin",
    "cos",
    "elu",
    "leaky_relu",
    "softplus",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "mish",
    "exp",
    "log",
    "abs",
    "square",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "neg",
    "log_sigmoid",
    "erf",
    "scale",
    "chain",
    "other",
)
"""``NeuronGraph.activation`` indexes this tuple; ``chain`` is several elementwise functions in a row."""

LAYER_ATTRIBUTES: tuple[str, ...] = (
    *(f"{name}_{axis}" for name in ("kernel", "stride", "padding", "dilation", "size") for axis in range(3)),
    "groups",
    "transposed",
    "ceil_mode",
    "count_include_pad",
    "eps",
    "activation_scale",
    "activation_shift",
    "activation_parameter",
    "activation_parameter_2",
    "scalar",
    "axes",
    "heads",
    "causal",
    "signature",
)
"""Columns of ``NeuronGraph.node_attributes``: the numbers that make a layer compute what it computes.

``signature`` is a hash in [0, 1) of everything about a layer's operation that no other column holds, so that two
layers which compute different functions never look the same.
"""
