"""Write a tiny OpenVLA with random weights: `libero-reward make-tiny-openvla --out FOLDER`."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class MakeTinyOpenVLAArgs:
    """Write a tiny OpenVLA with random weights, to try programs out; it knows nothing."""

    out: Path
    """Folder to write; there must be nothing yet."""
    seed: int = 0
    """Of the weights."""


def main(args: MakeTinyOpenVLAArgs) -> None:
    """Write the checkpoint."""
    from libero_reward_envs.openvla.tiny import make_tiny_openvla

    folder = make_tiny_openvla(args.out, args.seed)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"Wrote {folder} ({size / 1e6:.1f} MB): OpenVLA's parts with random weights.")
