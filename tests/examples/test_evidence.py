"""The studies run, their rules hold, and the page says what their results say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "evidence"
NAMES = ("classification", "char_lstm", "vocoder", "gan", "vae", "dqn", "transformer")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the studies, which are scripts: they find each other in their folder."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs_and_folds_to_the_same_bits(name: str, load: Any, tmp_path: Path, monkeypatch: Any) -> None:
    if name == "dqn":
        pytest.importorskip("gymnasium")
    threads = torch.get_num_threads()
    study, module = load("study"), load(name)
    monkeypatch.setattr(study, "SELECTION", (1001,))
    try:
        study.main(module.STUDY, ["--quick", "--processes", "1", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert {run["variant"] for run in found["runs"]} == set(module.STUDY.variants)
    assert all(run["steps"] <= study.QUICK_STEPS for run in found["runs"])
    assert all(each["equal"] for each in found["folding"].values())
    assert any(each["weights"] for each in found["folding"].values())
    report, quick = load("report"), study.quick(module.STUDY)
    page = report.page([report.Results(quick, tmp_path)])
    assert quick.claims
    assert all(claim.text in page for claim in quick.claims)


def test_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    page = tmp_path / "evidence.md"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "report.py"), "--page", str(page), "--no-figures"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert {path.stem for path in (ROOT / "docs" / "evidence").glob("*.png")} == set(NAMES)


def test_an_interval_is_that_of_scipy(load: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    of_mean = load("intervals").of_mean
    for count in range(2, 11):
        values = torch.randn(count).tolist()
        found = of_mean(values)
        low, high = stats.t.interval(0.95, count - 1, loc=found.mean, scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)
    for values in ([1.0], [1.0] * 11):
        with pytest.raises(ValueError, match=f"{len(values)} numbers"):
            of_mean(values)


def test_a_claim_is_decided_by_where_its_interval_lies(load: Any, tmp_path: Path) -> None:
    study, report = load("study"), load("report")
    outcomes = {"better": 1.0, "worse": 0.0, "alike": 0.0}

    def runs(variant: str) -> list[dict[str, Any]]:
        noise = {"better": 0.1, "worse": 0.1, "alike": 1.0}[variant]
        return [
            {"variant": variant, "setting": 0, "rate": rate, "seed": seed, "quality": outcomes[variant] + noise * sign}
            | {"steps": 10, "to_target": 5 if variant == "better" else 10, "seconds": 1.0, "curve": [[10, 0.0]]}
            for seed, sign in enumerate((1, -1, 0.5, -0.5))
            for rate in (0.1, 1.0)
        ]

    (tmp_path / "made.json").write_text(
        json.dumps(
            {"runs": [run for each in outcomes for run in runs(each)], "chosen": {key: [0.1] for key in outcomes}}
        )
    )
    made = study.Study("made", "", "", "", 0, 0, outcomes, (0.1, 1.0), ({},), print, 10, ())
    results = report.Results(made, tmp_path)

    def decided(measure: str, variant: str, against: str) -> str:
        return report.verdict(results.interval(study.Claim("", measure, variant, against)))

    for measure in ("quality", "steps"):
        assert decided(measure, "better", "worse") == "confirmed"
        assert decided(measure, "worse", "better") == "refuted"
    assert decided("quality", "alike", "worse") == "undecided"
    assert decided("cost", "better", "worse") == "undecided"
    shown = report.shown("steps", results.interval(study.Claim("", "steps", "better", "worse")))
    assert shown == "0.50x (0.50 to 0.50)"


def test_the_learning_rate_is_chosen_by_seeds_that_count_for_nothing_else(load: Any) -> None:
    study = load("study")
    seen = []

    def train(variant: str, rate: float, seed: int, steps: int, shift: float = 0.0) -> Any:
        seen.append((variant, rate, seed, shift))
        quality = -abs(rate - (0.3 if seed in study.SELECTION else 3.0)) - shift
        model = nn.Linear(2, 2)
        return study.Outcome(model, (torch.ones(1, 2),), [(steps, quality)], 1.0, steps)

    made = study.Study("made", "", "", "", 0, -9, {"only": ""}, (0.3, 3.0), ({}, {"shift": 1.0}), train, 5, (), seeds=2)
    found = study.conduct(made, processes=1)
    assert found["chosen"] == {"only": [0.3, 0.3]}
    assert {run["seed"] for run in found["runs"]} == {0, 1}
    assert {(run["setting"], run["rate"]) for run in found["runs"]} == {(0, 0.3), (0, 3.0), (1, 0.3)}
    assert len(seen) == 2 * 2 * 2 + 2 * 2 + 2 + 1  # the last one is folded


def test_a_target_is_reached_between_two_looks(load: Any) -> None:
    study = load("study")
    made = study.Study("made", "", "", "", 0.5, 0, {}, (), ({},), print, 40, ())
    assert study.crossing([(10, 0.0), (20, 2.0), (30, 0.0)], made) == 12.5
    assert study.crossing([(10, 0.6)], made) == 10
    assert study.crossing([(10, 0.0), (20, 0.4)], made) == 40


def test_sensitivity_is_a_loss_and_not_a_level(load: Any, tmp_path: Path) -> None:
    study, report = load("study"), load("report")
    level, lost = {"better": 100.0, "steadier": 10.0}, {"better": (20.0, 30.0), "steadier": (1.0, 2.0)}
    runs = [
        {"variant": variant, "setting": setting, "rate": rate, "seed": seed, "quality": level[variant] - less + seed}
        for variant in level
        for setting, rate, less in ((0, 0.1, 0.0), (0, 1.0, lost[variant][0]), (1, 0.1, lost[variant][1]))
        for seed in range(3)
    ]
    (tmp_path / "made.json").write_text(json.dumps({"runs": runs, "chosen": {name: [0.1, 0.1] for name in level}}))
    made = study.Study("made", "", "", "", 0, 0, level, (0.1, 1.0), ({}, {"scale": 5}), print, 10, ())
    results = report.Results(made, tmp_path)
    assert results.interval(study.Claim("", "rates", "steadier", "better")).mean == pytest.approx((20 - 1) / 2)
    assert results.interval(study.Claim("", "loss", "steadier", "better", 1)).mean == pytest.approx(30 - 2)
    assert results.interval(study.Claim("", "quality", "steadier", "better")).mean == pytest.approx(-90)


def test_a_run_that_diverges_has_the_worst_quality(load: Any) -> None:
    study = load("study")

    def train(*_: Any) -> Any:
        return study.Outcome(nn.Linear(1, 1), (), [(5, 1.0), (10, float("nan"))], 1.0, 10)

    made = study.Study("made", "", "", "", 0.5, -7.0, {"only": ""}, (1.0,), ({},), train, 10, ())
    run = study.trained(made, "only", 0, 1.0, 0)
    assert (run.quality, run.to_target) == (-7.0, 5)


def test_what_does_not_fold_to_the_same_bits_is_told(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folding = load("folding")
    model, x = folding.wnconvert.apply(nn.Sequential(nn.Linear(3, 3))).model, (torch.randn(2, 3),)
    found = folding.folded(model, x, rounds=1)
    assert found["equal"]
    assert found["parameters"] == [15, 12]
    fold = folding.wnconvert.fold

    def wrong(model: nn.Module) -> Any:
        plain, report = fold(model)
        plain[0].bias.data.add_(1e-3)
        return plain, report

    monkeypatch.setattr(folding.wnconvert, "fold", wrong)
    assert not folding.folded(model, x, rounds=1)["equal"]
