// The version of fovea. CMake reads it from here, and with it whatever is installed; a test compares the rest.
#pragma once

#define FOVEA_VERSION_MAJOR 0
#define FOVEA_VERSION_MINOR 1
#define FOVEA_VERSION_PATCH 0
#define FOVEA_VERSION "0.1.0"
