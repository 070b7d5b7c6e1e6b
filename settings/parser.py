"""Parses command lines, in the same way for every script."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from settings import model_flags, terminal
from settings.dataset_flags import settle_dataset
from settings.flag import Flag, G, with_defaults
from utils import BadRequest, suggestion


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises BadRequest instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise BadRequest(message.removeprefix("argument "))


def read_flags(argv: list[str], description: str, groups: dict[str, list[Flag]]) -> dict[str, Any]:
    """Returns the flags in `argv`, by key. Raises BadRequest for unknown flags and invalid values.

    Args:
        groups: flags by title. A group "model" is followed by the flags of the architecture that --model names. Flags
            of other architectures are parsed too, so that the refusal can give the reason.
    """
    argv, _ = normalised(argv, groups)
    parser = _build(description, groups, argv)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [name for action in parser._actions for name in action.option_strings]
        word = unknown[0].split("=")[0]
        if word.startswith("-"):
            raise BadRequest(f"unknown flag {word}.{suggestion(word, names)} --help lists all flags")
        raise BadRequest(f"{word!r} belongs to no flag")
    for key, value in vars(namespace).items():
        if value == []:  # argparse's value for --name=--
            raise BadRequest(f"--{key.replace('_', '-')}: '--' is no value")
    return settle_dataset(vars(namespace))


def ask(argv: list[str], description: str, groups: type[G]) -> tuple[G, dict[str, Any]]:
    """Parses the command line of a script without modes. Raises BadRequest like `read_flags`.

    Args:
        groups: dataclass of the script's groups of flags.

    Returns:
        An object of `groups`, and the given flags by key.
    """
    given = read_flags(argv, description, groups.titles())
    return groups.of(with_defaults(given, groups.flags())), given


def normalised(argv: list[str], groups: dict[str, list[Flag]]) -> tuple[list[str], set[str]]:
    """Returns the command line with hyphens for underscores in the names, not the values, of flags.

    Switches lose their values: ``--rand=true`` is ``--rand``; ``--rand=false`` is ``--no-rand``, or is left out where
    there is no such form. ``--ema=None`` is left out. wandb's agents write flags so. Also returns the keys of the flags
    that are left out. Raises BadRequest for a switch with another value.
    """
    offered = [*(flag for flags in groups.values() for flag in flags), *model_flags.flags_of(None).values()]
    known = {f"--{name}": flag for flag in offered for name in (flag.name, *flag.aliases)}
    result, left_out = [], set()
    for i, word in enumerate(argv):
        if word == "--":
            result += argv[i:]
            break
        if not word.startswith("--"):
            result.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        flag = known.get(name) if equals else None
        if flag is None:
            result.append(name + equals + value)
        elif value == "None" and not _is_own_word(flag, value):
            left_out.add(flag.key)
        elif flag.check is not None:
            result.append(f"{name}={value}")
        elif value.lower() in ("true", "1"):
            result.append(name)
        elif value.lower() not in ("false", "0"):
            raise BadRequest(f"{name}={value}: is a switch; its values are true and false")
        elif flag.negatable:
            result.append(f"--no-{name[2:]}")
        else:
            left_out.add(flag.key)
    return result, left_out


def _is_own_word(flag: Flag, word: str) -> bool:
    """Whether a flag accepts this word, but not any other."""

    def accepts(text: str) -> bool:
        try:
            return flag.check is not None and flag.check(text) is not None
        except (argparse.ArgumentTypeError, ValueError):
            return False

    return accepts(word) and not accepts(f"{word}?")


def _build(description: str, groups: dict[str, list[Flag]], argv: list[str]) -> argparse.ArgumentParser:
    """Builds the parser. Its result lacks flags that are not given: the caller adds their defaults."""
    bare = [str(flag.metavar) for flags in groups.values() for flag in flags if flag.positional]
    epilog = "Hyphens and underscores are the same: --batch-size is --batch_size."
    if "model" in groups:
        epilog += " --model NAME --help shows the flags of that architecture."
    parser = _Parser(
        usage=" ".join(["%(prog)s", *bare, "[flags]"]),
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=terminal.help_width()),
    )
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            _add(group, flag, visible=True)
        if title == "model":
            model = _named_model(argv, next(flag.default for flag in flags if flag.key == "model"))
            own = model_flags.flags_of(model)
            group = parser.add_argument_group(f"architecture ({model})") if own else parser
            for key, flag in {**model_flags.flags_of(None), **own}.items():
                _add(group, flag, visible=key in own)
    return parser


def _add(group, flag: Flag, visible: bool) -> None:
    if flag.positional:
        group.add_argument(flag.key, help=flag.help, type=flag.check, metavar=flag.metavar, nargs=flag.nargs)
        return
    names = [f"--{name}" for name in (flag.name, *flag.aliases)]
    text = f"{flag.help} (default: {_default_text(flag)})".replace("%", "%%") if visible else argparse.SUPPRESS
    if flag.check is None:
        action = argparse.BooleanOptionalAction if flag.negatable else "store_true"
        group.add_argument(*names, help=text, dest=flag.key, action=action)
    else:
        action = "extend" if flag.nargs == "+" else "store"
        group.add_argument(*names, help=text, dest=flag.key, action=action, type=flag.check, metavar=flag.metavar,
                           nargs=flag.nargs, const=flag.const)  # fmt: skip


def _named_model(argv: list[str], default: str) -> str:
    """Returns the model whose flags --help shows."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", nargs="?", default=default)
    return parser.parse_known_args(argv)[0].model or default


def _default_text(flag: Flag) -> str:
    instead = "" if flag.variable is None else f"{flag.variable}, else "
    if flag.default is None:
        return instead + flag.default_text
    return ("on" if flag.default else "off") if flag.check is None else f"{instead}{flag.default}"
