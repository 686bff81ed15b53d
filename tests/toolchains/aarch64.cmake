# aarch64 by Debian's cross compiler, the programs run by qemu (tests/setup aarch64 installs both). Eigen, xsimd and the
# other libraries of headers are the host's. Their folders are linked to in one of their own: the host's include folder
# as a whole must stay off the path of the cross compiler.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)  # no notes on what g++ 10 changed
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

set(host_headers ${CMAKE_BINARY_DIR}/host_headers)
foreach(folder xsimd catch2 nlohmann xtensor xtl)
  find_path(FOVEA_HOST_${folder} ${folder} PATHS /usr/include /usr/local/include NO_DEFAULT_PATH)
  mark_as_advanced(FOVEA_HOST_${folder})
  if(FOVEA_HOST_${folder})
    file(MAKE_DIRECTORY ${host_headers})
    file(CREATE_LINK ${FOVEA_HOST_${folder}}/${folder} ${host_headers}/${folder} SYMBOLIC)
  endif()
endforeach()
foreach(name XSIMD CATCH2 JSON XTENSOR XTL)
  set(FOVEA_${name}_INCLUDE_DIR ${host_headers} CACHE PATH "Linked to by the toolchain file")
endforeach()
