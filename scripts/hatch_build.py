"""
Makes the library of sb3_dai/native/perceptrons.cpp when the package is installed or packed, if there is a C++ compiler: ``CXX``
of the environment, or g++, clang++ or c++. Without one the package works as well, and more slowly.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", "-ffp-contract=fast"]

PROCESSORS = {
    "AVX512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma"],
}
"""By what torch calls them: the one that fits is loaded."""


class NativeBuildHook(BuildHookInterface):
    """Of hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """
        :param version: of the target
        :param build_data: what hatchling is to know
        """
        if self.target_name != "wheel":
            return
        compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
        if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
            self.app.display_warning("sb3_dai: no C++ compiler for x86-64, torch evaluates the nets")
            return
        folder = Path(self.root) / "sb3_dai" / "native"
        sources = [folder / name for name in ("product.h", "perceptrons.cpp")]
        source = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
        with tempfile.TemporaryDirectory() as temporary:
            for name, flags in PROCESSORS.items():
                made = Path(temporary) / f"perceptrons_{name}.so"
                command = [*shlex.split(compiler), *FLAGS, *flags, f'-DSOURCE="{source}"', str(sources[-1]), "-o", str(made)]
                try:
                    subprocess.run(command, check=True, capture_output=True, text=True)
                except (OSError, subprocess.CalledProcessError) as error:
                    reason = getattr(error, "stderr", None) or error
                    self.app.display_warning(f"sb3_dai: perceptrons.cpp was not compiled, torch evaluates the nets: {reason}")
                    return
                # Not written into: a process may have it loaded
                shutil.copy(made, folder / f".{made.name}")
                os.replace(folder / f".{made.name}", folder / made.name)
        build_data["artifacts"].append("sb3_dai/native/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(platform_tags())}"
