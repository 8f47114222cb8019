"""A TCP proxy inside an attempt, whose connections can be cut: what a dying network does."""

from __future__ import annotations

import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that closes with a reset."""


class Proxy:
    """Relays loopback connections to a server on `server_port`, until `cut`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._left: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after_bytes: int) -> None:
        """Reset every connection once `after_bytes` more have passed; at once for 0."""
        self._left = after_bytes
        if after_bytes == 0:
            self._reset()

    def _accept(self) -> None:
        while True:
            near = self._listener.accept()[0]
            far = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(16 * 1024):
                if self._left is not None:
                    block, self._left = block[: self._left], self._left - len(block)
                target.sendall(block)
                if self._left is not None and self._left <= 0:
                    self._reset()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._reset()

    def _reset(self) -> None:
        for each in self._sockets:
            try:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.shutdown(socket.SHUT_RDWR)
                each.close()
            except OSError:
                pass  # closed before
