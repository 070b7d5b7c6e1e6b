"""Models by name: this folder's architectures, all of timm's (``timm/NAME``) and torchvision's (``torchvision/NAME``).

This folder's names are read from its source text, so a misspelt one is refused without importing torch. The libraries
are asked for theirs, and imported only for a name or pattern with their prefix, or for one that nothing here resembles.
"""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.arguments import BASIC, Argument, literal, read_arguments, variant_arguments
from utils import BadRequest, in_px, require, shorten, suggestion

LIBRARIES = ("timm", "torchvision")
FROM_WEIGHTS = ("shortcut",)  # arguments that follow from the weights in a file, unless they are given


@dataclass(frozen=True)
class ModelEntry:
    """One registered name.

    Attributes:
        arguments: those that it takes, without num_classes, img_size and in_chans.
        paper: where the architecture was published.
        pretrained: torchvision's name for the ImageNet weights that fit, such as "ResNet18_Weights".
        img_size: side in pixels of its images, whatever the data set; None: the side of the data set's images.
    """

    name: str
    module: str
    arguments: tuple[Argument, ...]
    year: int
    paper: str
    pretrained: str | None = None
    img_size: int | None = None

    def argument(self, name: str) -> Argument | None:
        """The argument of this name; None if the model does not take it."""
        return next((argument for argument in self.arguments if argument.name == name), None)


_CONSTRUCTORS: dict[str, tuple[ModelEntry, Callable]] = {}


def register_variants(constructor: Callable, /, *variants: tuple[str, dict[str, Any]], **shared: Any) -> None:
    """Makes each variant of an architecture a model by its name.

    ::

        register_variants(
            VGG,
            variant("vgg11", depth=11, pretrained="VGG11_BN_Weights"),
            variant("vgg13", depth=13, pretrained="VGG13_BN_Weights"),
            year=2014,
            paper="arXiv:1409.1556",
        )

    The constructor's signature lists the arguments. Every variant takes those with a default, and they become flags
    (models/arguments.py); the variant's line fixes the others. `--help` reads all this from the source text, so names,
    facts and defaults must be literals.

    Args:
        constructor: class or function in the same file, ``f(num_classes, img_size, in_chans, **config) -> nn.Module``.
        variants: each a `variant`: its name and the keyword arguments that replace the constructor's defaults.
        shared: keyword arguments of all variants; a variant's own override them. They are the constructor's,
            `ModelEntry`'s year, paper, pretrained and img_size, and `takes`: the only arguments that can be changed.

    Raises ValueError where another file has registered a name, or where `variant_arguments` does.
    """
    module = constructor.__module__
    definition = ast.parse(textwrap.dedent(inspect.getsource(constructor))).body[0]
    arguments = read_arguments(definition, ast.parse(inspect.getsource(sys.modules[module])))
    for entry, values in _entries(module, arguments, variants, shared):
        known = _CONSTRUCTORS.get(entry.name)
        if known and known[0].module != module:
            raise ValueError(f"model {entry.name!r} is registered by {known[0].module} already")
        _CONSTRUCTORS[entry.name] = entry, functools.partial(constructor, **values)


def variant(name: str, /, **own: Any) -> tuple[str, dict[str, Any]]:
    """One line of `register_variants`."""
    return name, own


def register_model(**facts: Any) -> Callable:
    """Makes the decorated function or class a model by its own name; `facts` as in `register_variants`."""

    def register(constructor: Callable) -> Callable:
        register_variants(constructor, variant(constructor.__name__), **facts)
        return constructor

    return register


def _entries(
    module: str, arguments: Sequence[Argument], variants: Iterable[tuple[str, dict]], shared: dict[str, Any]
) -> Iterator[tuple[ModelEntry, dict[str, Any]]]:
    """Each variant's entry, and its values for the constructor."""
    for name, own in variants:
        values = {**shared, **own}
        takes = values.pop("takes", None)
        facts = {key: values.pop(key) for key in ("year", "paper", "pretrained", "img_size") if key in values}
        yield ModelEntry(name, module, variant_arguments(name, arguments, values, takes), **facts), values


@functools.cache
def _entries_in_source() -> dict[str, ModelEntry]:
    entries = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        definitions = {node.name: node for node in module.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        for constructor, variants, shared in _registrations(module):
            if constructor not in definitions:
                raise ValueError(f"{path}: {constructor} is not defined in this file")
            arguments = read_arguments(definitions[constructor], module)
            for entry, _ in _entries(f"models.{path.stem}", arguments, variants, shared):
                entries[entry.name] = entry
    return entries


def _registrations(module: ast.Module) -> Iterator[tuple[str, list[tuple[str, dict]], dict]]:
    """(constructor, variants, what they share) of each call of `register_variants` and each `@register_model`."""
    for node in module.body:
        if isinstance(node, ast.Expr):
            for call in _calls([node.value], "register_variants"):
                constructor, *lines = call.args
                variants = [(literal(line.args[0]), _keywords(line)) for line in _calls(lines, "variant")]
                yield ast.unparse(constructor), variants, _keywords(call)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            for call in _calls(node.decorator_list, "register_model"):
                yield node.name, [variant(node.name)], _keywords(call)


def _calls(nodes: list[ast.expr], name: str) -> list[ast.Call]:
    return [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def _keywords(call: ast.Call) -> dict[str, Any]:
    return {str(keyword.arg): literal(keyword.value) for keyword in call.keywords}


def _library_names(library: str) -> list[str]:
    """timm's or torchvision's names of classification models. Raises BadRequest if the library is not installed."""
    require(library)
    require("torch")
    if library == "timm":
        import timm

        return timm.list_models()
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _in_libraries(name: str) -> str:
    """`` Did you mean timm/X?`` for a name that a library has, else an empty string."""
    found = []
    for library in LIBRARIES:
        with contextlib.suppress(Exception):  # without the library there is no hint
            if name in _library_names(library):
                found.append(f"{library}/{name}")
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _own_entries() -> dict[str, ModelEntry]:
    return {**_entries_in_source(), **{name: entry for name, (entry, _) in _CONSTRUCTORS.items()}}


def list_models(pattern: str = "*") -> list[str]:
    """Sorted names that match a shell pattern; a pattern without a wildcard matches names that contain it.

    ``timm/...`` and ``torchvision/...`` list those libraries' names, with the prefix.
    """
    library = pattern.split("/")[0]
    if "/" in pattern and library in LIBRARIES:
        names = [f"{library}/{name}" for name in _library_names(library)]
    else:
        names = list(_own_entries())
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def find_model(name: str) -> ModelEntry | None:
    """The entry of one of this folder's models, without importing it; None for any other name, also timm's."""
    return _own_entries().get(name)


def all_arguments() -> dict[str, Argument]:
    """All arguments of this folder's models by name. A name means the same in every model."""
    return {argument.name: argument for entry in _own_entries().values() for argument in entry.arguments}


def check_name(name: str) -> None:
    """Raises BadRequest, with a suggestion, if `name` is no model."""
    library, _, rest = name.partition("/")
    if not rest:
        own = _own_entries()
        if name in own:
            return
        hint = suggestion(name, own) or _in_libraries(name)
        raise BadRequest(f"unknown model {name!r}.{hint} --list-models shows all: {shorten(sorted(own))}")
    if library not in LIBRARIES:
        raise BadRequest(f"unknown model {name!r}: a prefix is {' or '.join(f'{prefix}/' for prefix in LIBRARIES)}")
    names = _library_names(library)
    architecture = rest.split(".")[0] if library == "timm" else rest  # timm: architecture.weights_tag
    if architecture not in names:
        raise BadRequest(f"{library} has no model {rest!r}.{suggestion(architecture, names)}")


def published_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, standard deviation) per channel, of pixels in [0, 1], that the published weights of a timm model expect.

    None for all other models: their weights expect ImageNet's.
    """
    library, _, rest = name.partition("/")
    if library != "timm":
        return None
    import timm

    published = timm.get_pretrained_cfg(rest, allow_unregistered=True)
    return None if published is None else (tuple(published.mean), tuple(published.std))


def create_model(
    name: str,
    num_classes: int = 1000,
    img_size: int | Sequence[int] = 224,
    in_chans: int = 3,
    pretrained: bool = False,
    **model_args,
):
    """Builds a model that takes (N, in_chans, H, W) images and gives (N, num_classes) logits.

    Args:
        img_size: side of square images in pixels, or (H, W).
        pretrained: loads the published ImageNet weights; a head of another size keeps its fresh initialisation.
        model_args: further keyword arguments of the constructor.

    The model's attribute `load_notes` says what was changed to fit the weights, a sentence each; `head_names` names the
    modules that compute the logits; `takes`, of models of this suite, names the arguments that have a flag.

    Raises BadRequest for an unknown name, for arguments or an image size that the constructor refuses, and for weights
    that are not available.
    """
    from models import external, weights
    from models.fast_layers import use_fast_layers

    check_name(name)
    img_size = img_size if isinstance(img_size, int) else tuple(img_size)
    library, _, rest = name.partition("/")
    if rest:
        build = external.create_timm if library == "timm" else external.create_torchvision
        return use_fast_layers(build(rest, num_classes, img_size, in_chans, pretrained, **model_args))
    if name not in _CONSTRUCTORS:
        importlib.import_module(find_model(name).module)
    entry, function = _CONSTRUCTORS[name]
    takes = [argument.name for argument in entry.arguments]
    unknown = sorted(set(model_args) - set(takes))
    if unknown:
        raise BadRequest(f"{name} has no argument {', '.join(unknown)}; it takes {', '.join([*BASIC, *takes])}")
    if pretrained and not entry.pretrained:
        raise BadRequest(f"there are no published weights for {name}: use pretrained=False")
    if pretrained and "stem" in takes and model_args.get("stem", "auto") == "auto":
        model_args["stem"] = "imagenet"  # the published weights fit no other
    given = ", ".join(f"{key}={value!r}" for key, value in model_args.items())
    with external.refusing(f"{name} cannot be built for {in_px(img_size)} images with {given}"):
        model = function(num_classes=num_classes, img_size=img_size, in_chans=in_chans, **model_args)
    model.head_names = weights.find_head(model, num_classes)
    model.load_notes, model.takes = [], takes
    if pretrained:
        state = weights.torchvision_weights(entry.pretrained)
        model.load_notes = weights.load(model, state, source=entry.pretrained)
    return use_fast_layers(model)


def image_size(given: int | list[int] | None, model: str, side: int | None) -> int | list[int]:
    """The side of the images that a model gets, in pixels, or their height and width.

    Args:
        given: by --img-size; it wins, then what the architecture is made for.
        side: that of the data set's images, None where they are no squares of one size up to 224 px.
    """
    entry = find_model(model)
    return given or (entry.img_size if entry else None) or side or 224


def settle_arguments(name: str, model_args: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The arguments of a model, with those filled in that follow from the parameter names in a file of weights.

    These are FROM_WEIGHTS, where they are not among `model_args`.
    """
    entry = find_model(name)
    if entry is None or entry.argument("shortcut") is None or "shortcut" in model_args:
        return model_args
    convolutions = any(re.search(r"\.(downsample|shortcut)\.0\.weight$", key) for key in names)
    return {**model_args, "shortcut": "B" if convolutions else "A"}


def default_arguments(name: str) -> dict[str, Any]:
    """Defaults of a model's own arguments, lists for tuples as in settings.json. Empty for models of libraries."""
    entry = find_model(name)
    arguments = entry.arguments if entry else ()
    return {a.name: list(a.default) if isinstance(a.default, tuple) else a.default for a in arguments}
