"""A real S3-compatible server on loopback: rclone's, over a folder, with keys of its own."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "horen"
_START_S = 30.0


class S3Server:
    """One server; killed and started again on the same files, at the same address and with the same keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bucket = folder / "data" / BUCKET
        self.bucket.mkdir(parents=True)
        self._port = _free_port()
        self._key, self._secret = secrets.token_hex(10), secrets.token_hex(20)
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client of the server needs, as every S3 client reads it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def fsspec_environment(self) -> dict[str, str]:
        """The same, as fsspec reads it."""
        return {
            "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "FSSPEC_S3_KEY": self._key,
            "FSSPEC_S3_SECRET": self._secret,
        }

    def start(self) -> None:
        """Start the server and wait until it listens."""
        rclone = Path(sys.executable).parent / "rclone"
        command = [str(rclone), "serve", "s3", str(self._folder / "data"), "--addr", f"127.0.0.1:{self._port}"]
        # What tests do to its files must be seen at once; 0 would make it spin.
        command += ["--dir-cache-time", "1ms", "--vfs-cache-mode", "off"]
        environment = {
            **os.environ,
            "RCLONE_CONFIG": str(self._folder / "no.conf"),
            "RCLONE_AUTH_KEY": f'"{self._key},{self._secret}"',
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # It ends with this process, however this process ends.
        watch = ["/bin/sh", "-c", 'read _; kill -KILL "$1"', "s3-watcher", str(self._process.pid)]
        self._watcher = subprocess.Popen(
            watch, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._wait()

    def kill(self) -> None:
        """End the server as a power cut would."""
        assert self._process is not None
        assert self._watcher is not None
        self._watcher.kill()
        self._watcher.communicate()
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1.0).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError((self._folder / "log").read_text())


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Give a running server that is ended afterwards."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
