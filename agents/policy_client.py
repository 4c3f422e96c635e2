"""Asks a policy server for actions, as if the policy were here."""

import http.client
import json
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from libero_reward_envs.agents.policy_wire import decode_array, encode_array

_MAX_ANSWER_BYTES = 2**20
_MAX_ACTION_NUMBERS = 4096
_MAX_SHOWN = 500
# The other side may close a connection that has been idle, just as the next request is sent.
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class PolicyClient:
    """A policy that `libero-reward serve-policy` serves, with Stable-Baselines3's `predict`.

    It sends the images that the policy reads and no others. Not for several threads at once.

    Args:
        url: Of the server, such as "http://127.0.0.1:8000".
        token: What the server was started with, None for none.
        timeout_s: How long an answer may take.

    Raises:
        ValueError: If `url` is none of a server.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`url` must be such as 'http://127.0.0.1:8000', got {url!r}.")
        is_secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._path = parts.path.rstrip("/").removesuffix("/act")
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session = uuid.uuid4().hex
        self._is_start = True
        self._settings: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the server says of its policy; asked for once.

        Raises:
            ConnectionError: If there is no server.
            PermissionError: If it does not take the token.
        """
        if self._settings is None:
            answer = self._ask("GET", "/health", None)
            found = answer.get("policy") if isinstance(answer, dict) else None
            if not isinstance(found, dict):
                raise RuntimeError(f"{self._url} does not say what policy it serves.")
            self._settings = found
        return dict(self._settings)

    def reset(self) -> None:
        """Begin an episode: what is left of an action chunk is dropped."""
        self._is_start = True

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        instruction: str | None = None,
    ) -> tuple[np.ndarray, None]:
        """Return the action for one observation, (a,) float32, and None.

        Args:
            observation: Images by key, (H, W, 3) uint8, and the robot's own state under "proprio"
                (or LIBERO's under "state") where the policy reads it; or the image alone.
            state: Not used.
            episode_start: Whether an episode begins.
            deterministic: Not used: the most probable action is always taken.
            instruction: What to do; None for what the server was started with.

        Raises:
            ConnectionError: If the server cannot be reached or goes away.
            PermissionError: If it does not take the token.
            RuntimeError: If it fails.
            TimeoutError: If it takes longer than `timeout_s`.
            ValueError: If it refuses the request.
        """
        if episode_start is not None and np.any(episode_start):
            self.reset()
        fields = self._describe(observation)
        fields |= {"session": self._session, "episode_start": self._is_start}
        fields["action_form"] = "numpy"
        if instruction is not None:
            fields["instruction"] = instruction
        answer = self._ask("POST", "/act", json.dumps(fields).encode())
        action = decode_array(answer, "action", max_numbers=_MAX_ACTION_NUMBERS)
        self._is_start = False
        return np.array(action, np.float32), None

    def close(self) -> None:
        """Close the connection; a later request opens another one."""
        self._connection.close()

    def _describe(self, observation: Any) -> dict[str, Any]:
        settings = self.settings
        keys = settings["image_keys"]
        if not isinstance(observation, Mapping):
            observation = {keys[0]: observation} if len(keys) == 1 else {}
        missing = [key for key in keys if key not in observation]
        if missing:
            raise ValueError(
                f"Expected the images {', '.join(keys)}, which the policy reads, got "
                f"{', '.join(observation) or 'none of a name'}."
            )
        fields: dict[str, Any] = {
            "images": {key: encode_array(np.asarray(observation[key])) for key in keys}
        }
        if settings["n_proprio"]:
            fields["state"] = encode_array(_find_proprio(observation))
        return fields

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        try:
            status, content = self._send(method, self._path + path, body)
        except TimeoutError as error:
            self.close()
            raise TimeoutError(
                f"{self._url} did not answer within {self._connection.timeout} s."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ConnectionError(f"Cannot ask {self._url}: {error or type(error)}.") from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status == http.client.OK and answer is not None:
            return answer
        told = answer.get("error") if isinstance(answer, dict) else None
        message = f"{self._url} answered {status}: {str(told or content[:_MAX_SHOWN])[:_MAX_SHOWN]}"
        if status in (401, 403):
            raise PermissionError(message)
        raise ValueError(message) if 400 <= status < 500 else RuntimeError(message)

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        is_reused = self._connection.sock is not None
        try:
            return self._exchange(method, path, body)
        except _STALE:
            if not is_reused:
                raise
            self.close()
            return self._exchange(method, path, body)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read(_MAX_ANSWER_BYTES + 1)
        if len(content) > _MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"answer of more than {_MAX_ANSWER_BYTES} bytes")
        return response.status, content


def _find_proprio(observation: Mapping[str, Any]) -> np.ndarray:
    from libero_reward_envs.openvla.policy_inputs import (
        PROPRIO_KEY,
        STATE_KEY,
        read_libero_proprio,
    )

    if PROPRIO_KEY in observation:
        return np.asarray(observation[PROPRIO_KEY], np.float32)
    if STATE_KEY in observation:
        return read_libero_proprio(observation[STATE_KEY])
    raise ValueError(
        f"Expected the robot's own state under {PROPRIO_KEY!r} or {STATE_KEY!r}, got "
        f"{', '.join(observation)}."
    )
