"""The results page says what the records say, and nothing else."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.evaluation.bootstrap import Interval
from experiments.records import RecordError, read_records, record_path
from experiments.report import decide, main, results_page

CONFIG = """
title: Properties
report:
  paper_title: A Paper
  setting: property
  metrics: [r2, mae]
  paper:
    weightnet_invariant: {accuracy: {mae: 0.1101}, robustness: {mae: 0.1401}}
    flat_mlp: {accuracy: {mae: 0.1501}, robustness: {mae: 0.1801}}
  claims:
    - {text: WeightNet is better, better: weightnet_invariant, worse: flat_mlp, metric: mae}
"""


def record(seed: int, accuracy: float = 0.2, robustness: float = 0.1) -> dict[str, Any]:
    """A record whose WeightNet beats the flat MLP by ``accuracy`` and ``robustness`` in MAE."""
    rows, comparisons = [], []
    for name, margin in (("accuracy", accuracy), ("robustness", robustness)):
        for method, mae in (("flat_mlp", 0.5), ("weightnet_invariant", 0.5 - margin)):
            metrics = {"tau": 0.5, "r2": 0.25 + seed / 100, "mae": mae, "rmse": mae, "permutation_delta": 1e-6}
            rows.append(
                {
                    "method": method,
                    "setting": {"property": name},
                    "metrics": metrics,
                    "parameters": 1000,
                    "cpu_seconds": 2.5,
                }
            )
        comparisons.append(
            {
                "first": "weightnet_invariant",
                "second": "flat_mlp",
                "setting": {"property": name},
                "metric": "mae",
                "difference": -margin,
                "interval": [-margin - 0.05, -margin + 0.05],
            }
        )
    return {
        "experiment": "paper/table",
        "scale": "small",
        "variant": "digits",
        "seed": seed,
        "zoo": "abc",
        "rows": rows,
        "comparisons": comparisons,
        "config": {"tuning": {"trials": 2}},
        "versions": {"torch": "2.9"},
        "commit": "0123456789abcdef",
    }


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    path = tmp_path / "configs" / "experiment" / "paper" / "table.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(CONFIG)
    return tmp_path / "configs"


def store(root: Path, *records: dict[str, Any]) -> Path:
    for content in records:
        path = record_path(root, *(content[key] for key in ("experiment", "scale", "variant", "seed")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def verdicts(page: str) -> dict[str, str]:
    claims = page[page.index("#### Claims") : page.index("<!-- end of")]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in claims.splitlines() if "|" in line]
    return {row[0]: row[2] for row in rows[2:]}


def test_our_numbers_stand_beside_the_papers_with_seeds_and_spread(tmp_path: Path, configs: Path) -> None:
    page = results_page(store(tmp_path / "runs", record(0), record(1)), configs)
    assert "`python -m experiments experiment=paper/table scale=small`: seeds 0, 1;" in page
    assert "settings tried per method on validation: 2" in page
    assert "| method | accuracy | paper | robustness | paper | mean | paper |" in page
    assert re.search(r"\| WeightNet \| 0\.300 ± 0\.000 \| 0\.110 \| 0\.400 ± 0\.000 \| 0\.140 \|", page)
    assert "0.255 ± 0.007" in page  # R2, for which the paper printed nothing here
    assert "1.0e-06" in page


def test_variants_of_an_experiment_stand_apart_and_in_one_overview(tmp_path: Path, configs: Path) -> None:
    path = configs / "experiment" / "paper" / "table.yaml"
    path.write_text(path.read_text().replace("  setting:", "  choose: zoo\n  note: What to know.\n  setting:"))
    other = {**record(0, accuracy=0.4), "variant": "letters", "zoo": "def"}
    page = results_page(store(tmp_path / "runs", record(0), record(1), other), configs)
    assert "What to know." in page
    for variant, seeds in (("digits", "0, 1"), ("letters", "0")):
        assert f"### `{variant}`, scale `small`" in page
        assert f"experiment=paper/table scale=small zoo={variant}`: seeds {seeds};" in page
    text = path.read_text().replace("  note:", "  variants: {letters: zoo=alphabet task.size=3}\n  note:")
    path.write_text(text)
    page = results_page(tmp_path / "runs", configs)
    assert "experiment=paper/table scale=small zoo=alphabet task.size=3`: seeds 0;" in page
    assert "experiment=paper/table scale=small zoo=digits`: seeds 0, 1;" in page
    overview = page[page.index("### MAE, accuracy") :]
    assert "| method | digits | letters |" in overview
    assert "| WeightNet | 0.300 | 0.100 |" in overview


def test_the_overview_has_the_order_of_the_run_with_most_methods(tmp_path: Path, configs: Path) -> None:
    fewer = record(0)
    fewer["rows"] = [row for row in fewer["rows"] if row["method"] == "weightnet_invariant"]
    page = results_page(store(tmp_path / "runs", fewer, {**record(0), "variant": "letters"}), configs)
    overview = page[page.index("### MAE, accuracy") : page.index("### `digits`")]
    assert overview.index("| Flat MLP | – | 0.500 |") < overview.index("| WeightNet | 0.300 | 0.300 |")


def test_a_variant_may_have_numbers_of_its_own_in_the_paper(tmp_path: Path, configs: Path) -> None:
    path = configs / "experiment" / "paper" / "table.yaml"
    own = "  paper_of: {letters: {flat_mlp: {accuracy: {mae: 0.777}}}}\n"
    path.write_text(path.read_text().replace("  claims:", own + "  claims:"))
    page = results_page(store(tmp_path / "runs", record(0), {**record(0), "variant": "letters"}), configs)
    digits, letters = page.split("### `letters`")
    assert "0.110" in digits
    assert "0.777" not in digits
    assert "0.777" in letters
    assert "0.110" not in letters


def test_every_number_follows_the_record(tmp_path: Path, configs: Path) -> None:
    changed = record(0)
    changed["rows"][1]["metrics"]["mae"] = 0.12345
    one = results_page(store(tmp_path / "a", record(0)), configs)
    two = results_page(store(tmp_path / "b", changed), configs)
    assert "0.123" not in one
    assert "0.123" in two


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([(0.2, 0.1), (0.2, 0.1)], ["holds", "holds", "holds"]),
        ([(0.2, -0.1), (0.2, -0.1)], ["does not hold", "holds", "does not hold"]),
        ([(0.2, 0.01), (0.2, 0.01)], ["not decidable at this scale", "holds", "not decidable at this scale"]),
        ([(0.2, 0.4), (0.2, -0.1)], ["not decidable at this scale", "holds", "not decidable at this scale"]),
    ],
)
def test_a_claim_holds_only_where_every_seed_and_the_interval_agree(
    tmp_path: Path, configs: Path, margins: list[tuple[float, float]], expected: list[str]
) -> None:
    records = [record(seed, *margin) for seed, margin in enumerate(margins)]
    found = verdicts(results_page(store(tmp_path / "runs", *records), configs))
    assert list(found.values()) == expected
    assert list(found) == ["WeightNet is better", "accuracy", "robustness"]


def test_a_comparison_stored_the_other_way_round_is_turned(tmp_path: Path, configs: Path) -> None:
    turned = record(0)
    for entry in turned["comparisons"]:
        low, high = entry["interval"]
        entry.update(first="flat_mlp", second="weightnet_invariant", difference=-entry["difference"])
        entry["interval"] = [-high, -low]
    one = results_page(store(tmp_path / "a", record(0)), configs)
    assert one == results_page(store(tmp_path / "b", turned), configs)


def test_decide_needs_a_clear_interval() -> None:
    assert decide([Interval(-0.1, -0.2, -0.01)], higher_is_better=False).verdict == "holds"
    assert decide([Interval(-0.1, -0.2, -0.01)], higher_is_better=True).verdict == "does not hold"
    assert decide([Interval(-0.1, -0.2, 0.01)], higher_is_better=True).verdict == "not decidable at this scale"


def test_damaged_records_are_all_named(tmp_path: Path, configs: Path) -> None:
    root = store(tmp_path / "runs", record(0), record(1))
    bad = record(2)
    del bad["versions"]
    (root / "paper" / "table" / "small-digits-seed2.json").write_text(json.dumps(bad))
    (root / "paper" / "table" / "small-digits-seed3.json").write_text(json.dumps(record(7)))
    with pytest.raises(RecordError) as caught:
        results_page(root, configs)
    assert "small-digits-seed2.json: lacks versions; run the experiment again" in str(caught.value)
    assert f"small-digits-seed3.json: belongs at {root / 'paper' / 'table' / 'small-digits-seed7.json'}" in str(
        caught.value
    )


def test_seeds_of_different_zoos_or_rows_are_not_averaged(tmp_path: Path) -> None:
    other = copy.deepcopy(record(1))
    other["zoo"], other["rows"] = "xyz", other["rows"][:2]
    with pytest.raises(RecordError, match=r"different zoos \(abc, xyz\)(.|\n)*different rows"):
        read_records(store(tmp_path / "runs", record(0), other))


def test_records_without_an_experiment_or_a_comparison_are_refused(tmp_path: Path, configs: Path) -> None:
    orphan = {**record(0), "experiment": "paper/other"}
    with pytest.raises(RecordError, match="'paper/other' belong to no experiment"):
        results_page(store(tmp_path / "a", orphan), configs)
    silent = {**record(0), "comparisons": []}
    with pytest.raises(RecordError, match="no comparison of weightnet_invariant with flat_mlp by mae"):
        results_page(store(tmp_path / "b", silent), configs)


def test_the_command_writes_the_page_and_check_tells_whether_it_is_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, page = str(tmp_path / "runs"), tmp_path / "results.md"
    arguments = ["--runs", runs, "--output", str(page)]
    assert main([*arguments, "--check"]) == 1
    assert "is not what the records say; run python -m experiments.report" in capsys.readouterr().err
    assert main(arguments) == 0
    assert page.read_text().startswith("# Results")
    assert main([*arguments, "--check"]) == 0
    store(tmp_path / "runs", {**record(0), "experiment": "paper/nowhere"})
    assert main(arguments) == 1
    assert "error: records of 'paper/nowhere'" in capsys.readouterr().err


def test_the_committed_page_is_what_the_committed_records_say() -> None:
    root = Path(__file__).parents[2] / "docs"
    assert (root / "results.md").read_text(encoding="utf-8") == results_page(root / "runs")


def test_claims_about_rows_that_were_left_out_are_left_out(tmp_path: Path, configs: Path) -> None:
    fewer = record(0) | {"variant": "few"}
    fewer["rows"] = [row for row in fewer["rows"] if row["method"] == "flat_mlp"]
    fewer["comparisons"] = []
    page = results_page(store(tmp_path / "runs", record(0), fewer), configs)
    assert page.count("WeightNet is better") == 1
