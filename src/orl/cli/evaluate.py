"""Commands that judge a backbone on a labelled set: `orl evaluate TASK`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes

from orl.cli.options import finish
from orl.evaluation.classification.configs import LinearConfig, SemiConfig
from orl.evaluation.configs import JudgeSettings, KnnSettings, LowShotSettings, Sets, SvmSettings, VocSettings
from orl.evaluation.detection.configs import DetectionConfig

if TYPE_CHECKING:
    from orl.evaluation.evaluated_backbone import EvaluatedBackbone
    from orl.evaluation.output import EvaluationOutput
    from orl.evaluation.suite import Step
    from orl.processes import Processes

Tasks = dict[str, Callable[..., None]]


@dataclass(frozen=True, kw_only=True)
class How:
    """How judges work."""

    architecture: str | None = None
    """What network the weights are of, where the file does not tell; of 'random' resnet50 if not given."""
    seed: int = 0
    """Of whatever is drawn."""
    workers: int = 2
    """Processes that read images, for each process that computes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Make a result again that was made from something else."""

    def place(self, result: Path) -> "EvaluationOutput":
        """Where a result goes, and how it comes about."""
        from orl.evaluation.output import EvaluationOutput

        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "architecture"}
        return EvaluationOutput(result=result, **own)


@dataclass(frozen=True, kw_only=True)
class HowTrained(How):
    """How judges that train work."""

    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """What training multiplies in."""
    checkpoint_minutes: float = 10.0
    """Time between two checkpoints of a training, minutes."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is judged on what."""

    backbone: Path
    """Folder of a run, a backbone.safetensors, an export, another project's weights, or 'random'."""
    data: Path
    """The labelled set."""
    out: Path | None = None
    """Where to write the result as JSON; in a folder beside the file of weights if not given."""
    how: How
    """How."""

    def place(self, task: str) -> "EvaluationOutput":
        """Where the result of a judge goes."""
        from orl.evaluation.output import results_folder

        if self.out is not None:
            return self.how.place(self.out)
        folder = results_folder(self.backbone, self.how.architecture)
        return self.how.place(folder / f"{task}_{self.data.resolve().name}.json")

    def subject(self) -> "EvaluatedBackbone":
        """The network."""
        from orl.evaluation.evaluated_backbone import load_evaluated_backbone

        return load_evaluated_backbone(self.backbone, self.how.architecture, self.how.seed)


@dataclass(frozen=True, kw_only=True)
class Trained(Judged):
    """What is judged on what, by a training."""

    how: HowTrained
    """How."""


def command_evaluate(arguments: Sequence[str]) -> None:
    """Judge a backbone: `orl evaluate svm|low-shot|knn|linear|semi|detect|detect-voc|all`."""
    tyro.extras.subcommand_cli_from_dict(
        {**_image_tasks(), **_class_tasks(), **_detection_tasks(), **_all_tasks()},
        args=list(arguments),
        prog="orl evaluate",
        description=command_evaluate.__doc__,
    )


def _image_tasks() -> Tasks:
    """On a VOC devkit, from features of whole images."""

    def svm(
        what: OmitArgPrefixes[Judged], voc: OmitArgPrefixes[VocSettings], settings: OmitArgPrefixes[SvmSettings]
    ) -> None:
        """VOC07: one linear SVM a class on frozen features, its cost by 3-fold cross-validation; mean AP on test."""
        from orl.evaluation.evaluations import run_svm

        _judge_images("svm", what, voc, run_svm, settings)

    def low_shot(
        what: OmitArgPrefixes[Judged], voc: OmitArgPrefixes[VocSettings], settings: OmitArgPrefixes[LowShotSettings]
    ) -> None:
        """VOC07 with 1 to 96 images of each class: linear SVMs, mean and spread over five draws of the images."""
        from orl.evaluation.evaluations import run_low_shot

        _judge_images("low-shot", what, voc, run_low_shot, settings)

    def knn(
        what: OmitArgPrefixes[Judged], voc: OmitArgPrefixes[VocSettings], settings: OmitArgPrefixes[KnnSettings]
    ) -> None:
        """VOC07 by the weighted vote of the nearest training images; mean AP on test, nothing is trained."""
        from orl.evaluation.evaluations import run_knn

        _judge_images("knn", what, voc, run_knn, settings)

    return {"svm": svm, "low-shot": low_shot, "knn": knn}


def _class_tasks() -> Tasks:
    """On images of one class each, by a training."""

    def linear(
        what: OmitArgPrefixes[Trained], settings: OmitArgPrefixes[LinearConfig], cached_features: bool = False
    ) -> None:
        """A linear layer on frozen features: ImageNet, Places205, iNaturalist 2018 or own class folders.

        Args:
            what: the backbone and the set.
            settings: of the training.
            cached_features: a fast estimate instead, from features that are computed once, without augmentation; it
                is not the protocol's number.
        """
        from orl.evaluation.evaluations import run_estimate, run_linear

        if cached_features:
            _check_estimated(settings)
            _judge_alone(
                "linear-estimate", what, lambda subject, place: run_estimate(subject, what.data, settings, place)
            )
            return
        task = "linear-levels" if settings.levels else "linear"
        _judge(task, what, lambda subject, place, all_: run_linear(subject, what.data, settings, place, all_))

    def semi(what: OmitArgPrefixes[Trained], settings: OmitArgPrefixes[SemiConfig]) -> None:
        """All weights trained on 1% or 10% of the labels; top-1 and top-5."""
        from orl.evaluation.evaluations import run_semi

        task = f"semi-{100 * settings.fraction:g}percent"
        _judge(task, what, lambda subject, place, all_: run_semi(subject, what.data, settings, place, all_))

    return {"linear": linear, "semi": semi}


def _detection_tasks() -> Tasks:
    """On images with boxes, by a training."""

    def detect(
        what: OmitArgPrefixes[Trained],
        settings: OmitArgPrefixes[DetectionConfig],
        train_split: str = "train2017",
        val_split: str = "val2017",
    ) -> None:
        """Mask R-CNN with FPN on a set in COCO's layout, all weights trained; AP of boxes and masks.

        Args:
            what: the backbone and the set.
            settings: of the training.
            train_split: annotations/instances_TRAIN.json is learnt from.
            val_split: annotations/instances_VAL.json is scored.
        """
        from orl.evaluation.evaluations import run_detect

        splits = (train_split, val_split)
        _judge(
            "detect", what, lambda subject, place, all_: run_detect(subject, what.data, splits, settings, place, all_)
        )

    def detect_voc(
        what: OmitArgPrefixes[Trained],
        settings: OmitArgPrefixes[DetectionConfig],
        more_train: tuple[Path, ...] = (),
        train_split: str = "trainval",
        test_split: str = "test",
    ) -> None:
        """Faster R-CNN with FPN on VOC devkits, all weights trained; AP of boxes.

        Args:
            what: the backbone and the devkit whose test split is scored, and whose train split is learnt from.
            settings: of the training.
            more_train: devkits whose train split is learnt from too, such as VOC2012.
            train_split: split to learn from.
            test_split: split to score.
        """
        from orl.evaluation.evaluations import run_detect_voc

        train, splits = (what.data, *more_train), (train_split, test_split)
        _judge(
            "detect-voc",
            what,
            lambda subject, place, all_: run_detect_voc(subject, train, what.data, splits, settings, place, all_),
        )

    return {"detect": detect, "detect-voc": detect_voc}


def _all_tasks() -> Tasks:
    """Every judge at once."""

    def all_(
        backbone: tuple[Path, ...],
        out: Path,
        sets: OmitArgPrefixes[Sets],
        how: OmitArgPrefixes[HowTrained],
        settings: Annotated[JudgeSettings, tyro.conf.arg(name="")],
    ) -> None:
        """Every judge that the given sets allow, and a table of them beside published scores.

        Args:
            backbone: weights to compare, each as a judge takes it; 'random' too.
            out: folder for all results and the comparison.
            sets: labelled sets at hand.
            how: how judges work.
            settings: of each judge.
        """
        from orl.evaluation.suite import plan

        _judge_everything(backbone, out, how, plan(sets, settings, workers=how.workers, seed=how.seed))

    return {"all": all_}


def _judge_images(
    task: str, what: Judged, voc: VocSettings, judge: Callable[..., dict[str, Any]], settings: object
) -> None:
    from orl.evaluation.voc_dataset import VocDataset

    images = VocDataset(what.data, voc, what.how.workers)
    _judge_alone(task, what, lambda subject, place: judge(subject, images, settings, place))


def _check_estimated(settings: LinearConfig) -> None:
    """Refuse options that the fast estimate would leave out."""
    own = LinearConfig(dataset=settings.dataset, size_px=settings.size_px)
    idle = [field.name for field in fields(own) if getattr(settings, field.name) != getattr(own, field.name)]
    if idle:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise ValueError(f"{options} has no effect on --cached-features, which trains no epochs; leave one of them out")


def _judge_alone(
    task: str, what: Judged, run: "Callable[[EvaluatedBackbone, EvaluationOutput], dict[str, Any]]"
) -> None:
    from orl.processes import num_processes

    if num_processes() > 1:
        raise ValueError(f"orl evaluate {task} works in one process, and {num_processes()} were started; start one")
    place = what.place(task)
    _tell(run(what.subject(), place), place)


def _judge(
    task: str, what: Judged, run: "Callable[[EvaluatedBackbone, EvaluationOutput, Processes], dict[str, Any] | None]"
) -> None:
    from orl.networks.device import compute_device
    from orl.processes import joined_processes

    with joined_processes(compute_device(what.how.device)) as processes:
        place = what.place(task)
        result = run(what.subject(), place, processes)
        if result is not None and processes.is_first:
            _tell(result, place)


def _judge_everything(backbones: Sequence[Path], out: Path, how: HowTrained, steps: "list[Step]") -> None:
    from orl.evaluation.suite import Candidates, run_suite
    from orl.networks.device import compute_device
    from orl.processes import joined_processes

    candidates = Candidates(backbones=backbones, architecture=how.architecture, seed=how.seed)
    with joined_processes(compute_device(how.device)) as processes:
        finish("comparison", run_suite(candidates, steps, out, how.place, processes))


def _tell(result: "dict[str, Any]", place: "EvaluationOutput") -> None:
    from orl.evaluation.comparison import lines_of

    finish("result", place.result)
    for line in lines_of(result):
        scores = ", ".join(f"{name} {value:.2f}" for name, value in line.scores.items() if value is not None)
        print(f"{line.comparison}: {scores}")
