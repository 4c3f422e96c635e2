"""Serve a policy over HTTP: `libero-reward serve-policy --policy FOLDER --unnorm-key KEY`.

    curl -s 127.0.0.1:8000/health
    python -c "import json_numpy as j, numpy as np, requests; j.patch(); print(requests.post(
        'http://127.0.0.1:8000/act', json={'image': np.zeros((256, 256, 3), np.uint8),
        'instruction': 'pick up the milk'}).json())"

The request form is that of OpenVLA's own deployment script. Actions are those of `OpenVLAPolicy`:
in [-1, 1], with LIBERO's gripper; `--gripper none` leaves the gripper as the checkpoint has it.
"""

import dataclasses
import os
from typing import Annotated, Literal

import tyro

from libero_reward_envs.cli.evaluate_openvla import PolicyArgs

TOKEN_VARIABLE = "LIBERO_REWARD_ENVS_TOKEN"


@dataclasses.dataclass(frozen=True)
class ServePolicyArgs:
    """Serve an OpenVLA checkpoint over HTTP."""

    policy: str = "tiny-random-openvla"
    """Checkpoint: a folder, a Hub id, or "tiny-random-openvla", which knows nothing."""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach asks for --token or --no-token."""
    port: int = 8000
    """Port; 0 for any that is free."""
    token: str | None = None
    """What clients must send as a bearer token; other users see it among the processes, so better
    set LIBERO_REWARD_ENVS_TOKEN."""
    no_token: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let any machine that reaches the address ask."""
    instruction: str | None = None
    """What to do where a request does not say it."""
    orientation: Literal["upright", "raw", "vla180"] = "upright"
    """How the images that clients send are turned; "vla180" if they turn them as OpenVLA's own
    scripts do for LIBERO."""
    gripper: Literal["auto", "libero", "none"] = "auto"
    """Convention of the last number of an action; by default as fine-tuning noted it."""
    max_body_mb: float = 16.0
    """Largest request, in MB."""
    timeout_s: float = 30.0
    """How long a request may take to arrive, and to wait for the model."""
    how: Annotated[PolicyArgs, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PolicyArgs
    )


def main(args: ServePolicyArgs) -> None:
    """Serve until Ctrl-C."""
    import libero_reward_envs  # noqa: F401  (first of all: it keeps torch and software GL apart)
    from libero_reward_envs.agents.policy_server import PolicyServer, check_address
    from libero_reward_envs.agents.policy_wire import RequestLimits

    token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    check_address(args.host, token, allow_without_token=args.no_token)  # before a long loading
    if not 0 <= args.port < 2**16:
        raise ValueError(f"`port` must be from 0 to 65535, got {args.port}.")
    for name in ("max_body_mb", "timeout_s"):
        if not 0 < getattr(args, name) < 10_000:
            raise ValueError(f"`{name}` must be above 0 and below 10000.")
    from libero_reward_envs.agents.openvla_policy import OpenVLAPolicy

    how = args.how
    policy = OpenVLAPolicy.from_pretrained(
        args.policy,
        adapter=how.adapter,
        unnorm_key=how.unnorm_key,
        image_keys=[f"{camera}_image" for camera in how.cameras] or None,
        center_crop={"auto": None, "yes": True, "no": False}[how.center_crop],
        quantization=None if how.quantization == "none" else how.quantization,
        dtype=how.dtype,
        device=how.device,
        chunk_size=how.chunk_size,
        orientation=args.orientation,
        gripper=None if args.gripper == "auto" else args.gripper,
        instruction=args.instruction,
    )
    server = PolicyServer(
        policy,
        host=args.host,
        port=args.port,
        token=token,
        allow_without_token=args.no_token,
        limits=RequestLimits(body_bytes=int(args.max_body_mb * 2**20)),
        timeout_s=args.timeout_s,
    )
    asked = "with the token" if token else "without a token"
    print(f"Serving {args.policy} at {server.url}/act, {asked}; Ctrl-C ends.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
    finally:
        server.server_close()
