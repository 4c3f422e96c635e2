"""Serves a policy over HTTP, in the request form of OpenVLA's own deployment script."""

import hmac
import http.server
import ipaddress
import logging
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import numpy as np

from libero_reward_envs.agents.policy_handler import PolicyHandler, RequestRefused
from libero_reward_envs.agents.policy_wire import (
    PolicyRequest,
    RequestLimits,
    encode_action,
    read_request,
)
from libero_reward_envs.openvla.policy_inputs import PROPRIO_KEY

MIN_TOKEN_CHARACTERS = 16
_MAX_SESSIONS = 64
_MAX_CONNECTIONS = 32
_CLOSING_TIMEOUT_S = 10.0
_logger = logging.getLogger(__name__)


class ServedPolicy(Protocol):
    """What can be served, such as `OpenVLAPolicy`."""

    inputs: Any  # callable: an observation to what `act` takes; `image_keys` are what it reads
    instruction: str | None
    unnorm_key: Any

    @property
    def settings(self) -> dict[str, Any]:
        """What the policy is, as JSON; has "image_keys" and "n_proprio"."""
        ...

    def reset(self, indices: Iterable[int] | None = None) -> None:
        """Drop what is left of action chunks."""
        ...

    def act(
        self, prepared: Any, instructions: Sequence[str | None], rows: Sequence[int]
    ) -> np.ndarray:
        """Return actions, (n, a)."""
        ...


class PolicyServer(http.server.ThreadingHTTPServer):
    """Answers `POST /act` with actions and `GET /health` with what it serves.

    Requests are read side by side; the model is asked by one at a time. Without a `session` each
    request stands for itself; with one, what is left of an action chunk waits for the next request
    of that name, of the last 64 names.

    Args:
        policy: What acts.
        host: Address to listen at.
        port: Port, 0 for any that is free.
        token: What clients must send as `Authorization: Bearer TOKEN`; None for nothing.
        allow_without_token: Whether to listen at an address that other machines reach, without a
            token.
        limits: How large requests may be.
        timeout_s: How long a request may take to arrive, and to wait for the model.

    Raises:
        OSError: If the address cannot be listened at.
        ValueError: If other machines could ask without a token, or the token is too short.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(
        self,
        policy: ServedPolicy,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        allow_without_token: bool = False,
        limits: RequestLimits | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        check_address(host, token, allow_without_token=allow_without_token)
        self.policy = policy
        self.limits = limits or RequestLimits()
        self.timeout_s = timeout_s
        self._token = None if token is None else token.encode()
        self._model_lock, self._parsing = threading.Lock(), threading.Lock()
        self._connections = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._is_closed = False
        self._rows: OrderedDict[str, int] = OrderedDict()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), PolicyHandler)

    @property
    def url(self) -> str:
        """Where it is asked."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def is_allowed(self, authorization: str | None) -> bool:
        """Whether a client sent the token, compared in a time that tells nothing about it."""
        if self._token is None:
            return True
        kind, _, given = (authorization or "").partition(" ")
        is_same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return is_same and kind.lower() == "bearer"

    def answer(self, body: bytes) -> Any:
        """Return the answer to a request's body, as JSON holds it.

        Raises:
            RequestRefused: If the request is not valid, or the model has no time.
            MemoryError: If the model has no room.
        """
        with self._parsing:  # lists take many times the memory of their text
            try:
                request = read_request(body, self.limits)
            except ValueError as error:
                raise RequestRefused(HTTPStatus.BAD_REQUEST, str(error)) from error
        instruction = self._check_told(request)
        try:
            prepared = self.policy.inputs(self._make_observation(request))
        except ValueError as error:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not self._model_lock.acquire(timeout=self.timeout_s):
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "The model is busy.")
        try:
            row = self._find_row(request)
            action = self.policy.act(prepared, [instruction], [row])[0]
        finally:
            self._model_lock.release()
        if not np.isfinite(action).all():
            raise RuntimeError(f"The policy gave an action that is not finite: {action}.")
        return encode_action(action, request.action_form)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, unless there are too many already."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection's requests."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note that a connection broke."""
        _logger.debug("Connection of %s broke.", client_address, exc_info=True)

    def server_close(self) -> None:
        """Stop listening; an action that is being computed is finished, no other is begun."""
        super().server_close()
        if not self._is_closed:
            # Kept for good: a thread that computes while the interpreter ends would crash it.
            self._is_closed = self._model_lock.acquire(timeout=_CLOSING_TIMEOUT_S)

    def _check_told(self, request: PolicyRequest) -> str:
        """Return the instruction, unless the client asks for what is not served."""
        served = self.policy.unnorm_key
        if request.unnorm_key is not None and request.unnorm_key != served:
            raise RequestRefused(
                HTTPStatus.BAD_REQUEST,
                f"Expected `unnorm_key` {served!r}, which is served, got {request.unnorm_key!r}. "
                "Leave it out, or serve that one by --unnorm-key.",
            )
        told = self.policy.instruction if request.instruction is None else request.instruction
        if told is None:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "Expected an `instruction`.")
        return told

    def _make_observation(self, request: PolicyRequest) -> dict[str, np.ndarray]:
        keys = tuple(self.policy.inputs.image_keys)
        names = {**{key.removesuffix("_image"): key for key in keys}, **{key: key for key in keys}}
        observation = {}
        for name, image in request.images.items():
            key = names.get(name) if name is not None else (keys[0] if len(keys) == 1 else None)
            if key is None or key in observation:
                raise ValueError(
                    f"Expected the images {', '.join(keys)}, each once, under `images`; got "
                    f"{', '.join(str(name or 'image')[:50] for name in request.images)}."
                )
            observation[key] = image
        if request.state is not None:
            observation[PROPRIO_KEY] = request.state
        return observation

    def _find_row(self, request: PolicyRequest) -> int:
        """Return under which number the rest of a chunk waits; call it under the model's lock."""
        if request.session is None:
            self.policy.reset([0])
            return 0
        if request.session not in self._rows:
            if len(self._rows) < _MAX_SESSIONS:
                row = len(self._rows) + 1
            else:
                row = self._rows.popitem(last=False)[1]
            self._rows[request.session] = row
            self.policy.reset([row])
        elif request.episode_start:
            self.policy.reset([self._rows[request.session]])
        self._rows.move_to_end(request.session)
        return self._rows[request.session]


def check_address(host: str, token: str | None, *, allow_without_token: bool = False) -> None:
    """Raise ValueError if others than this machine could ask without a token, or it is too short.

    Example:
        >>> check_address("127.0.0.1", None)
    """
    if token is not None and (len(token) < MIN_TOKEN_CHARACTERS or not token.isprintable()):
        raise ValueError(
            f"Expected a token of at least {MIN_TOKEN_CHARACTERS} characters, got {len(token)}. "
            'Make one: python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False  # another name, which may mean any address
    if not is_here and token is None and not allow_without_token:
        raise ValueError(
            f"At {host!r} other machines reach the server, and any of them could ask it. Give "
            "--token TOKEN, or --no-token if the network is closed, or keep 127.0.0.1 and use an "
            "SSH tunnel."
        )
