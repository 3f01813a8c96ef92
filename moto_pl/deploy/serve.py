"""``moto serve``: a policy answers observations over a local socket, for a control loop in another process.

HTTP and JSON, so that the other side needs no library of ours: any language speaks them, and a robot's Python may be
old. The server is aiohttp, which Lightning brings along: the standard library's is not meant for use, and its pickling
connections run what a client sends. What comes in is bounded before it is read and looked at before it is used;
whatever is wrong with it is one line to who sent it, and the server goes on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import ipaddress
import logging
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from moto_pl.agents.loading import load_policy
from moto_pl.deploy.step import action_facts
from moto_pl.errors import SettingError
from moto_pl.reading import check, parse_json
from moto_pl.rollout.policy import ActMode, ArraySpec, Policy

MOST_ROBOTS = 16
"""Robots whose state is kept; of one more, that of the one that was silent for longest is let go."""
READ_TIMEOUT_S = 10.0
"""A request that takes longer to come in is given up."""
_SLACK = 1 << 14  # bytes of a request beside its arrays
_ARRAY = {"dtype": str, "shape": list[int], "data": str}
_REQUEST = {"observation": dict[str, dict], "first?": bool, "robot?": str, "executed?": list[float | int]}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_logger = logging.getLogger("moto_pl")


class PolicyServer:
    """Answers requests with an agent's actions; each robot, by name, has a state of its own.

    Args:
        policy: whose agent acts, with its mode and its key.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._robots: OrderedDict[str, Policy] = OrderedDict()
        self._begun = 0

    def application(self) -> web.Application:
        """``GET /`` says what is wanted, ``POST /act`` acts."""
        arrays = sum(_bytes(spec) for spec in self._policy.observes.values())
        app = web.Application(middlewares=[_one_line], client_max_size=4 * -(-arrays // 3) + _SLACK)
        app.add_routes([web.get("/", self.describe), web.post("/act", self.act)])
        return app

    async def describe(self, request: web.Request) -> web.Response:
        """What is wanted and what comes back."""
        agent: Any = self._policy.agent
        observation = {
            name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in self._policy.observes.items()
        }
        about = {"agent": type(agent).__name__, "gradient_steps": agent.loaded_step, "mode": self._policy.mode}
        return web.json_response({**about, "observation": observation, "action": action_facts(agent)})

    async def act(self, request: web.Request) -> web.Response:
        """The action for one robot's observation."""
        if request.headers.get("Content-Encoding"):
            raise SettingError("request", "a compressed body", "Send it as it is.")
        async with asyncio.timeout(READ_TIMEOUT_S):
            body = await request.read()
        try:
            asked = parse_json(body, _REQUEST)
        except (ValueError, UnicodeDecodeError) as error:
            raise SettingError("request", f"what cannot be read ({error})", "See docs/policy.md.") from None
        observation = {
            name: decoded(name, asked["observation"].get(name), spec) for name, spec in self._policy.observes.items()
        }
        policy, executed = self._robot(asked), asked.get("executed")
        if executed is not None:
            self._heard(policy, executed)
        action = policy.act(observation)
        return web.json_response({"action": action.tolist()})

    def _robot(self, asked: Mapping[str, Any]) -> Policy:
        """The policy of the robot that asks, its state begun anew where an episode begins."""
        name = asked.get("robot", "robot")
        if asked.get("first", False):
            if name not in self._robots:
                self._begun += 1
                key = self._policy.key.fold(self._begun)
                self._robots[name] = Policy(self._policy.agent, self._policy.mode, key)
            self._robots[name].reset()
        if name not in self._robots:
            raise SettingError("first", f"no episode of a robot '{name[:80]}'", "Begin one: send first as true.")
        self._robots.move_to_end(name)
        if len(self._robots) > MOST_ROBOTS:
            self._robots.popitem(last=False)
        return self._robots[name]

    def _heard(self, policy: Policy, executed: list[float]) -> None:
        size = getattr(self._policy.agent, "action_size", None)
        if policy.state is None:
            raise SettingError("executed", "what was executed before an episode's first action", "Leave it out there.")
        if len(executed) != size or not all(math.isfinite(number) and abs(number) <= 1 for number in executed):
            raise SettingError("executed", str(executed)[:80], f"Give {size} finite numbers in [-1, 1].")
        policy.executed(np.array(executed, np.float32))


def decoded(name: str, given: Any, spec: ArraySpec) -> np.ndarray:
    """An array of a request: its type and shape are looked at before its bytes.

    Raises:
        SettingError: it is not what ``spec`` says, or not finite.
    """
    wanted = f"Give {{'dtype': '{spec.dtype}', 'shape': {list(spec.shape)}, 'data': its bytes in base64}}."
    if given is None:
        raise SettingError("observation", f"no '{name}'", wanted)
    try:
        dtype, shape, data = (check(given, _ARRAY)[key] for key in _ARRAY)
    except ValueError as error:
        raise SettingError("observation", f"'{name}', whose form is another ({error})", wanted) from None
    if dtype != spec.dtype or shape != list(spec.shape):
        raise SettingError("observation", f"'{name}' as {str(dtype)[:20]} {str(shape)[:60]}", wanted)
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise SettingError("observation", f"'{name}' whose data is no base64", wanted) from None
    if len(content) != _bytes(spec):
        found = f"'{name}' of {len(content):,} bytes, where {_bytes(spec):,} are wanted"
        raise SettingError("observation", found, wanted)
    array = np.frombuffer(content, np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SettingError("observation", f"'{name}' with NaN or infinity", "Give finite numbers.")
    return array.astype(spec.dtype)


def _bytes(spec: ArraySpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


@web.middleware
async def _one_line(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Whatever goes wrong with a request is ``{"error": one line}``, and the next one is answered."""
    try:
        if "Origin" in request.headers:  # a page in somebody's browser, which may reach a loopback address too
            return _error(request, 403, SettingError("Origin", "a browser's request", "Ask from a program."))
        return await handler(request)
    except SettingError as error:
        return _error(request, 400, error)
    except TimeoutError:
        found = f"a body that is not there after {READ_TIMEOUT_S:g} s"
        return _error(request, 408, SettingError("request", found, "Send it at once."))
    except web.HTTPRequestEntityTooLarge:
        most = f"{request.client_max_size:,} bytes"
        return _error(request, 413, SettingError("request", f"more than {most}", "Send one observation a request."))
    except web.HTTPException as error:
        return _error(request, error.status, SettingError("request", f"{request.method} {request.path[:80]}", _ROUTES))
    except Exception:
        _logger.exception("a request failed")
        return _error(request, 500, SettingError("request", "a fault of ours", "The server's own output says which."))


_ROUTES = "Ask GET / or POST /act."


def _error(request: web.Request, status: int, error: SettingError) -> web.Response:
    response = web.json_response({"error": str(error)}, status=status)
    if not request.content.is_eof():
        response.force_close()  # and says so: what is left of the request is not waited for
    return response


def run_serve(checkpoint: Path, host: str, port: int, mode: ActMode, device: str, seed: int) -> int:
    """Serves until a signal ends it; see :func:`moto_pl.cli.serve`."""
    if not 0 <= port <= 65535:
        raise SettingError("--port", port, "Give a port from 0 to 65535; 0 takes a free one.")
    listening = listen(host, port)
    with listening:
        policy = load_policy(checkpoint, device, mode, seed)
        asyncio.run(_serve(PolicyServer(policy), listening))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """The socket, before a checkpoint is read for it.

    Raises:
        SettingError: the port is in use or not ours to take, or there is no such address here.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        number = error.errno or 0  # below 0 it is a name's that is not known
        reason = os.strerror(number) if number > 0 else str(error.strerror or error)
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            fix = "Give another --port; 0 takes a free one."
            raise SettingError("--port", f"{port} on {host} ({reason.lower()})", fix) from None
        raise SettingError("--host", f"{host} ({reason.lower()})", "Give an address of this machine.") from None


async def _serve(server: PolicyServer, listening: socket.socket) -> None:
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        host, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            print(f"{host} can be reached from other machines, and whoever reaches it can ask: there is no password.")
        address = f"[{host}]" if ":" in host else host
        print(f"serving on http://{address}:{port}; Ctrl-C ends it", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
