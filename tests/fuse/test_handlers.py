# SPDX-License-Identifier: GPL-3.0-or-later
"""The handlers do not depend on a front-end; their rules are tested through llfuse in test_llfuse_operations.py."""

import subprocess
import sys


def test_handlers_load_without_llfuse() -> None:
    code = "import sys; sys.modules['llfuse'] = None; import cas3fs.fuse.handlers, cas3fs.fuse.options"
    subprocess.run([sys.executable, "-c", code], check=True)
