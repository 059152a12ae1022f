"""Loading a library without what it loads and we never use: memory on every host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import cast


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Hides modules that a library can do without, while it is loaded; not one that is there."""
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


@contextmanager
def instead(name: str, stand_in: ModuleType) -> Iterator[None]:
    """Puts a module in another's place while a library is loaded, unless the other is there."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


@contextmanager
def bare() -> Iterator[None]:
    """To load msgspec and dataclasses with: without modules they name and never use for us.

    msgspec looks up types that no message of ours has, and dataclasses would describe classes that
    have no docstring. Should one of them need more after all, it gets the real module's.
    """
    with (
        without("typing_extensions"),
        instead("uuid", _stand_in("uuid", UUID=_Unused, SafeUUID=SimpleNamespace(unknown=None))),
        instead("decimal", _stand_in("decimal", Decimal=_Unused)),
        instead("inspect", _stand_in("inspect")),
    ):
        yield


class _Unused:
    """In the place of a type that nothing of ours is."""


def _stand_in(name: str, **has: object) -> ModuleType:
    """A module with these names; any other it takes from the real module, which is loaded then."""
    stand_in = ModuleType(name)

    def rest(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return cast("object", getattr(import_module(name), attribute))

    vars(stand_in).update(has, __getattr__=rest)
    return stand_in
