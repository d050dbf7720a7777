# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixture `volume` of the tests of volume/."""

from tests.volume.conftest import volume

__all__ = ["volume"]
