# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages the wheel holds; everything else of the packaging stands in pyproject.toml.

The folder `migrations/` lies beside the package in the source tree and is shipped as `cas3fs.migrations`. Installed
from a wheel or editable, it is found at run time in the same way, as a folder of real files::

    importlib.resources.files("cas3fs.migrations")
    # or: importlib.util.find_spec("cas3fs.migrations").submodule_search_locations[0]

`migrations/__init__.py` has to exist for the editable install to find it. A plain checkout on `sys.path` that was
never installed does not have the package: ./dev installs editable.
"""

from setuptools import find_packages, setup

MIGRATIONS = "cas3fs.migrations"

setup(
    packages=[*find_packages(include=["cas3fs", "cas3fs.*"]), MIGRATIONS, f"{MIGRATIONS}.versions"],
    package_dir={MIGRATIONS: "migrations"},
    package_data={"cas3fs": ["py.typed"], MIGRATIONS: ["*.mako"]},
)
