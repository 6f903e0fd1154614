"""pypiserver on a free port: run by the Python of .venv-peers-publishing with the folder of the packages.

It prints its port. `pypi-server` itself cannot report a port that the system has chosen.
"""

import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

import pypiserver


class Server(ThreadingMixIn, WSGIServer):
    """A server that handles each request in a thread."""

    daemon_threads = True


application = pypiserver.app(
    roots=[Path(sys.argv[1])], password_file=".", authenticate=[], disable_fallback=True
)
with make_server("127.0.0.1", 0, application, server_class=Server) as server:
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
