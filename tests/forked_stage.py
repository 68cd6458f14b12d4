"""`forked_stage.py NAME ...` runs a stage, or `narrowband`, where tests have its libraries imported; see `tiny_project`."""

import os
import sys
from multiprocessing.connection import Client
from pathlib import Path

with Client(os.environ["FORK_SERVER"]) as server:
    server.send((str(Path.cwd()), sys.argv[1], sys.argv[2:], dict(os.environ)))
    said, code = server.recv()
sys.stdout.write(said)
sys.exit(code)
