# Reads every #include below include/fovea and fails on one that points up.
#
#   cmake -P tests/layering.cmake                           the tree beside this script
#   cmake -D INCLUDE_DIR=<dir> -P tests/layering.cmake      another one
#   cmake -D SELF_TEST=<scratch> -P tests/layering.cmake    plants one bad include after the other in a copy of the tree
#
#   a file in   may include (the standard library and its own room, a method excepted, always)
#   core        eigen.hpp alone: Eigen/Core, memory.hpp alone: the system's memory calls
#   exec        core; eigen_device.hpp alone: the tensor header, pool.hpp alone: Eigen's thread pool
#   simd        core, xsimd
#   parts       core, exec, simd; other parts only of a lower rank
#   engine      core, exec, simd, parts
#   cache       core, exec, simd, parts
#   a method    core, exec, parts, engine, cache
#   version.hpp, the only header outside the rooms: nothing
cmake_minimum_required(VERSION 3.24)

set(rooms core exec simd parts engine cache)
set(uses_core core)
set(uses_exec core exec)
set(uses_simd core simd)
set(uses_parts core exec simd)
set(uses_engine core exec simd parts engine)
set(uses_cache core exec simd parts cache)
set(uses_method core exec parts engine cache)

# Parts of rank 0 are leaves.
set(rank_combine 1)
set(rank_schedule 1)
set(rank_state 1)
set(rank_select 2)

function(read_include file include result)
  set(${result} "" PARENT_SCOPE)
  if(file STREQUAL "version.hpp")
    set(${result} "the version header includes nothing" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "^[^/]+" room "${file}")
  if(NOT room IN_LIST rooms)
    set(room method)
  endif()

  if(include MATCHES "^[a-z_0-9]+$")  # the standard library
    return()
  endif()

  if(include MATCHES "^Eigen/|^unsupported/")
    if(file STREQUAL "core/eigen.hpp" AND include STREQUAL "Eigen/Core")
    elseif(file STREQUAL "exec/eigen_device.hpp" AND include MATCHES "^unsupported/Eigen/(CXX11/)?Tensor$")
    elseif(file STREQUAL "exec/pool.hpp" AND include MATCHES "^(unsupported/Eigen/CXX11|Eigen)/ThreadPool$")
    else()
      set(${result} "this Eigen header has its one place elsewhere" PARENT_SCOPE)
    endif()
    return()
  endif()

  if(include MATCHES "^xsimd/")
    if(NOT room STREQUAL "simd")
      set(${result} "only simd includes xsimd" PARENT_SCOPE)
    endif()
    return()
  endif()

  if(file STREQUAL "core/memory.hpp" AND include STREQUAL "sys/mman.h")
    return()
  endif()

  if(NOT include MATCHES "^fovea/([^/]+)/(.+)$")
    set(${result} "neither the standard library, Eigen, xsimd nor <fovea/room/name.hpp>" PARENT_SCOPE)
    return()
  endif()
  set(other ${CMAKE_MATCH_1})

  if(room STREQUAL "parts" AND other STREQUAL "parts")
    string(REGEX REPLACE "^parts/([^/]+).*$" "\\1" from "${file}")
    string(REGEX REPLACE "^fovea/parts/([^/]+).*$" "\\1" to "${include}")
    foreach(part from to)
      set(rank_of_${part} 0)
      if(DEFINED rank_${${part}})
        set(rank_of_${part} ${rank_${${part}}})
      endif()
    endforeach()
    if(NOT from STREQUAL to AND NOT rank_of_to LESS rank_of_from)
      set(${result} "parts/${from} may not use parts/${to}" PARENT_SCOPE)
    endif()
    return()
  endif()

  if(NOT other IN_LIST uses_${room})
    if(other IN_LIST rooms)
      set(${result} "a ${room} header may not use ${other}" PARENT_SCOPE)
    else()
      set(${result} "a ${room} header may not use a method" PARENT_SCOPE)
    endif()
  endif()
endfunction()

function(read_tree dir result)
  set(problems "")
  file(GLOB_RECURSE files RELATIVE ${dir}/fovea ${dir}/fovea/*)
  list(SORT files)
  foreach(file ${files})
    if(NOT file MATCHES "/" AND NOT file STREQUAL "version.hpp")
      list(APPEND problems "fovea/${file}: a header outside every room (no umbrella headers)")
    endif()
    if(file MATCHES "^(utils?|common|misc|detail|internal)/")
      list(APPEND problems "fovea/${file}: a room needs a name that says what it holds")
    endif()
    if(file MATCHES "^parts/[^/]+$")
      list(APPEND problems "fovea/${file}: a part belongs into a folder of parts")
    endif()
    file(STRINGS ${dir}/fovea/${file} lines REGEX "^[ \t]*#[ \t]*include")
    foreach(line IN LISTS lines)
      if(NOT line MATCHES "^[ \t]*#[ \t]*include[ \t]*<([^>]+)>")
        list(APPEND problems "fovea/${file}: ${line}: written neither <...> nor in full")
        continue()
      endif()
      set(include ${CMAKE_MATCH_1})
      read_include(${file} ${include} problem)
      if(problem)
        list(APPEND problems "fovea/${file}: <${include}>: ${problem}")
      endif()
    endforeach()
  endforeach()
  set(${result} "${problems}" PARENT_SCOPE)
endfunction()

if(NOT DEFINED INCLUDE_DIR)
  cmake_path(SET INCLUDE_DIR NORMALIZE ${CMAKE_CURRENT_LIST_DIR}/../include)
endif()

if(NOT DEFINED SELF_TEST)
  read_tree(${INCLUDE_DIR} problems)
  if(problems)
    list(JOIN problems "\n  " text)
    message(FATAL_ERROR "layering:\n  ${text}")
  endif()
  return()
endif()

# Each entry: a file, and an include that must be refused there.
set(bad
    "core/span.hpp fovea/exec/serial.hpp"
    "core/view.hpp Eigen/Core"
    "core/eigen.hpp unsupported/Eigen/CXX11/Tensor"
    "exec/serial.hpp fovea/simd/ops.hpp"
    "exec/serial.hpp unsupported/Eigen/CXX11/ThreadPool"
    "simd/ops.hpp fovea/exec/serial.hpp"
    "simd/ops.hpp fovea/parts/mask/causal.hpp"
    "parts/mask/causal.hpp fovea/engine/attend.hpp"
    "parts/mask/causal.hpp fovea/parts/score/alibi.hpp"
    "parts/mask/causal.hpp fovea/parts/schedule/table.hpp"
    "parts/schedule/table.hpp fovea/parts/select/top_k.hpp"
    "parts/mask/causal.hpp xsimd/xsimd.hpp"
    "engine/attend.hpp fovea/dense/scaled_dot_product.hpp"
    "engine/attend.hpp xsimd/xsimd.hpp"
    "engine/attend.hpp fovea/cache/contiguous.hpp"
    "parts/mask/causal.hpp fovea/cache/contiguous.hpp"
    "cache/contiguous.hpp fovea/engine/attend.hpp"
    "cache/contiguous.hpp sys/mman.h"
    "cache/contiguous.hpp fovea/dense/scaled_dot_product.hpp"
    "dense/scaled_dot_product.hpp fovea/simd/ops.hpp"
    "dense/scaled_dot_product.hpp fovea/window/sliding_window.hpp"
    "dense/scaled_dot_product.hpp fovea/dense/other.hpp"
    "dense/scaled_dot_product.hpp immintrin.h"
    "fovea.hpp fovea/dense/scaled_dot_product.hpp"
    "version.hpp fovea/core/span.hpp"
    "utils/things.hpp vector")
set(good
    "core/eigen.hpp Eigen/Core"
    "exec/eigen_device.hpp unsupported/Eigen/CXX11/Tensor"
    "exec/pool.hpp unsupported/Eigen/CXX11/ThreadPool"
    "core/memory.hpp sys/mman.h"
    "simd/ops.hpp xsimd/xsimd.hpp"
    "parts/select/top_k.hpp fovea/parts/schedule/table.hpp"
    "parts/mask/window.hpp fovea/parts/mask/causal.hpp"
    "engine/attend.hpp fovea/simd/ops.hpp"
    "cache/contiguous.hpp fovea/parts/mask/causal.hpp"
    "cache/contiguous.hpp fovea/cache/paged.hpp"
    "dense/scaled_dot_product.hpp fovea/engine/attend.hpp"
    "dense/scaled_dot_product.hpp fovea/cache/contiguous.hpp"
    "dense/scaled_dot_product.hpp fovea/parts/mask/causal.hpp")

set(failures "")
foreach(entry IN LISTS bad good)
  string(REPLACE " " ";" entry_list "${entry}")
  list(GET entry_list 0 file)
  list(GET entry_list 1 include)

  file(REMOVE_RECURSE ${SELF_TEST})
  file(MAKE_DIRECTORY ${SELF_TEST}/fovea)
  if(EXISTS ${INCLUDE_DIR}/fovea)
    file(COPY ${INCLUDE_DIR}/fovea DESTINATION ${SELF_TEST})
  endif()
  file(APPEND ${SELF_TEST}/fovea/${file} "\n#include <${include}>\n")

  read_tree(${SELF_TEST} problems)
  string(FIND "${problems}" "fovea/${file}:" found)
  if(entry IN_LIST bad AND found EQUAL -1)
    list(APPEND failures "accepted: ${file} includes <${include}>")
  elseif(entry IN_LIST good AND NOT found EQUAL -1)
    list(APPEND failures "refused: ${file} includes <${include}>")
  endif()
endforeach()

# A quoted include cannot be followed, so it is refused as well.
file(WRITE ${SELF_TEST}/fovea/core/quoted.hpp "#include \"span.hpp\"\n")
read_tree(${SELF_TEST} problems)
if(NOT problems MATCHES "fovea/core/quoted.hpp:")
  list(APPEND failures "accepted: a quoted include")
endif()

file(REMOVE_RECURSE ${SELF_TEST})
if(failures)
  list(JOIN failures "\n  " text)
  message(FATAL_ERROR "layering self-test:\n  ${text}")
endif()
