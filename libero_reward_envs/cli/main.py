"""`libero-reward <command>`: one thin file a command, and errors without a traceback."""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

# Command: module, its dataclass of arguments. The modules import nothing heavy: `--help` is fast.
COMMANDS = {
    "demo": ("libero_reward_envs.cli.demo", "DemoArgs"),
    "collect": ("libero_reward_envs.cli.collect", "CollectArgs"),
    "train-rrd": ("libero_reward_envs.cli.train_rrd", "TrainRRDArgs"),
}

_DEBUG_VARIABLE = "LIBERO_REWARD_ENVS_DEBUG"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; exit status 1 after an error, 130 after Ctrl-C."""
    modules = {name: importlib.import_module(module) for name, (module, _) in COMMANDS.items()}
    choices = {name: getattr(modules[name], COMMANDS[name][1]) for name in COMMANDS}
    args: Any = tyro.cli(
        _union(choices), prog="libero-reward", description=_description(), args=argv
    )
    command = next(name for name, choice in choices.items() if isinstance(args, choice))
    warnings.showwarning = _show_warning
    try:
        modules[command].main(args)
    except KeyboardInterrupt:
        print("\nlibero-reward: stopped; what was written so far is complete.", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        if os.environ.get(_DEBUG_VARIABLE):
            raise
        print(f"libero-reward {command}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


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
