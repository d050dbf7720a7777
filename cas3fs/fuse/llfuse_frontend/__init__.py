# SPDX-License-Identifier: GPL-3.0-or-later
"""The front-end on llfuse, a binding of libfuse 2: nothing outside of this package imports it.

`session` is one mount from ``mount(2)`` to its end, `operations` turns the binding's calls into calls of the handlers
and back.
"""
