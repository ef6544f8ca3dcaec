"""Compiles the kernels when the package is built or installed; see src/fkd/native.

Without a C compiler the package is built without them, and says so.
"""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileKernels(BuildHookInterface[Any]):
    """Puts the compiled library into wheels, and beside the sources of an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a wheel that has the library is for this platform, and for any Python 3."""
        folder = Path(self.root, "src", "fkd", "native")
        building = runpy.run_path(str(folder / "building.py"))
        failure = building["compile_kernels"](folder)
        if failure:
            self.app.display_warning(f"fkd goes without its kernels in C: {failure}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data |= {"pure_python": False, "tag": f"py3-none-{platform}"}
        build_data["artifacts"].append(f"src/fkd/native/{building['LIBRARY']}")
