"""Merge LoRA adapters into OpenVLA: `libero-reward merge-openvla --adapter FOLDER --out FOLDER`."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class MergeOpenVLAArgs:
    """Write a plain checkpoint of a model and its adapters, which the original project loads too.

    A merged checkpoint cannot be taken apart again: keep the adapters.
    """

    adapter: Path
    """Folder of the adapters, such as `latest` of a run."""
    out: Path
    """Folder to write; there must be nothing yet."""
    base: str | None = None
    """Folder or Hub id of the model; the one that the adapters name if not given."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; that of the model if "auto"."""
    device: str = "cpu"
    """Where to multiply."""


def main(args: MergeOpenVLAArgs) -> None:
    """Merge, and say what was written."""
    from libero_reward_envs.agents.openvla_merging import merge_adapters

    folder = merge_adapters(
        args.adapter, args.out, base=args.base, dtype=args.dtype, device=args.device
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"Wrote {folder} ({size / 1e6:.1f} MB): a checkpoint that needs no adapters.")
