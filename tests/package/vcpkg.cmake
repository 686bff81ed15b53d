# Runs the port file of packaging/vcpkg where there is no vcpkg: the functions that it calls, in plain CMake.
#
#   cmake -D PACKAGES=<dir> -P tests/package/vcpkg.cmake
cmake_minimum_required(VERSION 3.24)

set(PORT fovea)
set(CURRENT_PACKAGES_DIR ${PACKAGES})
set(buildtree ${PACKAGES}.build)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
  run(${CMAKE_COMMAND} -G Ninja -S ${arg_SOURCE_PATH} -B ${buildtree} -D CMAKE_BUILD_TYPE=Release
      -D CMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR} ${arg_OPTIONS})
endfunction()

function(vcpkg_cmake_install)
  run(${CMAKE_COMMAND} --build ${buildtree} --target install)
endfunction()

# The package's files move to share/<port>, and the way from there to the prefix is shorter by as many folders.
function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "CONFIG_PATH" "")
  file(GLOB files ${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}/*.cmake)
  file(INSTALL ${files} DESTINATION ${CURRENT_PACKAGES_DIR}/share/${PORT})
  file(REMOVE_RECURSE ${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH})
  file(READ ${CURRENT_PACKAGES_DIR}/share/${PORT}/${PORT}-targets.cmake text)
  set(ups "(get_filename_component\\(_IMPORT_PREFIX [^\n]*\n)+")
  set(new_ups "get_filename_component(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_DIR}/../..\" ABSOLUTE)\n")
  string(REGEX REPLACE "${ups}" "${new_ups}" text "${text}")
  file(WRITE ${CURRENT_PACKAGES_DIR}/share/${PORT}/${PORT}-targets.cmake "${text}")
endfunction()

function(vcpkg_fixup_pkgconfig)
  file(GLOB_RECURSE files ${CURRENT_PACKAGES_DIR}/*.pc)
  if(NOT files)
    message(FATAL_ERROR "there is no .pc file")
  endif()
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
  file(INSTALL ${arg_FILE_LIST} DESTINATION ${CURRENT_PACKAGES_DIR}/share/${PORT} RENAME copyright)
endfunction()

include(${CMAKE_CURRENT_LIST_DIR}/../../packaging/vcpkg/${PORT}/portfile.cmake)

foreach(file copyright usage ${PORT}-config.cmake)
  if(NOT EXISTS ${CURRENT_PACKAGES_DIR}/share/${PORT}/${file})
    message(FATAL_ERROR "the port does not install share/${PORT}/${file}")
  endif()
endforeach()
