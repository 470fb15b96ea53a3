"""Plugins are files: every module that lies directly in a package is one, and its name is the plugin's name.

A new wire, format or publisher is one new file; nothing is registered. What plugins share lives in `__init__` or in a
subpackage, neither of which is a plugin.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from ptyinr_stream.errors import ConfigError


def plugin_names(package: str) -> tuple[str, ...]:
    """List the plugins of a package, in alphabetical order, without importing them.

    >>> plugin_names("ptyinr_stream.wire")
    ('bluesky', 'eiger_v1', 'eiger_v2', 'native', 'panda')
    """
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return tuple(sorted(module.name for module in modules if not module.ispkg))


def load_plugin(package: str, name: str) -> ModuleType:
    """Import the plugin `name` of `package`.

    >>> load_plugin("ptyinr_stream.wire", "eiger")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ptyinr_stream.errors.ConfigError: ptyinr_stream.wire has no 'eiger'; there are: bluesky, eiger_v1, ...

    Raises:
        ConfigError: there is no such plugin; the message lists those there are.
    """
    names = plugin_names(package)
    if name not in names:
        raise ConfigError(f"{package} has no {name!r}; there are: {', '.join(names)}")
    return importlib.import_module(f"{package}.{name}")
