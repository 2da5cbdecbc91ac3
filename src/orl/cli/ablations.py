"""Commands for evidence: studies of several runs, and the page of all results."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import tyro

from orl.cli.options import RunVerb, Shortcuts, finish, read_options


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """Options of `orl ablate`."""

    seeds: int = 3
    """Number of seeds, from --seed on."""
    outside: Path | None = None
    """Weights from elsewhere as feature extractor, in the ablation of that name; 'orl import' may be needed first."""
    discovery_only: bool = False
    """Leave out stage 3: variants are compared by their discovery score."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {self.seeds}")


def command_ablate(arguments: Sequence[str]) -> None:
    """Compare settings over several seeds: `orl ablate stages|neighbours|top-fraction|losses|jitter|proposals|prior`.

    Stage 1 and all of stage 2 that an arm leaves as it is are made once for each seed and shared. Studies with the same
    --out share them too. Takes `--seeds N` (N seeds from --seed on; 3 if not given), `--discovery-only` (no stage 3:
    arms are told apart by their discovery score), `--outside FILE` (weights from elsewhere, of the study 'prior'; 'orl
    import' first where the file does not tell what network they are of), and beside them a recipe or file and the
    options of a run. Writes OUT/STUDY.json.
    """
    from orl.ablations.variants import ABLATIONS

    name, *options = arguments or [""]
    if name in ("-h", "--help") or not name:
        told = "\n".join(f"  {key:<12}{ablation.question}" for key, ablation in ABLATIONS.items())
        print(f"usage: orl ablate STUDY [RECIPE or FILE.yaml] [options]\n\n{command_ablate.__doc__}\n{told}")
        return
    if name not in ABLATIONS:
        near = get_close_matches(name, ABLATIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(ABLATIONS)}"
        raise ValueError(f"there is no study {name!r}; {hint}")
    verb = RunVerb(name=f"ablate {name}", about=command_ablate.__doc__)
    config, _, given = read_options(verb, options, Shortcuts, AblateOptions)
    from orl.ablations.markdown import ablation_tables
    from orl.ablations.records import read_result
    from orl.ablations.run import AblationOptions, run_ablation

    seeds = range(config.seed, config.seed + given.seeds)
    path = run_ablation(
        name, config, AblationOptions(seeds=seeds, outside=given.outside, trains=not given.discovery_only)
    )
    print("\n".join(ablation_tables(read_result(path))))
    finish("result", path)


def command_results(arguments: Sequence[str]) -> None:
    """Write a page of results out of result files: `orl results docs/results --to docs/results.md`."""

    def results(
        folder: tyro.conf.Positional[Path],
        to: Path,
        benchmarks: Path | None = None,
        readme: Path | None = None,
    ) -> None:
        """Write every number of the result files, with its command, commit, machine, seeds and date.

        Args:
            folder: of NAME.json, which `orl ablate` wrote, each with words about it in NAME.md where there are any.
            to: the page, in Markdown; its charts go into a folder beside it.
            benchmarks: folder of the results of benchmarks, to be listed too.
            readme: a page whose part between '<!-- results -->' and '<!-- end of results -->' is written anew.
        """
        from orl.ablations.results_page import write_page

        for path in write_page(folder, to, benchmarks=benchmarks, readme=readme):
            finish("page", path)

    tyro.cli(results, args=list(arguments), prog="orl results")
