# Conan 2, from the tree this file stands in:   conan create packaging/conan
import os

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout
from conan.tools.scm import Version


class FoveaConan(ConanFile):
    name = "fovea"
    description = "Attention kernels for CPUs, header-only"
    license = "MIT"
    topics = ("attention", "transformers", "simd", "eigen", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    @property
    def _tree(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        header = load(self, os.path.join(self._tree, "include", "fovea", "version.hpp"))
        self.version = header.split('#define FOVEA_VERSION "')[1].split('"')[0]

    def export_sources(self):
        copy(self, "LICENSE", src=self._tree, dst=self.export_sources_folder)
        copy(self, "include/*.hpp", src=self._tree, dst=self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def requirements(self):
        self.requires("eigen/[>=3.4 <6]", transitive_headers=True)
        self.requires("xsimd/[>=8.1 <15]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)
        oldest = {"gcc": "12", "clang": "14"}.get(str(self.settings.compiler))
        if oldest and Version(self.settings.compiler.version) < oldest:
            raise ConanInvalidConfiguration(f"fovea needs {self.settings.compiler} {oldest} or newer")

    def package(self):
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))
        copy(self, "*.hpp", src=os.path.join(self.source_folder, "include"),
             dst=os.path.join(self.package_folder, "include"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_file_name", "fovea")
        self.cpp_info.set_property("cmake_target_name", "fovea::fovea")
        self.cpp_info.set_property("pkg_config_name", "fovea")
        if self.settings.os in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["pthread"]
