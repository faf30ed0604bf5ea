"""Somebody who wants to hear of every job that has ended."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """A web server that takes notices; `statuses` are its answers, in order, then 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.heard: set[str] = set()  # by `webhook-id`, those that were answered well
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.calls.append((self.path, headers, body))
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                if status < 300:
                    receiver.heard.add(headers["webhook-id"])
                self.send_response(status)
                self.send_header("Location", "/inside")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
