"""Code of others that is replaced, behind one door: of whom, of which versions, and what is so without it.

A patch that saves time is left out of versions it was not written for, and where `ELT_PATCHES=off` is set: the product
then works as before, slower. Without one that is needed it would do something else, and refuses to begin.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import ModuleType

from packaging.specifiers import SpecifierSet

from include.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patch:
    """One replacement.

    Attributes:
        distribution: Whose code it replaces.
        versions: Those it was written for.
        without: What is so without it, as measured.
        is_needed: Whether that would be wrong, and not only slower.
        replace: Does it.
    """

    distribution: str
    versions: SpecifierSet
    without: str
    is_needed: bool
    replace: Callable[[], None]

    @cache
    def __call__(self) -> None:
        """Apply it, once a process.

        Raises:
            ConfigError: it is needed, and the installed version is not one it was written for.
        """
        installed = version(self.distribution)
        said = f"{self.name} is for {self.distribution} {self.versions}, and {installed} is installed"
        if installed not in self.versions and self.is_needed:
            raise ConfigError(f"{said}: install requirements.lock. Without it {self.without}")
        if installed not in self.versions:
            log.warning(f"{said}: it is left out, and {self.without}")
        elif self.is_needed or os.environ.get("ELT_PATCHES") != "off":
            self.replace()

    @property
    def name(self) -> str:
        return f"{self.replace.__module__}.{self.replace.__name__}"


def patch(
    distribution: str, versions: str, without: str, is_needed: bool = False
) -> Callable[[Callable[[], None]], Patch]:
    """Make a patch of a function that replaces something; its docstring says why, and until when."""
    return lambda replace: Patch(distribution, SpecifierSet(versions), without, is_needed, replace)


def apply(module: ModuleType) -> None:
    """Apply the patches of a module."""
    for each in list(vars(module).values()):
        if isinstance(each, Patch):
            each()
