"""A web hook on this machine: what an alert is sent to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Thread

SECRET = "T0/hush-hush"


class Webhook:
    """Keeps what it is sent, in order, and answers with `status`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/services/{SECRET}"
        self.status = 200
        self.paths: list[str] = []
        self.texts: SimpleQueue[str] = SimpleQueue()


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Listen, on a thread, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body.keys() == {"text"}, "there are chats that refuse what they do not know"
            hook.paths.append(self.path)
            hook.texts.put(body["text"])
            self.send_response(hook.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook = Webhook(server.server_address[1])
        Thread(target=server.serve_forever, daemon=True).start()
        yield hook
        server.shutdown()
