"""
Makes the library of sb3_dai/native/library.cpp when the package is installed or packed, if there is a C++ compiler: ``CXX`` of
the environment, or g++, clang++ or c++. Without one the package does the same with torch alone, and takes longer.
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

SOURCES = ("product.h", "perceptrons.h", "update.h", "library.cpp")

FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno"]

PROCESSORS = {
    "AVX512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma"],
}
"""By what torch calls them: the one that fits is loaded."""

LIBRARIES = ["-lmvec", "-lm"] if platform.libc_ver()[0] == "glibc" else ["-lm"]


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
            self.app.display_warning("sb3_dai: there is no C++ compiler for x86-64, so torch will do all the work")
            return
        folder = Path(self.root) / "sb3_dai" / "native"
        source = hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()[:16]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for name, flags in PROCESSORS.items():
                made = Path(temporary) / f"native_{name}.so"
                command = [*shlex.split(compiler), *FLAGS, *flags, f'-DSOURCE="{source}"', str(folder / SOURCES[-1])]
                try:
                    subprocess.run([*command, *LIBRARIES, "-o", str(made)], check=True, capture_output=True, text=True)
                except (OSError, subprocess.CalledProcessError) as error:
                    reason = getattr(error, "stderr", None) or error
                    self.app.display_warning(
                        f"sb3_dai: torch will do all the work, since library.cpp was not compiled: {reason}"
                    )
                    return
                os.replace(made, folder / made.name)  # Not written into: a process may have it loaded
        build_data["artifacts"].append("sb3_dai/native/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(platform_tags())}"
