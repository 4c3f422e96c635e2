"""Evaluate OpenVLA on LIBERO as published: `libero-reward evaluate-openvla --checkpoint FOLDER`.

As `libero-reward evaluate`, with what concerns the checkpoint.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from libero_reward_envs.cli.evaluate import EvaluationArgs, run


@dataclasses.dataclass(frozen=True)
class PolicyArgs:
    """The checkpoint, and how it is used."""

    adapter: str | None = None
    """Folder or Hub id of an adapter (PEFT), which is put on the checkpoint."""
    unnorm_key: str | None = None
    """Data set whose statistics give the actions their unit; by default the suite's."""
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Cameras in the order of training; by default as fine-tuning noted them, else agentview."""
    center_crop: Literal["auto", "yes", "no"] = "auto"
    """Whether training cut random crops; by default as fine-tuning noted it, else yes."""
    quantization: Literal["none", "4bit", "8bit"] = "none"
    """Load weights in 4 or 8 bits, by bitsandbytes."""
    dtype: str | None = None
    """float32, float16 or bfloat16; by default float32 on a CPU, else the checkpoint's."""
    device: str = "auto"
    """Where to compute; "auto" for a GPU if there is one."""
    chunk_size: int | None = None
    """Actions of a chunk, for checkpoints of OpenVLA-OFT."""


@dataclasses.dataclass(frozen=True)
class EvaluateOpenVLAArgs:
    """Evaluate an OpenVLA checkpoint on LIBERO by the published protocol."""

    out: Path
    """Folder of the results."""
    checkpoint: str = "tiny-random-openvla"
    """A folder, a Hub id, or "tiny-random-openvla", which knows nothing."""
    policy: Annotated[PolicyArgs, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PolicyArgs
    )
    how: Annotated[EvaluationArgs, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=EvaluationArgs
    )


def main(args: EvaluateOpenVLAArgs) -> None:
    """Evaluate, and print success rates."""
    policy = args.policy
    options = {
        "adapter": policy.adapter,
        "unnorm_key": policy.unnorm_key,
        "image_keys": [f"{camera}_image" for camera in policy.cameras] or None,
        "center_crop": {"auto": None, "yes": True, "no": False}[policy.center_crop],
        "quantization": None if policy.quantization == "none" else policy.quantization,
        "dtype": policy.dtype,
        "device": policy.device,
        "chunk_size": policy.chunk_size,
    }
    run(args.checkpoint, args.out, args.how, options)
