import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.doctor.plans import COST, GIB, GPU, good_plan

from orl.cli import main
from orl.config import RunConfig
from orl.datasets.image_table import ImageTable
from orl.doctor import report
from orl.doctor.estimates import LinearCost
from orl.doctor.findings import check_plan
from orl.doctor.report import Examination, format_examination, to_json
from orl.synthetic.scenes import draw_scenes

NO_IMAGES = ImageTable(root=Path("images"), names=(), sizes_wh=(), digests=())
TINY = [
    *(
        "--stage1.views.size-px",
        "32",
        "--stage3.views.size-px",
        "32",
        "--objects.roi-size-px",
        "16",
        "--stage1.hidden-features",
        "32",
        "--stage3.hidden-features",
        "32",
    ),
    *("--discover.proposals", "grid", "--discover.roi-embed-px", "32", "--discover.num-neighbours", "4"),
    *("--stage1.batch-size", "8", "--stage3.batch-size", "8", "--workers", "1", "--device", "cpu"),
]


def examination(**changes: object) -> Examination:
    plan = good_plan(**changes)  # type: ignore[arg-type]
    return Examination(plan=plan, measured_on="8 images, drawn", findings=check_plan(plan))


def test_the_terminal_shows_facts_estimates_and_findings() -> None:
    shown = format_examination(examination())
    for words in (
        "torch 2",
        "a CPU: 4 CPUs usable, no bf16",
        "10.0 GiB free",
        "estimates for 6,400 images and 1 process:",
        "measured on the CPU with 8 images, drawn",
        # 64,000 images at 1 / 0.011 a second.
        "stage1    12 min for 10 epochs at 90.9 images/s (network 100.0, reading 250.0 a core; 9% of the time",
        "memory 1.00 GiB and 10.2 MiB per image: 800 images fit at once",
        "a batch of 64 needs accumulation-steps 1",
        "measured at batches of 2 and 6 images",
        # 6,400 x 0.2 s.
        "stage2    21 min: 0.100 s per image for boxes, 9 RoIs per image",
        "in all    45 min",
        "no problem found",
    ):
        assert words in shown


def test_findings_are_shown_with_their_remedy() -> None:
    costly = {"stage1": replace(COST, memory=LinearCost(GIB, GIB / 4))}
    found = examination(training=costly, machine={"gpus": (replace(GPU, memory_bytes=10 * GIB),)})
    shown = format_examination(found)
    assert not found.works
    assert "measured on a GPU" in shown
    assert "will not work: stage1 needs about" in shown
    assert "remedy: set --stage1.accumulation-steps 2" in shown
    assert "slower than necessary: this GPU multiplies bf16" in shown


def test_a_plan_that_could_not_be_measured_shows_facts_and_findings() -> None:
    found = examination(config={"device": "cuda"}, training={}, discovery=None)
    shown = format_examination(found)
    assert "will not work: a GPU is required" in shown
    assert "estimates" not in shown
    assert to_json(found)["estimates"] == {}
    assert to_json(found)["discovery_hours"] is None


def test_the_json_has_the_same_numbers_as_the_terminal() -> None:
    found = json.loads(json.dumps(to_json(examination())))
    assert found["works"] is True
    assert found["machine"]["cores"] == 4
    assert found["estimates"]["stage1"]["largest_batch"] == 800
    assert found["training"]["stage3"]["memory"] == {"fixed": GIB, "per_image": GIB / 100}
    assert found["discovery_hours"] == pytest.approx(6400 * 0.2 / 3600)
    assert found["findings"] == []


def test_a_missing_gpu_ends_with_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    draw_scenes(tmp_path / "scenes", num_trainval=3, num_test=0, size_wh=(64, 48), quiet=True)
    path = tmp_path / "doctor.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("torch.cuda.device_count", lambda: 0)
        arguments = ["--images", str(tmp_path / "scenes"), "--device", "cuda", "--json", str(path)]
        assert main(["doctor", "demo", *arguments]) == 1
    assert "torch finds none" in capsys.readouterr().out
    assert json.loads(path.read_text())["works"] is False


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--images", "nowhere/at/all"], 1, "no images at"),
        (["--num-images", "many"], 2, "--num-images"),
        (["--processes=0"], 1, "--processes must be at least 1, not 0"),
        (["--json"], 2, "--json"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], exit_code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "demo", *arguments]) == exit_code
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_recipe_is_measured_and_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_scenes(tmp_path / "scenes", num_trainval=24, num_test=0, size_wh=(96, 72), quiet=True)
    path = tmp_path / "doctor.json"
    assert main(["doctor", "demo", "--images", str(tmp_path / "scenes"), *TINY, "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "estimates for 24 images and 1 process:" in shown
    found = json.loads(path.read_text())
    assert set(found["estimates"]) == {"stage1", "stage3"}
    assert found["measured_on"].startswith("8 images")
    assert 0 < found["estimates"]["stage1"]["hours"] < 1


def test_stage_3_is_not_measured_after_stage_2_ran_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(work: Callable[..., object], config: RunConfig, *others: object) -> object:
        if work is report.measure_discovery:
            raise MemoryError("killed")
        assert others[0] == "stage1"
        return COST

    monkeypatch.setattr(report, "in_own_process", tried)
    plan = report._measured(good_plan(training={}, discovery=None), NO_IMAGES)
    assert list(plan.training) == ["stage1"]
    (finding,) = [each for each in check_plan(plan) if each.message.startswith("stage2 is out of memory")]
    assert "--discover.search-scale" in finding.remedy
