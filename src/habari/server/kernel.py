"""The Python kernel of a server that shares its loopback interface with other users' servers.

`etc/ipython/ipython_kernel_config.json`, which Habari installs, names this class for every IPython kernel of
the environment, also for one that a terminal starts. The debugger listens on a TCP port of 127.0.0.1 without
a password, and who reaches it runs code as its user. So where `HABARI_DEBUGGER` is `off`, which the server
sets for its kernels, debugging is neither announced nor started.
"""

from __future__ import annotations

import os
from typing import Any

from ipykernel import ipkernel


class Kernel(ipkernel.IPythonKernel):
    """IPython's kernel, with a debugger that can be turned off."""

    @property
    def kernel_info(self) -> dict[str, Any]:
        """What the kernel announces, without the debugger where it is off."""
        info: dict[str, Any] = super().kernel_info
        if _debugger_is_off():
            features = [each for each in info.get("supported_features", []) if each != "debugger"]
            info = {**info, "supported_features": features, "debugger": False}
        return info

    async def do_debug_request(self, msg: dict[str, Any]) -> Any:
        """Answer a request of the Debug Adapter Protocol; refuse each one where the debugger is off."""
        if not _debugger_is_off():
            return await super().do_debug_request(msg)  # type: ignore[no-untyped-call]  # ipykernel's is not annotated
        return {
            "type": "response",
            "request_seq": msg.get("seq", 0),
            "command": msg.get("command", ""),
            "success": False,
            "message": "The debugger is off on this platform: its port would be open to other users.",
        }


def _debugger_is_off() -> bool:
    return os.environ.get("HABARI_DEBUGGER") == "off"
