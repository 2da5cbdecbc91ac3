"""The command line on synthetic scenes: a complete run, its parts, and each kind of bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from orl.cli import COMMANDS, main
from orl.rundir import RunDir
from orl.synthetic.scenes import draw_scenes

SMALL = [
    *("--stage1.epochs", "2", "--stage1.batch-size", "8", "--stage3.epochs", "2", "--stage3.batch-size", "8"),
    *(
        "--stage1.views.size-px",
        "32",
        "--stage3.views.size-px",
        "32",
        "--objects.roi-size-px",
        "32",
        "--stage1.hidden-features",
        "32",
        "--stage3.hidden-features",
        "32",
    ),
    *("--discover.embed-px", "32", "--discover.roi-embed-px", "32", "--discover.num-neighbours", "4"),
    *("--discover.shard-size", "8", "--evaluation.size-px", "32", "--workers", "1", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_scenes(folder, num_trainval=24, num_test=16, size_wh=(96, 72), seed=0, quiet=True)
    return folder


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo recipe, made smaller, from images to the report."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    assert main(run_arguments(scenes, out, "--eval-data", str(scenes))) == 0
    return out


def run_arguments(images: Path, out: Path, *more: str) -> list[str]:
    return ["run", "demo", "--images", str(images), "--out", str(out), *SMALL, *more]


class Sources(HTMLParser):
    """Every address in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]


def test_one_command_runs_all_stages_and_evaluations(finished: Path) -> None:
    run = RunDir(finished)
    for stage in ("stage1", "stage3"):
        assert run.backbone(stage).exists()
        assert len(run.metrics(stage).read_text().splitlines()) == 2 * 3
        assert list((run.stage(stage) / "tensorboard").iterdir())
    record = json.loads(run.record.read_text())
    assert {name: stage["state"] for name, stage in record["stages"].items()} == dict.fromkeys(
        ("scan", "stage1", "discover", "stage3", "evaluation"), "done"
    )
    for task in ("svm", "knn"):
        for label in ("random", "stage1", "stage3"):
            result = json.loads(run.evaluation(task, label).read_text())
            assert 0 < result["mean_ap"] < 1
            assert result["num_train"] == 24
    assert {"torch", "python"} <= set(record["versions"])
    assert record["device"] == "cpu"
    score = json.loads(run.discovery_score.read_text())
    assert score["num_pairs"] == 24 * 4
    assert 0 <= score["object_fraction"] <= 1


def test_the_report_has_the_scores_and_loads_nothing_from_elsewhere(finished: Path) -> None:
    run = RunDir(finished)
    html = run.report.read_text()
    sources = Sources()
    sources.feed(html)
    assert sources.addresses
    assert all(address.startswith(("data:", "#")) for address in sources.addresses)
    for label in ("random", "stage1", "stage3"):
        assert f"{100 * json.loads(run.evaluation('svm', label).read_text())['mean_ap']:.1f}" in html
    assert "Maps against the masks of 24 images" in html


def test_the_same_command_again_changes_nothing(scenes: Path, finished: Path) -> None:
    kept = [path for path in finished.rglob("*") if path.suffix in (".arrow", ".safetensors", ".jsonl", ".ckpt")]
    kept += finished.rglob("evaluation/*.json")
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert main(run_arguments(scenes, finished, "--eval-data", str(scenes))) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_stages_one_by_one_give_the_tables_and_weights_of_one_run(scenes: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    assert main(["pretrain", "demo", "--images", str(scenes), "--out", str(out), *SMALL]) == 0
    # From here on the config is that of the folder.
    assert main(["discover", "--out", str(out)]) == 0
    assert main(["pretrain", "--method", "orl", "--out", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    for stage in ("stage1", "stage3"):
        assert RunDir(out).backbone(stage).read_bytes() == RunDir(finished).backbone(stage).read_bytes()
    shards = sorted((out / "discover").rglob("*.arrow"))
    assert len(shards) == 6 * 3
    for shard in shards:
        assert shard.read_bytes() == (finished / shard.relative_to(out)).read_bytes()
    assert RunDir(out).report.exists()


@pytest.mark.parametrize("task", ["svm", "knn"])
def test_a_backbone_file_scores_alone_as_in_its_run(
    scenes: Path, finished: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    backbone = RunDir(finished).backbone("stage3")
    given = ["--backbone", str(backbone), "--data", str(scenes), "--size-px", "32", "--out", str(result)]
    assert main(["evaluate", task, *given, "--device", "cpu"]) == 0
    expected = json.loads(RunDir(finished).evaluation(task, "stage3").read_text())["mean_ap"]
    assert json.loads(result.read_text())["mean_ap"] == expected
    assert f"mAP {100 * expected:.2f}" in capsys.readouterr().out


def test_a_changed_option_is_refused_and_rebuilds_with_overwrite(
    scenes: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    changed = [*run_arguments(scenes, out, "--eval-data", str(scenes)), "--stage3.epochs", "1"]
    assert main(changed) == 1
    assert "stage3.epochs: was 2, now 1" in capsys.readouterr().err
    stage1 = RunDir(out).backbone("stage1").stat().st_mtime_ns
    assert main([*changed, "--overwrite"]) == 0
    assert RunDir(out).backbone("stage1").stat().st_mtime_ns == stage1
    assert len(RunDir(out).metrics("stage3").read_text().splitlines()) == 3
    assert yaml.safe_load(RunDir(out).config.read_text())["overwrite"] is False


def test_ctrl_c_ends_with_130_and_the_same_command_finishes_the_same_weights(
    scenes: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "orl", *run_arguments(scenes, out)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    metrics = RunDir(out).metrics("stage1")
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    complaints = process.communicate(timeout=60)[1]
    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    assert json.loads(RunDir(out).record.read_text())["stages"]["stage1"]["state"] == "stopped"
    assert main(run_arguments(scenes, out)) == 0
    for stage in ("stage1", "stage3"):
        assert RunDir(out).backbone(stage).read_bytes() == RunDir(finished).backbone(stage).read_bytes()


def test_sigterm_during_the_scan_stops_with_143_and_one_line(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (2000, 2000)).save(images / "0.png")
    for index in range(1, 3000):
        os.link(images / "0.png", images / f"{index}.png")
    command = [sys.executable, "-m", "orl", *run_arguments(images, tmp_path / "run"), "--workers=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()  # the scan's progress or the log's first line
    process.send_signal(signal.SIGTERM)
    complaints = first + process.communicate(timeout=60)[1]
    assert process.returncode == 143, complaints
    assert complaints.strip().splitlines()[-1].endswith("orl: stopped; the same command resumes")
    assert "Traceback" not in complaints


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_callback_is_not_lost(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Callback:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    def work(arguments: object) -> None:
        Callback()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setitem(COMMANDS, "recipes", work)
    # A test run in the background of a script ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["recipes"]) == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "orl: stopped; the same command resumes\n"


def test_a_notebooks_plot_backend_does_not_stop_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://backend_that_is_not_there")
    assert main(["--version"]) == 0
    assert os.environ["MPLBACKEND"] == "agg"


def test_a_lack_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setitem(COMMANDS, "recipes", fail)
    complaints = refused(["recipes"], capsys)
    assert complaints == "orl: out of memory: use fewer --workers or smaller batches (Unable to allocate 9 TiB)\n"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of a command that must fail."""
    assert main(arguments) not in (0, None)
    complaints = capsys.readouterr().err
    assert "Traceback" not in complaints
    return complaints


def test_bad_images_are_recorded_and_skipped(scenes: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(scenes / "JPEGImages", images)
    first = sorted(images.iterdir())[0]
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.png").write_text("not an image")
    (images / "cut.jpg").write_bytes(first.read_bytes()[:1500])
    Image.new("L", (80, 70)).save(images / "gray.png")
    Image.new("RGB", (20, 90)).save(images / "thin.png")
    out = tmp_path / "run"
    arguments = ["pretrain", "demo", "--images", str(images), "--out", str(out), *SMALL, "--stage1.epochs", "1"]
    assert main(arguments) == 0
    reasons = dict(line.split(",", 1) for line in RunDir(out).rejected.read_text().splitlines()[1:])
    assert sorted(reasons) == ["cut.jpg", "empty.jpg", "text.png", "thin.png"]
    assert "20x90" in reasons["thin.png"]


def test_damaged_labels_do_not_stop_a_run_that_needs_none(scenes: Path, tmp_path: Path) -> None:
    damaged, out = tmp_path / "scenes", tmp_path / "run"
    shutil.copytree(scenes, damaged)
    for annotation in (damaged / "Annotations").iterdir():
        annotation.write_text("<annotation>")
    assert main(run_arguments(damaged, out)) == 0
    assert not RunDir(out).discovery_score.exists()
    assert f"the annotations of {damaged} are not used" in RunDir(out).log.read_text()
    assert RunDir(out).report.exists()


def test_too_many_bad_images_stop_the_run_and_are_listed(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(scenes / "JPEGImages", images)
    for index in range(10):
        (images / f"empty{index}.jpg").write_bytes(b"")
    message = refused(run_arguments(images, tmp_path / "run"), capsys)
    assert "10 of 50" in message
    assert "rejected.csv" in message
    assert (tmp_path / "run" / "rejected.csv").read_text().count("empty") >= 10


def test_a_refused_command_can_be_corrected_and_given_again(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(scenes / "JPEGImages", images)
    for index in range(10):
        (images / f"empty{index}.jpg").write_bytes(b"")
    command = ["pretrain", "demo", "--images", str(images), "--out", str(out), *SMALL, "--stage1.epochs", "1"]
    assert "--scan.max-rejected-fraction" in refused(command, capsys)
    command += ["--scan.max-rejected-fraction", "0.5"]
    assert "batch of 999" in refused([*command, "--stage1.batch-size", "999"], capsys)
    assert main(command) == 0


def test_a_changed_limit_of_the_scan_is_applied_with_overwrite(scenes: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    higher = ["--scan.min-side-px", "73", "--scan.max-rejected-fraction", "1.0", "--overwrite"]
    assert main(["discover", "--out", str(out), *higher]) == 1
    assert RunDir(out).rejected.read_text().count("too small: 96x72 px, at least 73") == 24


def test_a_moved_run_is_reported_in_its_new_folder(finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    shutil.rmtree(moved / "report")
    assert main(["report", str(moved)]) == 0
    assert RunDir(moved).report.exists()


def test_several_processes_without_an_address_are_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    complaint = refused(run_arguments(scenes, tmp_path / "run"), capsys)
    assert "WORLD_SIZE is 2, but" in complaint
    assert "MASTER_ADDR" in complaint


def test_threads_wait_briefly_unless_the_environment_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    main([])
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    main([])
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    main([])
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_changed_image_makes_the_run_stale(
    scenes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, out = tmp_path / "scenes", tmp_path / "run"
    shutil.copytree(scenes, moved)
    shutil.copytree(finished, out)
    assert main(run_arguments(moved, out, "--eval-data", str(scenes))) == 0, "moved images are the same images"
    image = sorted((moved / "JPEGImages").iterdir())[0]
    shutil.copy(sorted((moved / "JPEGImages").iterdir())[1], image)
    os.utime(image, (time.time() + 5, time.time() + 5))
    assert "have changed" in refused(run_arguments(moved, out, "--eval-data", str(scenes)), capsys)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["rum"], "there is no command 'rum'"),
        (
            ["run", "quik", "--images", "x", "--out", "y"],
            "quik is neither a YAML file nor a recipe: a recipe is one of coco, quick, small, demo, not 'quik'",
        ),
        (["run", "--images", "/no/such/folder", "--out", "{out}"], "/no/such/folder"),
        (["run", "--images", "{empty}", "--out", "{out}"], "{empty}"),
        (
            ["run", "demo", *SMALL, "--discover.num-neighbours", "10", "--images", "{few}", "--out", "{out}"],
            "10 neighbours need at least 11 images, got 9",
        ),
        (["run", "--out", "{out}"], "--images"),
        (
            ["run", "demo", *SMALL, "--images", "{scenes}", "--out", "{out}", "--eval-data", "{empty}"],
            "is not a VOC devkit",
        ),
        (["run", "demo", *SMALL, "--images", "{scenes}", "--out", "{out}", "--stage3.batch-size", "99"], "batch of 99"),
        (["run", "--images", "x", "--out", "y", "--stage1.epoch", "3"], "--stage1.epochs"),
        (["run", "--images", "x", "--out", "y", "--stage1.epochs", "many"], "many"),
        (["run", "--images", "x", "--out", "y", "--stage1.epochs", "0"], "epochs must be at least 1, not 0"),
        (["run", "--images", "x", "--out", "y", "--device", "tpu"], "tpu"),
        (["discover", "demo", "--images", "{scenes}", "--out", "{out}"], "no backbone at"),
        (["pretrain", "demo", *SMALL, "--method", "orl", "--images", "{scenes}", "--out", "{out}"], "no table at"),
        (["pretrain", "--method", "simsiam"], "selfemd, orl, not 'simsiam'"),
        (["evaluate", "svm", "--backbone", "{none}", "--data", "{scenes}"], "nothing at"),
        (
            ["evaluate", "svm", "--backbone", "{text}", "--data", "{scenes}"],
            "is a text file and not a file of weights",
        ),
        (["evaluate", "svm", "--backbone", "{none}", "--data", "{empty}"], "nothing at"),
        (["report", "{empty}"], "no run at"),
    ],
)
def test_a_wrong_command_gets_one_message_and_a_non_zero_exit(
    arguments: list[str], complaint: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"scenes": scenes, "empty": tmp_path / "empty", "few": tmp_path / "few", "out": tmp_path / "out"}
    paths |= {"none": tmp_path / "none.safetensors", "text": tmp_path / "text.safetensors"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "few").mkdir()
    for image in sorted((scenes / "JPEGImages").iterdir())[:9]:
        shutil.copy(image, tmp_path / "few")
    before = set(tmp_path.iterdir())
    message = refused([argument.format(**paths) for argument in arguments], capsys)
    assert complaint.format(**paths) in " ".join(message.split())
    if "{few}" not in arguments and ("{scenes}" not in arguments or "{empty}" in arguments):
        assert set(tmp_path.iterdir()) == before, "a command that cannot start writes nothing"


def test_a_config_file_is_a_recipe_and_its_errors_are_shown(
    scenes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = yaml.safe_load(RunDir(finished).config.read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: fields[key] for key in fields if key not in ("images", "out")}))
    out = tmp_path / "run"
    assert main(["pretrain", str(file), "--images", str(scenes), "--out", str(out)]) == 0
    assert RunDir(out).backbone("stage1").read_bytes() == RunDir(finished).backbone("stage1").read_bytes()
    file.write_text("stage1: {epoch: 3}")
    message = refused(["run", str(file), "--images", str(scenes), "--out", str(out)], capsys)
    assert "unknown key 'epoch'; did you mean 'epochs'?" in message


def test_a_run_ends_with_its_weights_and_the_lines_that_use_them(
    scenes: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(scenes, finished, "--eval-data", str(scenes))) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == [
        f"weights: {finished}/stage3/backbone.safetensors",
        f'load: orl.load_backbone("{finished}")',
        f"export: orl export {finished} --to torchvision",
        f"report: {finished}/report/index.html",
    ]


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in usage
        if command != "recipes":
            assert main([command, "--help"]) == 0
            assert "--" in capsys.readouterr().out
    assert main(["recipes"]) == 0
    assert "ResNet-50" in capsys.readouterr().out
