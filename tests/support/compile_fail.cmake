# Compiles SOURCE (syntax only) and fails unless the compiler refuses it with a message that matches the regular
# expression of its first line:   // expect: <regex>
file(STRINGS ${SOURCE} first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: the first line must read  // expect: <regex>")
endif()
set(expected "${CMAKE_MATCH_1}")

string(REPLACE "|" ";-I;" include_dirs "-I;${INCLUDE_DIRS}")
list(FILTER include_dirs EXCLUDE REGEX "^$")
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
execute_process(COMMAND ${COMPILER} -std=c++20 -fsyntax-only ${flags} ${include_dirs} ${SOURCE}
                RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles, but must be refused with: ${expected}")
endif()
if(NOT output MATCHES "${expected}")
  message(FATAL_ERROR "${SOURCE} is refused, but not with: ${expected}\n${output}")
endif()
