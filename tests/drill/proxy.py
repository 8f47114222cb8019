"""TCP proxies: one inside an attempt, whose connections can be cut, and fronts that lead to one server or another."""

from __future__ import annotations

import multiprocessing
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that closes with a reset."""

FORK = multiprocessing.get_context("fork")


class Proxy:
    """Relays loopback connections, each to the server on the port that counts when it comes, until `cut`."""

    def __init__(self, server_port: Callable[[], int], listener: socket.socket | None = None) -> None:
        self._server_port = server_port
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._left: int | None = None
        self._hanging: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after_bytes: int) -> None:
        """Reset every connection once `after_bytes` more have passed; at once for 0."""
        self._left = after_bytes
        if after_bytes == 0:
            self._reset()

    def hang(self, after_bytes: int) -> None:
        """Keep every connection that there is open, and pass nothing on once `after_bytes` more have passed."""
        self._hanging, self._left = set(self._sockets), after_bytes

    def _accept(self) -> None:
        while True:
            threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._server_port())) as far:
            self._sockets |= {near, far}
            back = threading.Thread(target=self._relay, args=(far, near), daemon=True)
            back.start()
            self._relay(near, far)
            back.join()
            self._sockets -= {near, far}

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(16 * 1024):
                cuts = self._left is not None and (not self._hanging or source in self._hanging)
                if cuts and self._left is not None:
                    block, self._left = block[: self._left], self._left - len(block)
                target.sendall(block)
                if cuts and self._left is not None and self._left <= 0:
                    if self._hanging:
                        threading.Event().wait()
                    self._reset()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._reset(source, target)

    def _reset(self, *sockets: socket.socket) -> None:
        for each in sockets or tuple(self._sockets):
            with suppress(OSError):  # closed before
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.shutdown(socket.SHUT_RDWR)
                each.close()


class Front:
    """An address that leads to one server and, from the next connection on, to another: a virtual IP, or a name."""

    def __init__(self, server_port: int) -> None:
        self._leads_to = FORK.Value("i", server_port, lock=False)
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = listener.getsockname()[1]
        self._process = FORK.Process(target=self._serve, args=(listener,), daemon=True)
        self._process.start()
        listener.close()

    def lead_to(self, server_port: int) -> None:
        """Where connections go from now on; to 0, nowhere."""
        self._leads_to.value = server_port

    def close(self) -> None:
        self._process.kill()
        self._process.join()

    def _serve(self, listener: socket.socket) -> None:
        Proxy(lambda: self._leads_to.value, listener)
        threading.Event().wait()
