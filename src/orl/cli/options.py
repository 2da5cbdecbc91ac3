"""Options of the command line: the config of a run from a recipe and options, and the help texts."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import tyro

from orl.config import ImageMethod, RunConfig, one_of
from orl.networks.names import BackboneName
from orl.recipes import METHODS, REQUIRED, start_config, with_changes

SECTIONS = ("scan", "method", "stage1", "discover", "stage3", "objects", "evaluation")
"""Configs inside `RunConfig` whose fields are options with a prefix: `--stage1.base-lr`."""
GROUPS = {
    "input": (("images", "eval_data"), ("split", "init_from")),
    "output": (("out", "overwrite"), ("wandb",)),
    "method": (("recipe", "method", "backbone", "feature_extractor", "architecture"), ()),
    "size": (("epochs", "batch_size"), ()),
    "machine": (("device", "precision", "workers", "seed"), ("cache", "compile")),
}
"""Groups of options without a prefix: those of the short help, and those of `--help-all` only."""
TRAINING_OPTIONS: tuple[str, ...] = ("eval_data", "init_from", "wandb", "method", "backbone", "epochs", "batch_size")
TRAINING_OPTIONS += ("precision", "cache", "compile")
"""Options without a prefix that have an effect on training only."""

OLD_OPTIONS = {"--stage1": "--method", "--network.backbone": "--backbone"}
"""Options of version 0.1, as recorded in results, and their names now."""
EXTRA = "extra"
"""Field of the parsed options that holds those of one verb."""

types = tyro.constructors.ConstructorRegistry()
"""Parsers of command-line words into values, for every verb; `with types:` applies them."""


@types.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Expand `~`, which a shell leaves alone in `--out=~/runs/x`."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: Path(words[0]).expanduser(),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


@types.primitive_rule
def _choice(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Refuse a wrong choice, and suggest the closest valid one."""
    choices = get_args(info.type)
    if info.type_origin is not Literal or not all(isinstance(choice, str) for choice in choices):
        return None

    def choose(words: list[str]) -> str:
        if words[0] not in choices:
            raise ValueError(f"must be {one_of(choices, words[0])}")
        return words[0]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=choose,
        is_instance=lambda value: value in choices,
        str_from_instance=lambda value: [value],
    )


@types.primitive_rule
def _optional(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Show an optional path as `PATH`, which tyro shows as `{None}|PATH`; the word None stands for no value."""
    inner = [part for part in get_args(info.type) if part is not NoneType]
    if NoneType not in get_args(info.type) or len(inner) != 1:
        return None
    kind = tyro.constructors.PrimitiveTypeInfo.make(inner[0], parent_markers=info.markers)
    spec = tyro.constructors.ConstructorRegistry.get_primitive_spec(kind)
    if isinstance(spec, tyro.constructors.UnsupportedTypeAnnotationError) or spec.nargs not in (1, "*"):
        return None
    return dataclasses.replace(
        spec,
        instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
        choices=None if spec.choices is None else (*spec.choices, "None"),
    )


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Options that choose the config to start from, or set several of its fields."""

    recipe: str | None = None
    """Recipe (orl recipes) or YAML file to start from; it can also be the first word after the verb."""
    out: Path = REQUIRED
    method: ImageMethod | None = None
    """Image-level method of stage 1, with its rates, views and sizes."""
    backbone: BackboneName | None = None
    """Network to train."""
    epochs: int | None = None
    """Passes over the images in each training stage."""
    batch_size: int | None = None
    """Images per step in each training stage, over all processes."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Training stages whose epochs and batch size are changed."""
        return ("stage1", "stage3")


@dataclass(frozen=True, kw_only=True)
class PretrainShortcuts(Shortcuts):
    """Shortcuts of a single training stage."""

    method: Literal[ImageMethod, "orl"] | None = None  # type: ignore[assignment]
    """Method to train: an image-level method, which is stage 1, or orl, which is stage 3."""
    epochs: int | None = None
    """Passes over the images."""
    batch_size: int | None = None
    """Images per step, over all processes."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage that the method belongs to."""
        return ("stage3",) if self.method == "orl" else ("stage1",)

    @property
    def sections(self) -> tuple[str, ...]:
        """Configs that have an effect on that stage."""
        return ("scan", "stage3", "objects") if self.method == "orl" else ("scan", "method", "stage1")


@dataclass(frozen=True, kw_only=True)
class DiscoverShortcuts(Shortcuts):
    """Shortcuts of stage 2."""

    feature_extractor: Path | None = None
    """Weights of any CNN, a file or folder, to embed images and RoIs with in place of stage 1's backbone."""
    architecture: str | None = None
    """Network of those weights where the file does not name it: 'mobilenet_v3_large', 'timm/efficientnet_lite0'."""


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of a verb without extra options."""


Given = TypeVar("Given", bound=Shortcuts)
Extra = TypeVar("Extra")


@dataclass(frozen=True, kw_only=True)
class RunVerb:
    """A verb that works on the config of a run, and the options that have an effect on it."""

    name: str
    about: str | None
    """Description of the verb in its help."""
    sections: tuple[str, ...] = SECTIONS
    without: tuple[str, ...] = ()
    """Options without a prefix that have no effect."""
    required: tuple[str, ...] = ("images", "out")
    default: RunConfig | None = None
    """Config to start from when no recipe and no run is given; the recipe 'quick' if None."""


def read_config(verb: RunVerb, arguments: Sequence[str]) -> RunConfig:
    """Read the config of a run: a recipe, a YAML file or the config of a run in --out, changed by options.

    Raises:
        ValueError: if a required option is missing or a value is wrong.
        SystemExit: if an option is unknown, or after help.
    """
    return read_options(verb, arguments, Shortcuts, NoOptions)[0]


def read_options(
    verb: RunVerb, arguments: Sequence[str], shortcuts: type[Given], extra: type[Extra]
) -> tuple[RunConfig, Given, Extra]:
    """Read the config of a run as `read_config` does, and the options that only this verb has.

    Args:
        verb: the verb.
        arguments: the command line after the verb.
        shortcuts: options that choose the config to start from.
        extra: options that are no part of the config; a dataclass whose fields have defaults.
    """
    options = [_new_name(word) for word in arguments]
    if options and not options[0].startswith("-"):
        options = [f"--recipe={options[0]}", *options[1:]]
    asked = [word for word in options if word in ("-h", "--help", "--help-all")]
    words = [word for word in options if word not in asked]
    given, _ = tyro.cli(shortcuts, args=words, prog=f"orl {verb.name}", add_help=False, return_unknown_args=True)
    start = _changed(start_config(given.recipe, given.out, verb.default), given)
    if isinstance(given, PretrainShortcuts):
        verb = dataclasses.replace(verb, sections=given.sections)
    shown = {"-h": "short", "--help": "short", "--help-all": "complete"}[asked[-1]] if asked else "hidden too"
    values = tyro.cli(
        _options_class(verb, given, extra, start, shown),
        args=["--help"] if asked else words,
        prog=f"orl {verb.name}",
        description=_description(verb, given, start, shown),
    )
    config = _config(values, start)
    missing = [f"--{key}" for key in verb.required if getattr(config, key) == REQUIRED]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} must be given: orl {verb.name} --images IMAGES --out runs/NAME "
            f"(orl {verb.name} --help shows the options)"
        )
    return config, given, getattr(values, EXTRA)


def _new_name(word: str) -> str:
    name, equals, value = word.partition("=")
    return OLD_OPTIONS.get(name, name) + equals + value


def _changed(config: RunConfig, given: Shortcuts) -> RunConfig:
    """Apply the shortcuts to the config."""
    config = with_changes(
        config,
        method=None if given.method not in METHODS else given.method,
        backbone=given.backbone,
        epochs=given.epochs,
        batch_size=given.batch_size,
        stages=given.stages,
    )
    if isinstance(given, DiscoverShortcuts):
        found: dict[str, Any] = {"feature_extractor": given.feature_extractor, "architecture": given.architecture}
        found = {name: value for name, value in found.items() if value is not None}
        config = dataclasses.replace(config, discover=dataclasses.replace(config.discover, **found))
    return config


def _options_class(verb: RunVerb, given: Shortcuts, extra: type, config: RunConfig, shown: str) -> Any:
    """Build the dataclass that is parsed: groups of options without a prefix, then the configs with one.

    Args:
        verb: the verb.
        given: options that have chosen the config to start from.
        extra: options that only this verb has.
        config: the defaults.
        shown: 'short' or 'complete' for help; 'hidden too' for parsing. The config of a run covers all stages, so each
            verb accepts all options. Its help shows those that affect it.
    """
    own = [item.name for item in dataclasses.fields(given) if item.name != "out"]
    parts: list[tuple[str, Any, Any]] = []
    for title, (common, rare) in GROUPS.items():
        names = [*common, *(rare if shown != "short" else ())]
        names = [name for name in names if name in own or name in RunConfig.__dataclass_fields__]
        names = [name for name in names if shown == "hidden too" or name not in verb.without]
        members = [_shortcut(given, name, config) if name in own else _top_level(verb, name, config) for name in names]
        group = make_dataclass(title.capitalize(), members, kw_only=True)
        parts.append((f"{title}_group", _unprefixed(group, title), field(default_factory=group)))
    if dataclasses.fields(extra):
        parts.append((EXTRA, _unprefixed(extra, verb.name), field(default_factory=extra)))
    else:
        parts.append((EXTRA, Annotated[extra, tyro.conf.Suppress], field(default_factory=extra)))
    sections = {"short": (), "complete": verb.sections}.get(shown, SECTIONS)
    for name in sections:
        section = getattr(config, name)
        parts.append((name, type(section), field(default=section)))
    return make_dataclass("Options", parts, kw_only=True)


def _unprefixed(group: type, title: str) -> Any:
    return Annotated[group, tyro.conf.arg(name=title), tyro.conf.OmitArgPrefixes]


def _top_level(verb: RunVerb, name: str, config: RunConfig) -> tuple[str, Any, Any]:
    """Return an option that is a field of the config."""
    default = getattr(config, name)
    hint = "(required)" if name in verb.required else "(optional)" if default in (None, REQUIRED) else None
    return name, _annotated(RunConfig, name, hint), field(default=default)


def _shortcut(given: Shortcuts, name: str, config: RunConfig) -> tuple[str, Any, Any]:
    """Return a shortcut; the defaults include its value before all options are parsed."""
    if name in ("epochs", "batch_size"):
        counts = [str(getattr(getattr(config, stage), name)) for stage in given.stages]
        default = counts[0] if len(set(counts)) == 1 else f"{counts[0]} in stage 1, {counts[1]} in stage 3"
    elif name in ("feature_extractor", "architecture"):
        default = str(getattr(config.discover, name) or "not given")
    else:
        default = {"recipe": config.recipe, "method": config.method.name, "backbone": config.network.backbone}[name]
        default = "orl" if name == "method" and given.stages == ("stage3",) else default
    return name, _annotated(type(given), name, f"(default: {default})"), field(default=None)


def _annotated(owner: type, name: str, hint: str | None) -> Any:
    kind = get_type_hints(owner)[name]
    inner = next((part for part in get_args(kind) if part is not type(None)), kind)
    optional = type(None) in get_args(kind)
    metavar = None
    if optional:
        choices = get_args(inner)
        metavar = "{" + ",".join(choices) + "}" if choices else {Path: "PATH", int: "INT"}.get(inner, "TEXT")
    about = _field_docs(owner)[name]
    return Annotated[kind, tyro.conf.arg(help=about, metavar=metavar, help_behavior_hint=hint)]


def _field_docs(owner: type) -> dict[str, str]:
    """Return the text under each field of a dataclass."""
    found: dict[str, str] = {}
    for each in reversed(owner.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for item, after in zip(body.body, body.body[1:]):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[ast.unparse(item.target)] = str(after.value.value)
    return found


def _config(values: Any, start: RunConfig) -> RunConfig:
    """Return the config out of the parsed options."""
    changes: dict[str, Any] = {name: getattr(values, name) for name in SECTIONS}
    for title in GROUPS:
        changes |= vars(getattr(values, f"{title}_group"))
    names = {item.name for item in dataclasses.fields(RunConfig)} - {"recipe", "method"}
    changes = {name: value for name, value in changes.items() if name in names}
    return dataclasses.replace(start, **changes, method=values.method)


def _description(verb: RunVerb, given: Shortcuts, start: RunConfig, shown: str) -> str:
    about = inspect.cleandoc(verb.about or "")
    origin = f"The defaults shown are those of {given.recipe or f'recipe {start.recipe!r}'}."
    rest = f" 'orl {verb.name} --help-all' shows all options." if shown == "short" else ""
    return f"{about}\n\n{origin}{rest}"


class WrongVerbError(ValueError):
    """Error for a word that is no verb."""

    exit_code = 2


def check_verb(command: str, word: str, verbs: Collection[str]) -> None:
    """Check the word after a command.

    Raises:
        WrongVerbError: if it is none of its verbs.
    """
    if word not in verbs:
        raise WrongVerbError(f"orl {command} must be followed by {one_of(verbs, word)}")


def finish(what: str, path: Path | None) -> None:
    """Print the path of an output."""
    if path is not None:  # only the first of several processes has one
        print(f"{what}: {path.resolve()}")
