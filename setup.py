"""Builds fastjmix._core. Everything else is in pyproject.toml.

FASTJMIX_DEBUG=1 keeps symbols and frame pointers and turns the optimizer down, for perf and gdb.
FASTJMIX_SANITIZE=address,undefined builds with those sanitizers (run with LD_PRELOAD=libasan).
The wheel is portable: no -march=native.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTJMIX_DEBUG") == "1"
sanitize = os.environ.get("FASTJMIX_SANITIZE", "")

compile_args = ["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
compile_args += ["-O1", "-g", "-fno-omit-frame-pointer"] if debug else ["-O3", "-g1"]
link_args: list[str] = []
if sanitize:
    compile_args += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    link_args += [f"-fsanitize={sanitize}"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastjmix._core",
                ["fastjmix/_core.pyx"],
                depends=sorted(str(path) for path in Path("fastjmix/_core").glob("*.pxi")),
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            )
        ],
        force=bool(debug or sanitize),
    )
)
