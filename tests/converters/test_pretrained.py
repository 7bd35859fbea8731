"""Weights without code: what a folder, a file or a name tells is used, and nothing else is guessed or run."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters import (
    ArchitectureError,
    ConversionError,
    ExampleInputError,
    StructureMismatch,
    WeightsError,
    execute,
    load_pretrained,
    to_graph,
    to_state_dict,
    trace,
)

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 32,
}
MAKERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=40)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)),
    "t5": lambda: transformers.T5Model(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=40)
    ),
    "whisper": lambda: transformers.WhisperModel(
        transformers.WhisperConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            num_mel_bins=8,
            max_source_positions=10,
            max_target_positions=16,
            vocab_size=40,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ),
    "vit": lambda: transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=8,
        )
    ),
    "wav2vec2": lambda: transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            conv_dim=(8, 8),
            conv_stride=(4, 2),
            conv_kernel=(8, 3),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    ),
}


def made(name: str) -> Any:
    torch.manual_seed(0)
    return MAKERS[name]().eval()


def saved(name: str, folder: Path, **changes: Any) -> Any:
    """A network in a folder, with entries of its config changed or, where None, left out."""
    model = made(name)
    model.save_pretrained(folder)
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return model


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    file.unlink()
    save_file(change(tensors), file, metadata={"format": "pt"})


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in expected.items()
    )


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_is_enough(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    graph = to_graph(tmp_path)
    assert graph.structure.certified
    assert same(to_state_dict(graph), model.state_dict())
    inputs = load_pretrained(tmp_path).inputs_of(graph.structure)
    with torch.no_grad():
        expected = model(**inputs)[0]
    found = execute(graph, **inputs)
    first = found.get("last_hidden_state", found.get("logits"))
    assert (first - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    model = made("bert").to(dtype)
    model.save_pretrained(tmp_path)
    graph = to_graph(tmp_path)
    assert graph.structure.dtype == str(dtype).removeprefix("torch.")
    assert same(to_state_dict(graph), model.state_dict())


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda w: {n.removeprefix("bert."): v for n, v in w.items()}, "with 'bert.' before"),
        (lambda w: {f"module.{n}": v for n, v in w.items()}, "without 'module.'"),
        (lambda w: {n.replace("LayerNorm.weight", "LayerNorm.gamma"): v for n, v in w.items()}, "gamma called weight"),
        (lambda w: {**w, "bert.embeddings.position_ids": torch.arange(32)[None]}, ""),
    ],
)
def test_names_that_differ_as_names_do_are_found(change: Any, note: str, tmp_path: Path) -> None:
    model = saved("bert", tmp_path)
    rewritten(tmp_path, change)
    found = load_pretrained(tmp_path)
    assert note in " ".join(found.notes)
    assert same(found.weights, model.state_dict())


def test_a_headless_class_takes_the_weights_of_one_with_a_head(tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
    model.save_pretrained(tmp_path)
    with pytest.raises(StructureMismatch, match=r"classifier\.weight: unexpected, not a name of this network"):
        load_pretrained(tmp_path, "transformers:BertModel")
    rewritten(tmp_path, lambda w: {n: v for n, v in w.items() if n.startswith("bert.")})
    found = load_pretrained(tmp_path, "transformers:BertModel")
    assert found.notes == (f"{len(found.weights)} names without 'bert.'",)
    assert all(torch.equal(v, model.state_dict()[f"bert.{n}"]) for n, v in found.weights.items())


def test_every_wrong_name_and_shape_is_listed(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    gone, wrong = "bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.bias"

    def damage(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: v[:-1] if n == wrong else v for n, v in weights.items() if n != gone} | {"surplus": torch.zeros(2)}

    rewritten(tmp_path, damage)
    with pytest.raises(StructureMismatch) as caught:
        to_graph(tmp_path)
    text = str(caught.value)
    assert "1 missing, 1 unexpected, 3 faults in all" in text
    assert f"{gone}: missing, expected shape [16, 24]" in text
    assert f"{wrong}: shape [15], expected [16]" in text
    assert "surplus: unexpected" in text
    assert "Pass architecture=" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["NoSuchModel"]}, r"names the class 'NoSuchModel', which is no model of transformers"),
        ({"architectures": ["pipeline"]}, r"'pipeline', which is no model"),
        ({"architectures": ["os.system"]}, r"'os.system', which is no model"),
        ({"model_type": "no_such_type"}, r"model_type 'no_such_type', which transformers .* does not know"),
        ({"model_type": None}, r"names no model_type"),
        ({"hidden_size": "many"}, r"BertForMaskedLM cannot be built from it"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"its tensors are packed"),
    ],
)
def test_a_config_that_tells_nothing_usable_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    saved("bert", tmp_path, **changes)
    with pytest.raises(ArchitectureError, match=message):
        to_graph(tmp_path)


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    auto = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    saved("bert", tmp_path, model_type="evil", architectures=["EvilModel"], auto_map=auto)
    mark = tmp_path / "was_run"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n")
    with pytest.raises(ArchitectureError, match=r"code of its own \(auto_map\), which is never run"):
        to_graph(tmp_path)
    assert not mark.exists()
    other = tmp_path / "known"
    saved("bert", other, auto_map=auto)
    (other / "evil.py").write_text((tmp_path / "evil.py").read_text())
    assert to_graph(other).structure.name == "BertForMaskedLM"
    assert not mark.exists()


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"bert"', "[" * 100_000])
def test_a_config_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    saved("bert", tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArchitectureError, match=r"config\.json"):
        to_graph(tmp_path)


class Boom:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("was run",)


def test_hostile_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved("bert", tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Boom()}))
    with pytest.raises(WeightsError, match="wants to run code"):
        to_graph(tmp_path)
    assert "was run" not in capsys.readouterr().out
    (tmp_path / "pytorch_model.bin").unlink()
    file.write_bytes(content[:-100])
    with pytest.raises(WeightsError, match="is truncated"):
        to_graph(tmp_path)


def test_nan_is_named(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    name = "bert.encoder.layer.0.output.dense.bias"
    rewritten(tmp_path, lambda w: {**w, name: torch.full_like(w[name], float("nan"))})
    with pytest.raises(WeightsError, match=rf"{name}: 16 of 16 elements are not finite"):
        to_graph(tmp_path)
    graph = to_graph(tmp_path, materialize=False)
    with pytest.raises(WeightsError, match="not finite"):
        graph.materialize()


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("bert", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArchitectureError, match=r'pip install "graphnets\[hub\]"'):
        to_graph(tmp_path)
    with pytest.raises(ArchitectureError, match=r"graphnets\[hub\]"):
        to_graph(tmp_path, architecture="transformers:BertModel")


# -- named architectures and bare weights ------------------------------------------------------------------------------


class Twisted(nn.Module):
    """No chain, so that names and shapes do not tell what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate, self.outer = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x) * torch.sigmoid(self.gate(x)))


@pytest.mark.parametrize("form", ["name", "class", "module", "function"])
def test_an_architecture_can_be_named(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Twisted()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    source = (
        "import torch\nfrom torch import nn\n\nclass Twisted(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner, self.gate, self.outer = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)\n\n"
        "    def forward(self, x):\n        return self.outer(self.inner(x) * torch.sigmoid(self.gate(x)))\n"
    )
    (tmp_path / "a_twisted_package.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    named: Any = {
        "name": "a_twisted_package:Twisted",
        "class": Twisted,
        "module": Twisted(),
        "function": lambda: Twisted(),
    }
    graph = to_graph(tmp_path / "w.safetensors", architecture=named[form])
    assert same(to_state_dict(graph), net.state_dict())
    assert graph.structure.groups == trace(net).groups
    assert same(to_state_dict(to_graph(net.state_dict(), architecture=named[form])), net.state_dict())
    assert same(to_state_dict(to_graph(tmp_path / "w.safetensors", structure=trace(net))), net.state_dict())


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("nowhere_at_all:Net", "cannot import 'nowhere_at_all'"),
        ("torch.nn", "is not package.module:name"),
        ("torch.nn:NoSuchLayer", "torch.nn has no 'NoSuchLayer'"),
        ("torch.nn:Linear", "cannot be called without arguments"),
        ("math:pi", "is a float, nothing that makes a module"),
        (dict, "makes a dict, not a torch.nn.Module"),
        ("transformers:BertModel", "has no config.json"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(architecture: Any, message: str, tmp_path: Path) -> None:
    save_file(Twisted().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ArchitectureError, match=message):
        to_graph(tmp_path / "w.safetensors", architecture=architecture)


def test_a_chain_is_guessed_and_anything_else_is_refused(tmp_path: Path) -> None:
    chain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    save_file(chain.state_dict(), tmp_path / "chain.safetensors")
    graph = to_graph(tmp_path / "chain.safetensors")
    assert not graph.structure.certified
    assert same(to_state_dict(graph), chain.state_dict())
    save_file(Twisted().state_dict(), tmp_path / "twisted.safetensors")
    with pytest.raises(StructureMismatch, match=r"architecture="):
        to_graph(tmp_path / "twisted.safetensors")
    with pytest.raises(ArchitectureError, match=r"holds weights alone.*Name it"):
        load_pretrained(tmp_path / "twisted.safetensors")
    for wrong in (3, None):
        with pytest.raises(ArchitectureError, match="to_graph takes a module, a state_dict, a file or a folder"):
            to_graph(wrong)


def test_inputs_that_nobody_can_make_up_are_asked_for(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    found = load_pretrained(tmp_path)
    with pytest.raises(ExampleInputError, match="does not run on the example inputs"):
        found.trace({"input_ids": torch.zeros(1, 2, 3, 4, dtype=torch.long)})
    lost = type(found)(found.model, found.weights, ({"nonsense": torch.zeros(1)},))
    with pytest.raises(
        ExampleInputError, match=r"no input could be made up for BertForMaskedLM; tried were\n  nonsense"
    ):
        lost.trace()
    assert issubclass(ExampleInputError, ConversionError)
