"""`libero-reward <command>`: one thin file a command, and errors without a traceback."""

import dataclasses
import importlib
import os
import sys
import typing
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import tyro

# Command: module, its dataclass of arguments. The modules import nothing heavy: `--help` is fast.
COMMANDS = {
    "demo": ("libero_reward_envs.cli.demo", "DemoArgs"),
    "collect": ("libero_reward_envs.cli.collect", "CollectArgs"),
    "train-agent": ("libero_reward_envs.cli.train_agent", "TrainAgentArgs"),
    "train-classifier": ("libero_reward_envs.cli.train_classifier", "TrainClassifierArgs"),
    "convert": ("libero_reward_envs.cli.convert", "ConvertArgs"),
    "inspect": ("libero_reward_envs.cli.inspect_episodes", "InspectArgs"),
    "annotate": ("libero_reward_envs.cli.annotate", "AnnotateArgs"),
    "extract-features": ("libero_reward_envs.cli.extract_features", "ExtractFeaturesArgs"),
    "regenerate": ("libero_reward_envs.cli.regenerate", "RegenerateArgs"),
    "train-rrd": ("libero_reward_envs.cli.train_rrd", "TrainRRDArgs"),
    "finetune-openvla": ("libero_reward_envs.cli.finetune_openvla", "FinetuneOpenVLAArgs"),
    "merge-openvla": ("libero_reward_envs.cli.merge_openvla", "MergeOpenVLAArgs"),
    "evaluate": ("libero_reward_envs.cli.evaluate", "EvaluateArgs"),
    "evaluate-openvla": ("libero_reward_envs.cli.evaluate_openvla", "EvaluateOpenVLAArgs"),
    "serve-policy": ("libero_reward_envs.cli.serve_policy", "ServePolicyArgs"),
    "make-tiny-openvla": ("libero_reward_envs.cli.make_tiny_openvla", "MakeTinyOpenVLAArgs"),
}

_TRUTH = {"true": True, "false": False}
_DEBUG_VARIABLE = "LIBERO_REWARD_ENVS_DEBUG"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; exit status 1 after an error, 130 after Ctrl-C."""
    modules = {name: importlib.import_module(module) for name, (module, _) in COMMANDS.items()}
    choices = {name: getattr(modules[name], COMMANDS[name][1]) for name in COMMANDS}
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in choices:
        words = write_out_flags(words, choices[words[0]])
    args: Any = tyro.cli(
        _union(choices), prog="libero-reward", description=_description(), args=words
    )
    command = next(name for name, choice in choices.items() if isinstance(args, choice))
    warnings.showwarning = _show_warning
    try:
        modules[command].main(args)
    except KeyboardInterrupt:
        print("\nlibero-reward: stopped; what was written so far is complete.", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, RuntimeError, ImportError, MemoryError, OSError) as error:
        if os.environ.get(_DEBUG_VARIABLE):
            raise
        print(f"libero-reward {command}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def write_out_flags(words: Sequence[str], arguments: type) -> list[str]:
    """Return the command line with `--flag True` and `--flag=False` as `--flag` and `--no-flag`.

    Args:
        words: The command line.
        arguments: The dataclass of arguments, whose fields of type bool are the flags.

    Example:
        >>> @dataclasses.dataclass
        ... class Arguments:
        ...     save_final: bool = True
        >>> write_out_flags(["--save_final", "False", "--tag", "True"], Arguments)
        ['--no-save-final', '--tag', 'True']
    """
    flags = {f"--{name.replace('_', '-')}" for name in _find_flags(arguments)}
    written: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if equals and name in flags and value.lower() in _TRUTH:
            written.append(_name_flag(name, value))
        elif word.lower() in _TRUTH and written and written[-1] in flags:
            written[-1] = _name_flag(written[-1], word)
        else:
            written.append(name if name in flags and not equals else word)
    return written


def _name_flag(name: str, value: str) -> str:
    return name if _TRUTH[value.lower()] else f"--no-{name.removeprefix('--')}"


def _find_flags(arguments: type) -> Iterator[str]:
    for name, kind in typing.get_type_hints(arguments).items():
        if kind is bool:
            yield name
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _find_flags(kind)


def _union(choices: dict[str, type]) -> Any:
    annotated = [
        Annotated[choice, tyro.conf.subcommand(name)]  # pyright: ignore[reportInvalidTypeForm]
        for name, choice in choices.items()
    ]
    union: Any = annotated[0]
    for choice in annotated[1:]:
        union = union | choice
    return union


def _description() -> str:
    return (
        "LIBERO as Gymnasium environments, with learned rewards. "
        f"Set {_DEBUG_VARIABLE}=1 for tracebacks."
    )


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"libero-reward: warning: {message}", file=sys.stderr)
