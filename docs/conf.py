# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds these pages: `./dev docs` writes them to docs/_build/html."""

from cas3fs import __version__

project = "cas3fs"
copyright = "the authors of cas3fs"  # noqa: A001
release = __version__
html_theme = "furo"
html_title = f"cas3fs {release}"
html_copy_source = False
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "text"
