"""The commands `orl ablate` and `orl results`: ablations over several runs, and the page of all results."""

from collections.abc import Sequence
from pathlib import Path

import tyro

from orl.cli.options import RunVerb, Shortcuts, check_verb, finish, read_options


def command_ablate(arguments: Sequence[str]) -> None:
    """Compare variants of the method over several seeds: `orl ablate NAME [RECIPE or FILE.yaml] [options]`.

    Takes a recipe or a YAML file, and the options of a run. Stage 1 and the unchanged parts of stage 2 run once per
    seed. Ablations with the same --out reuse them. Writes OUT/NAME.json.
    """
    from orl.ablations.variants import ABLATIONS

    name, *options = arguments or [""]
    if name in ("-h", "--help") or not name:
        names = "\n".join(f"  {key:<20}{ablation.question}" for key, ablation in ABLATIONS.items())
        print(f"usage: orl ablate NAME [RECIPE or FILE.yaml] [options]\n\n{command_ablate.__doc__}\n{names}")
        return
    check_verb("ablate", name, ABLATIONS)
    from orl.ablations.markdown import ablation_tables
    from orl.ablations.records import read_result
    from orl.ablations.run_ablation import AblationOptions, run_ablation

    verb = RunVerb(name=f"ablate {name}", about=f"{ABLATIONS[name].question} {command_ablate.__doc__}")
    config, _, ablation_options = read_options(verb, options, Shortcuts, AblationOptions)
    path = run_ablation(name, config, ablation_options)
    print("\n".join(ablation_tables(read_result(path))))
    finish("result", path)


def command_results(arguments: Sequence[str]) -> None:
    """Write a page of results from result files: `orl results docs/results --to docs/results.md`."""

    def results(
        folder: tyro.conf.Positional[Path],
        to: Path,
        benchmarks: Path | None = None,
        readme: Path | None = None,
    ) -> None:
        """Write every number of the result files, with its command, commit, machine, seeds and date.

        Args:
            folder: Folder of the result files NAME.json of `orl ablate`; an optional NAME.md introduces each.
            to: Page to write, in Markdown; its charts are written into a folder beside it.
            benchmarks: Folder of benchmark results, which are listed too.
            readme: Page whose part between '<!-- results -->' and '<!-- end of results -->' is replaced.
        """
        from orl.ablations.results_page import write_page

        for path in write_page(folder, to, benchmarks=benchmarks, readme=readme):
            finish("page", path)

    tyro.cli(results, args=list(arguments), prog="orl results")
