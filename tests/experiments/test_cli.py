"""The command line without a config."""

from __future__ import annotations

import json
from pathlib import Path

import networkx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from converters import Structure, to_graph, to_state_dict
from experiments.cli import main
from experiments.zoo import Zoo


class Tiny(nn.Sequential):
    """What `--module` builds in these tests."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    source = (
        "from torch import nn\n\ndef tiny():\n    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))\n"
    )
    (tmp_path / "some_networks.py").write_text(source + "\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "some_networks:tiny"


def test_inspect_shows_layers_weights_and_a_proof_of_the_symmetries(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", module]) == 0
    text = capsys.readouterr().out
    assert "32 parameters, 10 nodes, 25 edges; 1 groups of neurons may be permuted" in text
    assert "0.weight" in text
    assert "relu" in text
    assert "sound, 1 permutable groups" in text
    assert main(["inspect", module, "--no-verify", "--input", "4,3"]) == 0
    assert "sound" not in capsys.readouterr().out


def test_inspect_takes_weights_with_the_module_that_owns_them(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(Tiny().state_dict(), tmp_path / "weights.safetensors")
    assert main(["inspect", "weights.safetensors", "--module", module]) == 0
    assert "sound, 1 permutable groups" in capsys.readouterr().out


def test_inspect_as_json_tells_everything(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", module, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], found["nodes"], found["edges"], found["coverage"]) == (32, 10, 25, 1.0)
    assert [layer["kind"] for layer in found["layers"]][:1] == ["input"]
    assert [(group["size"], group["permutable"]) for group in found["groups"] if group["role"] == "hidden"] == [
        (5, True)
    ]
    assert found["certificate"]["sound"]
    assert found["certificate"]["error"] < found["certificate"]["tolerance"]
    assert found["certificate"]["negative_control"] > 1e-3
    assert main(["inspect", module, "--json", "--no-verify"]) == 0
    assert json.loads(capsys.readouterr().out)["certificate"] is None


def test_inspect_names_frozen_axes_with_their_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "import torch\nfrom torch import nn\n\n"
        "@torch.library.custom_op('graphnets_cli::mystery', mutates_args=())\n"
        "def mystery(x: torch.Tensor) -> torch.Tensor:\n    return x.cumsum(-1)\n\n"
        "class Mystery(nn.Module):\n    def forward(self, x):\n        return mystery(x)\n\n"
        "def net():\n    return nn.Sequential(nn.Linear(3, 5), Mystery(), nn.Linear(5, 2))\n"
    )
    (tmp_path / "mysterious_networks.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["inspect", "mysterious_networks:net"]) == 0
    text = capsys.readouterr().out
    assert "fixed: 0.weight axis 0 (5): no rule for graphnets_cli.mystery" in text
    assert "coverage 0.0%" in text
    assert main(["inspect", "mysterious_networks:net", "--json"]) == 0
    axes = json.loads(capsys.readouterr().out)["frozen_axes"]
    assert {(axis["parameter"], axis["axis"]) for axis in axes} == {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}
    assert main(["inspect", "mysterious_networks:net", "--strict"]) == 1
    assert "no rule for graphnets_cli.mystery" in capsys.readouterr().err


def test_inspect_and_convert_take_a_hugging_face_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=40, max_position_embeddings=32))
    model.save_pretrained(tmp_path / "bert")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "bert"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["network"], found["inputs"]) == ("BertModel", [{"where": "input input_ids", "shape": [1, 8]}])
    assert found["certificate"]["sound"]
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert main(["convert", str(tmp_path / "bert"), "-o", str(tmp_path / "g.json"), "--max-edges", "100"]) == 1
    assert "the limit is 100 edges" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "bert"), "-o", str(tmp_path / "g.safetensors"), "--max-edges", "0"]) == 0
    with safe_open(tmp_path / "g.safetensors", "pt") as file:
        assert Structure.from_json(file.metadata()["structure"]).num_edges == found["edges"]


def test_a_file_alone_is_guessed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(Tiny().state_dict(), tmp_path / "weights.safetensors")
    assert main(["inspect", str(tmp_path / "weights.safetensors")]) == 0
    assert "guessed from names and shapes alone; give --module" in capsys.readouterr().out


def test_convert_to_tensors_keeps_every_bit(module: str, tmp_path: Path) -> None:
    net = Tiny()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    assert main(["convert", "weights.safetensors", "--module", module, "-o", "graph.safetensors"]) == 0
    with safe_open(tmp_path / "graph.safetensors", "pt") as file:
        structure = Structure.from_json(file.metadata()["structure"])
        graph = to_graph(Tiny(), structure=structure)
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            if not name.startswith("extras."):
                graph[name] = file.get_tensor(name)
    restored = to_state_dict(graph)
    assert all(torch.equal(restored[name], value) for name, value in net.state_dict().items())


def test_convert_to_graphml_and_to_a_structure(module: str, tmp_path: Path) -> None:
    assert main(["convert", module, "-o", "graph.graphml"]) == 0
    read = networkx.read_graphml(tmp_path / "graph.graphml")
    assert (read.number_of_nodes(), read.number_of_edges()) == (10, 25)
    assert main(["convert", module, "-o", "structure.json"]) == 0
    assert Structure.from_json((tmp_path / "structure.json").read_text()).num_edges == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere.pt"], "'nowhere.pt' is neither a file nor package.module:name"),
        (["inspect", "no_such_package:net"], "cannot import 'no_such_package'"),
        (["inspect", "some_networks:huge"], "some_networks has no 'huge'"),
        (["inspect", "some_networks:number"], "is a int, not a torch.nn.Module"),
        (["inspect", "some_networks:tiny", "--input", "1x3"], "--input '1x3' is no shape; write sizes with commas"),
        (["inspect", "some_networks:tiny", "--module", "a:b"], "--module goes with a file of weights"),
        (
            ["convert", "some_networks:tiny", "-o", "graph.xyz"],
            "the suffix must be one of .safetensors, .graphml, .json",
        ),
        (["zoo", "generate", "digits_mpl"], "digits_mixed, digits_mixed_shared, digits_mlp, "),
        (["zoo", "info", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_answered_with_the_remedy_and_no_traceback(
    module: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_zoo_generate_info_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["size=12", "stack_size=12", "executor=in_process", "name=cli"]
    assert main(["zoo", "generate", "digits_mlp", *changes, "--root", str(tmp_path)]) == 0
    assert "12 networks in" in capsys.readouterr().out
    (path,) = tmp_path.glob("cli-*/")
    assert main(["zoo", "info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "cli"
    assert main(["zoo", "verify", str(path), "--networks", "2"]) == 0
    assert "no faults" in capsys.readouterr().out


def test_zoo_info_is_readable_and_verify_fails_on_damage(
    tiny_zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    assert main(["zoo", "info", str(tiny_zoo.path)]) == 0
    text = capsys.readouterr().out
    assert "test_accuracy" in text
    assert "median" in text
    broken = Path(shutil.copytree(tiny_zoo.path, tmp_path / "broken"))
    shard = next(broken.rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 0xFF
    shard.write_bytes(data)
    assert main(["zoo", "verify", str(broken)]) == 1
    assert shard.name in capsys.readouterr().out


def test_report_hands_its_arguments_on(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert main(["report", "--runs", str(tmp_path), "--output", str(page)]) == 0
    assert page.exists()
