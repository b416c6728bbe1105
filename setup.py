"""Builds fastjmix._core. Everything else is in pyproject.toml.

FASTJMIX_DEBUG=1 keeps symbols and frame pointers and turns the optimizer down, for perf and gdb.
FASTJMIX_SANITIZE=address,undefined builds with those sanitizers (run with LD_PRELOAD=libasan); what
it builds belongs elsewhere (build_ext --build-lib), and tests/fuzz/build.py does so for the fuzzer.
The wheel is portable: no -march=native.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

debug = os.environ.get("FASTJMIX_DEBUG") == "1"
sanitize = os.environ.get("FASTJMIX_SANITIZE", "")

compile_args = ["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
compile_args += ["-O1", "-g", "-fno-omit-frame-pointer"] if debug or sanitize else ["-O3", "-g1"]
link_args: list[str] = []
controls = []
if sanitize:
    compile_args += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    # The fuzzer brings the runtime of its sanitizers with it.
    link_args += [] if "fuzzer" in sanitize else [f"-fsanitize={sanitize}"]
    controls = [
        Extension(
            "fuzz_control",
            ["tests/fuzz/control.pyx"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ]


class WithDefaults(build_py):
    """Puts the repository's configuration into what is built, as `fastjmix demo` runs it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the repository's own is used
        package = Path(self.build_lib, "fastjmix", "defaults")
        for name in ("config.toml", "pipelines/dicom-to-jmix.toml"):
            target = package / name
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))


setup(
    cmdclass={"build_py": WithDefaults},
    ext_modules=cythonize(
        [
            Extension(
                "fastjmix._core",
                ["fastjmix/_core.pyx"],
                depends=sorted(str(path) for path in Path("fastjmix/_core").glob("*.pxi")),
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            ),
            *controls,
        ],
        force=bool(debug or sanitize),
        build_dir="build/fuzz" if sanitize else None,  # the ordinary C file stays as it is
    ),
)
