"""Chooses a GL backend before MuJoCo is imported, and keeps software GL and torch apart.

Two facts rule this file. MuJoCo and robosuite bind their GL library once, when they are imported,
from `$MUJOCO_GL`. And Mesa's software GL and triton (which any torch optimiser imports) both carry
LLVM: when Mesa's comes first, `import triton` ends the process with a segmentation fault.
"""

import functools
import importlib.util
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

logger = logging.getLogger(__name__)

# Draws one frame, as the simulator would. Prints a word that a library's own output cannot contain.
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
assert renderer.render().shape == (16, 16, 3)
print("frame-was-drawn", flush=True)
import os
os._exit(0)  # some drivers crash while they are unloaded, which is no concern of ours
"""

_INSTALL_HINT = (
    "Install one of them: `apt-get install libegl1 libgl1` (EGL, which also uses a GPU's driver) "
    "or `apt-get install libosmesa6` (software only). State observations need none: use "
    "`obs_type='state'` and `render_mode=None`."
)


def keep_triton_ahead_of_software_gl() -> None:
    """Make sure that torch can be used in this process after software GL was loaded.

    Imports triton now if Mesa is not loaded yet. If Mesa came first, marks triton as absent, which
    torch takes as a machine without triton: everything runs but `torch.compile` on a GPU.
    """
    if "triton" in sys.modules or not sys.platform.startswith("linux"):
        return
    if importlib.util.find_spec("triton") is None:
        return
    if not _mesa_is_loaded():
        import triton  # noqa: F401  # pyright: ignore[reportMissingImports]

        return
    sys.modules["triton"] = None  # pyright: ignore[reportArgumentType]
    warnings.warn(
        "MuJoCo loaded software GL before triton was imported; importing triton now would crash "
        "the process, so it is hidden from torch. Import libero_reward_envs first to keep it.",
        stacklevel=3,
    )


def guard_on_import() -> None:
    """The part of the guard that cannot wait until an environment starts.

    After `import libero_reward_envs` a program may import MuJoCo and make an optimiser before it
    makes an environment. With OSMesa the mere import of MuJoCo loads Mesa.
    """
    if os.environ.get("MUJOCO_GL", "").lower() == "osmesa" or _mesa_is_loaded():
        keep_triton_ahead_of_software_gl()


def prepare_gl() -> str | None:
    """Choose the GL backend of this process and set `$MUJOCO_GL`, before MuJoCo is imported.

    A backend that the user chose is left alone. Otherwise EGL, then OSMesa is tried in a
    subprocess, since a failed attempt can take the process with it.

    Returns:
        "egl", "osmesa" or what the user chose; None if there is none, and then only
        state observations work.
    """
    keep_triton_ahead_of_software_gl()
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen:
        return None if chosen in ("disable", "disabled", "off", "false", "0") else chosen
    if not sys.platform.startswith("linux"):
        return "default"  # macOS and Windows bring their own, and MuJoCo finds it
    backend = next((name for name in ("egl", "osmesa") if probe_gl(name) is None), None)
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend
    logger.info("GL backend: %s", backend)
    return backend


@functools.cache
def probe_gl(backend: str) -> str | None:
    """Draw one frame with `backend` in a subprocess: None if that worked, else what went wrong."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    if "frame-was-drawn" in result.stdout:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"


def no_gl_message() -> str:
    """Why nothing can be drawn here, and which packages would change that."""
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return f"Expected a working GL backend, but MUJOCO_GL={chosen!r} gives none. Unset it."
    tried = "; ".join(f"{name}: {probe_gl(name)}" for name in ("egl", "osmesa"))
    return f"Expected a GL backend to draw images, found none ({tried}). {_INSTALL_HINT}"


def _mesa_is_loaded() -> bool:
    """Whether Mesa's LLVM is mapped into this process."""
    if not ({"mujoco", "OpenGL"} & sys.modules.keys()):
        return False  # reading the map costs a millisecond; without GL users there is no Mesa
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "libLLVM" in mapped
