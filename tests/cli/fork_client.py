"""A command that the fork server runs: `$T` in `Cli.shell`. It passes on signals and the exit code.

It starts in 10 ms, because all modules but one are part of Python's own program.
"""

import _signal
import _socket
import os
import sys

SIGNALS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)


def is_open(fd: int) -> bool:
    """Return whether a standard stream is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def packed(*numbers: int) -> bytes:
    """Return C integers."""
    return b"".join(number.to_bytes(4, sys.byteorder, signed=True) for number in numbers)


def main() -> int:
    """Send the request. Return the exit code, or end by the same signal as the command."""
    server, *args = map(os.fsencode, sys.argv[1:])
    streams = [fd for fd in range(3) if is_open(fd)]
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(server)
    environment = [b"=".join(item) for item in os.environb.items()]
    fields = ["".join(map(str, streams)).encode(), b"0", str(len(args)).encode(), *args, *environment]
    body = b"\0".join(fields)
    descriptors = packed(os.open(".", os.O_RDONLY), *streams)
    connection.sendmsg([packed(len(body)), body], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    child = int.from_bytes(connection.recv(4), sys.byteorder)
    for signum in SIGNALS:
        if _signal.getsignal(signum) != _signal.SIG_IGN:
            _signal.signal(signum, lambda signum, frame: os.kill(child, signum))
    code = int.from_bytes(connection.recv(4), sys.byteorder, signed=True)
    if code < 0:
        if -code in SIGNALS:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    os._exit(main())
