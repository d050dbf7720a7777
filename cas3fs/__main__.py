# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m cas3fs`` is the command ``cas3fs``."""

from cas3fs.cli import main

if __name__ == "__main__":
    main()
