"""
Makes the library of sb3_dai/acceleration/native when the package is installed or packed, if there is a C++ compiler: ``CXX``
of the environment, or g++, clang++ or c++. Without one the package does the same with torch alone, and takes longer.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

NATIVE = "sb3_dai/acceleration/native"

FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno"]

COMPILERS = ("g++", "clang++", "c++")

PROCESSORS = {
    "AVX512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
    "AVX2": ["-mavx2", "-mfma"],
}
"""By what torch calls them: the one that fits is loaded."""

MATHEMATICS = (["-DVECTOR_MATH", "-lmvec", "-lm"], ["-lm"])
"""With exponentials and logarithms of whole vectors, which newer versions of glibc have, or without."""


class NativeBuildHook(BuildHookInterface):
    """Of hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """
        :param version: of the target
        :param build_data: what hatchling is to know
        """
        if self.target_name != "wheel":
            return
        names = shlex.split(os.environ.get("CXX", "")) or next(([name] for name in COMPILERS if shutil.which(name)), [""])
        # On Windows g++ may put vectors where they are not aligned
        if not shutil.which(names[0]) or platform.machine() not in ("x86_64", "AMD64") or sys.platform == "win32":
            self.app.display_warning("sb3_dai: there is no C++ compiler for x86-64, so torch will do all the work")
            return
        try:
            made = self.make(names, Path(self.root) / NATIVE)
        except OSError as error:  # Such as a source tree that cannot be written to
            self.app.display_warning(f"sb3_dai: torch will do all the work, because the library cannot be made: {error}")
            return
        if not made:
            return
        build_data["artifacts"] += [f"{NATIVE}/{name}" for name in made]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(platform_tags())}"

    def make(self, compiler: list[str], folder: Path) -> list[str]:
        """
        :param compiler: its name and arguments
        :param folder: of the sources, and for the libraries
        :return: names of the libraries that were made; an older one of a processor for which none was is taken away
        """
        libraries = []
        # As library.py of that folder does it
        sources = sorted(path for path in folder.iterdir() if path.suffix in (".h", ".cpp"))
        source = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for name, flags in PROCESSORS.items():
                made = Path(temporary) / f"native_{name}.so"
                command = [*compiler, *FLAGS, *flags, f'-DSOURCE="{source}"', str(folder / "library.cpp")]
                for mathematics in MATHEMATICS:
                    result = subprocess.run([*command, *mathematics, "-o", str(made)], capture_output=True, text=True)
                    if result.returncode == 0:
                        os.replace(made, folder / made.name)  # Not written into: a process may have it loaded
                        libraries.append(made.name)
                        break
                else:
                    (folder / made.name).unlink(missing_ok=True)
                    self.app.display_warning(f"sb3_dai: no library for {name}, torch will do its work: {result.stderr}")
        return libraries
