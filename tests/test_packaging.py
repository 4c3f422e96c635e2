"""The package as it is installed and imported."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import find_packages

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "libero_reward_envs"

# Who may import whom: a part imports only from itself and from parts listed before it.
LAYERS = [
    {
        "atomic_files",
        "checkpoints",
        "data",
        "random_states",
        "reward_config",
        "reward_models.base",
        "reward_models.saving",
        "yaml_config",
    },
    {"encoders", "envs", "openvla", "reward_models"},
    {"wrappers", "registration"},
    {"agent_config", "factory"},
    {"agents", "evaluation"},
    {"cli"},
]
SIMULATOR_IMPORTERS = {"libero_package.py", "observation.py", "osc.py", "simulator.py"}


def sources() -> list[Path]:
    folders = [PACKAGE, REPOSITORY / "wrappers", REPOSITORY / "agents"]
    found = [path for folder in folders for path in folder.rglob("*.py")]
    links = {PACKAGE / "wrappers", PACKAGE / "agents"}
    return [path for path in found if not links & set(path.parents)]


def module_name(path: Path) -> str:
    relative = path.relative_to(REPOSITORY).with_suffix("")
    parts = [part for part in relative.parts if part not in ("libero_reward_envs", "__init__")]
    return ".".join(parts)


def layer(name: str) -> int | None:
    matches = [
        (len(part), index)
        for index, parts in enumerate(LAYERS)
        for part in parts
        if name == part or name.startswith(part + ".")
    ]
    return max(matches)[1] if matches else None


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    inside = {f"libero_reward_envs.{name}" for name in find_packages(str(PACKAGE)) if name}
    assert listed == inside | {"libero_reward_envs"}


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources():
        own = layer(module_name(path))
        for imported in imported_modules(path):
            if imported.startswith("libero_reward_envs.") and own is not None:
                other = layer(imported.removeprefix("libero_reward_envs."))
                if other is not None and other > own:
                    wrong.append(f"{module_name(path)} imports {imported}")
    assert not wrong


def test_only_the_simulator_imports_libero_and_robosuite() -> None:
    importers = {
        path.name
        for path in sources()
        for name in imported_modules(path)
        if name.split(".")[0] in ("libero", "robosuite")
    }
    assert importers <= SIMULATOR_IMPORTERS


def run_python(code: str, *arguments: str, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["libero_reward_envs", "libero_reward_envs.wrappers"])
def test_importing_loads_neither_torch_nor_the_simulator(module: str, tmp_path: Path) -> None:
    code = (
        f"import sys, {module}; "
        "print(sorted({'torch', 'libero', 'robosuite', 'mujoco'} & sys.modules.keys()))"
    )
    assert run_python(code, cwd=tmp_path).strip() == "[]"


def test_help_loads_neither_torch_nor_the_simulator() -> None:
    code = (
        "import sys\n"
        "from libero_reward_envs.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "print(sorted({'torch', 'libero', 'robosuite', 'mujoco'} & sys.modules.keys()))"
    )
    output = run_python(code)
    assert output.strip().endswith("[]")
    assert "collect" in output
    assert "demo" in output


def test_a_simulator_writes_nothing_into_the_home_folder_and_asks_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import os, sys\n"
        "os.environ['HOME'] = sys.argv[1]\n"
        "import libero_reward_envs, gymnasium as gym\n"
        "env = gym.make('Libero-v0', assets='builtin')\n"
        "env.reset(seed=0)\n"
        "import libero.libero\n"
        "assert libero.libero.get_libero_path('bddl_files').endswith('bddl_files')\n"
        "print([str(p) for p in __import__('pathlib').Path(sys.argv[1]).rglob('*')"
        " if 'libero' in p.relative_to(sys.argv[1]).as_posix()])"
    )
    output = run_python(code, str(home))
    assert output.strip().splitlines()[-1] == "[]"
