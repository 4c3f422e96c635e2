"""HTTP of a policy server: headers, sizes, the token, and errors as JSON with a status."""

import http.server
import json
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libero_reward_envs.agents.policy_server import PolicyServer

_SOCKET_TIMEOUT_S = 30.0
_logger = logging.getLogger(__name__)


class RequestRefused(Exception):
    """What a client is told, with a status; never leaves the server."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class PolicyHandler(http.server.BaseHTTPRequestHandler):
    """One connection to a `PolicyServer`."""

    server: "PolicyServer"  # pyright: ignore[reportIncompatibleVariableOverride]  (no other makes it)
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "libero-reward", ""
    timeout = _SOCKET_TIMEOUT_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Tell what is served; without the token only that something is."""
        if self.path != "/health":
            self._send(HTTPStatus.NOT_FOUND, {"error": "Known are GET /health and POST /act."})
            return
        found: dict[str, Any] = {"status": "ok"}
        if self.server.is_allowed(self.headers.get("Authorization")):
            policy = self.server.policy
            found |= {"policy": policy.settings, "instruction": policy.instruction}
        elif self.headers.get("Authorization") is not None:
            self._send(HTTPStatus.UNAUTHORIZED, {"error": "The token is another one."})
            return
        self._send(HTTPStatus.OK, found)

    def do_POST(self) -> None:
        """Answer with an action, or with a status and what is wrong."""
        try:
            status, answer = HTTPStatus.OK, self.server.answer(self._read_body())
        except RequestRefused as error:
            status, answer = error.status, {"error": str(error)}
        except TimeoutError:
            self.close_connection = True
            status, answer = HTTPStatus.REQUEST_TIMEOUT, {"error": "The request came too slowly."}
        except MemoryError as error:
            status, answer = HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error) or "No room."}
        except ConnectionError:
            raise
        except Exception:  # the server goes on, whatever the model does
            _logger.exception("A request failed.")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            answer = {"error": "The policy failed; its log says why."}
        self._send(status, answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Note a request."""
        _logger.debug(format, *args)

    def _read_body(self) -> bytes:
        """Return the body; until it is read whole, the connection cannot be used on."""
        is_open, self.close_connection = not self.close_connection, True
        if self.path != "/act":
            raise RequestRefused(HTTPStatus.NOT_FOUND, "Known are GET /health and POST /act.")
        if not self.server.is_allowed(self.headers.get("Authorization")):
            raise RequestRefused(
                HTTPStatus.UNAUTHORIZED, "Expected the header 'Authorization: Bearer TOKEN'."
            )
        if self.headers.get_content_type() != "application/json":  # which web pages cannot send
            raise RequestRefused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Expected 'Content-Type: application/json'."
            )
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise RequestRefused(HTTPStatus.LENGTH_REQUIRED, "Expected a `Content-Length`.")
        limit = self.server.limits.body_bytes
        if len(length) > len(str(limit)) or int(length) > limit:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {limit} bytes."
            )
        content = bytearray()
        ends = time.monotonic() + self.server.timeout_s
        while len(content) < int(length):
            # `read` would wait for all of it, however slowly it comes.
            part = self.rfile.read1(int(length) - len(content))  # pyright: ignore[reportAttributeAccessIssue]
            if not part:
                raise ConnectionError("The client went away.")
            if time.monotonic() > ends:
                raise TimeoutError
            content += part
        self.close_connection = not is_open
        return bytes(content)

    def _send(self, status: HTTPStatus, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
