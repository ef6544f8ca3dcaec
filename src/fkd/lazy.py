"""torch, imported when it is first used.

A label store is read, checked and shown without it; importing it takes a second and a half of
processor time, longer than all the rest of `fkd inspect`.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Lazy(ModuleType):
        """A module that is imported by looking at one of its names."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self.__name__), name)

    torch = _Lazy("torch")
