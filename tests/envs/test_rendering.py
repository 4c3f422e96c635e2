"""GL backends, and software GL and torch in one process, in every order of import.

Each order needs a process of its own: the fault that is guarded against ends it.
"""

import os
import subprocess
import sys

import pytest

from libero_reward_envs.envs import rendering

OPTIMISE = "import torch; torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).step()"
DRAW = (
    "import gymnasium as gym\n"
    "env = gym.make('Libero-v0', assets='builtin', obs_type='pixels', image_size=32,"
    " cameras=['agentview'], settle_steps=0)\n"
    "assert env.reset(seed=0)[0]['agentview_image'].std() > 1\n"
    "env.close()"
)
OURS = "import libero_reward_envs"
# A frame of MuJoCo's own, which loads Mesa before anything of ours runs.
MUJOCO = (
    "import mujoco\n"
    "model = mujoco.MjModel.from_xml_string('<mujoco/>')\n"
    "renderer = mujoco.Renderer(model, 8, 8); renderer.update_scene(mujoco.MjData(model))\n"
    "renderer.render()"
)
ORDERS = {
    "ours, a frame, torch": [OURS, DRAW, OPTIMISE],
    "torch, ours, a frame": [OPTIMISE, OURS, DRAW],
    "ours, torch, a frame": [OURS, OPTIMISE, DRAW],
    "ours, mujoco, torch": [OURS, "import mujoco", OPTIMISE],
    "mujoco, ours, torch": [MUJOCO, OURS, OPTIMISE],
    "mujoco, ours, a frame, torch": [MUJOCO, OURS, DRAW, OPTIMISE],
}
BACKENDS = [name for name in ("egl", "osmesa") if rendering.probe_gl(name) is None]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process, without the GL choices that other tests have left in the variables."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        timeout=180,
    )


def test_this_machine_can_draw() -> None:
    """Without a backend every test below would have nothing to run."""
    assert BACKENDS


# OSMesa loads Mesa when MuJoCo is imported, so these are the orders in which it differs from EGL.
CASES = [(order, "egl") for order in ORDERS] + [
    (order, "osmesa") for order in ("ours, a frame, torch", "mujoco, ours, torch")
]


@pytest.mark.parametrize(("order", "backend"), [case for case in CASES if case[1] in BACKENDS])
def test_software_gl_and_torch_share_a_process(order: str, backend: str) -> None:
    code = "\n".join([*ORDERS[order], "print('reached the end')"])
    done = run(code, MUJOCO_GL=backend)
    assert "reached the end" in done.stdout, f"exit status {done.returncode}: {done.stderr[-800:]}"


def test_pictures_can_be_drawn_though_mujoco_was_imported_before_the_backend_was_chosen() -> None:
    done = run("\n".join(["import mujoco", OURS, DRAW, "print('reached the end')"]))
    assert "reached the end" in done.stdout, done.stderr[-800:]


def test_the_fault_that_is_guarded_against_is_real() -> None:
    """If this fails, MuJoCo, Mesa and torch have made up, and the guard can go."""
    pytest.importorskip("triton")
    done = run("\n".join([MUJOCO, OPTIMISE]), MUJOCO_GL=BACKENDS[0])
    if "llvmpipe" not in run(_GL_VENDOR, MUJOCO_GL=BACKENDS[0]).stdout:
        pytest.skip("pictures are drawn by a GPU here")
    assert done.returncode < 0


_GL_VENDOR = (
    "import mujoco, ctypes; context = mujoco.GLContext(8, 8); context.make_current()\n"
    "from OpenGL import GL; print(GL.glGetString(GL.GL_RENDERER).decode())\n"
    "import os, sys; sys.stdout.flush(); os._exit(0)"
)


def test_a_backend_that_cannot_draw_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "probe_gl", lambda name: f"no {name} here")
    assert rendering.prepare_gl() is None
    message = rendering.no_gl_message()
    assert "no egl here" in message
    assert "apt-get install libegl1" in message
    assert "obs_type='state'" in message


def test_a_failed_probe_says_what_went_wrong() -> None:
    assert rendering.probe_gl("no-such-backend")


WITHOUT_GL = (
    "import libero_reward_envs, gymnasium as gym\n"
    "from libero_reward_envs.envs import rendering\n"
    "rendering.probe_gl = lambda name: 'nothing'\n"
    "env = gym.make('Libero-v0', assets='builtin')\n"
    "env.reset(seed=0); env.step(env.action_space.sample())\n"
    "print('state goes on')\n"
    "try:\n"
    "    gym.make('Libero-v0', assets='builtin', obs_type='pixels').reset(seed=0)\n"
    "except RuntimeError as error:\n"
    "    print(error)\n"
)


def test_state_observations_go_on_where_nothing_can_be_drawn() -> None:
    done = run(WITHOUT_GL)
    assert "state goes on" in done.stdout, done.stderr
    assert "apt-get install libegl1" in done.stdout


def test_a_users_choice_of_backend_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.prepare_gl() == "osmesa"
    assert os.environ["MUJOCO_GL"] == "osmesa"
