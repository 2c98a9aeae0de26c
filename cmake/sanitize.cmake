# RONDO_SANITIZE puts one sanitizer under everything that is built.
if(RONDO_SANITIZE STREQUAL "address")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined;-fno-sanitize-recover=undefined>")
  # ASan reports such accesses itself; asked twice, they cost a tenth of the compile time.
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize=null,object-size,vptr>")
  add_link_options(-fsanitize=address,undefined)
elseif(RONDO_SANITIZE STREQUAL "thread")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=thread>)
  add_link_options(-fsanitize=thread)
elseif(NOT RONDO_SANITIZE STREQUAL "")
  message(FATAL_ERROR "RONDO_SANITIZE: expected address, thread or nothing, found ${RONDO_SANITIZE}")
endif()
if(RONDO_SANITIZE)
  # The last -O and -g on a command line count: enough for a report's lines at half of -O2 -g's compile time.
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-O1;-g1>")
endif()
# For tests, and under a sanitizer for the program: -O0 halves the compile time of what needs no speed of its own, and of its own
# code UBSan would check little. What is tested keeps both.
function(rondo_unoptimised target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O0>)
  if(RONDO_SANITIZE STREQUAL "address")
    target_compile_options(${target} PRIVATE -fno-sanitize=undefined)
  endif()
endfunction()
if(RONDO_SANITIZE)
  # The engine around the kernels is not where the time goes.
  file(GLOB RONDO_HOST_CODE runner/*.cc runner/text/*.cc)
  set_property(SOURCE ${RONDO_HOST_CODE} APPEND PROPERTY COMPILE_OPTIONS -O0)
endif()
if(RONDO_SANITIZE STREQUAL "address")
  # ASan poisons a scope's variables one by one, and unrolled SIMD code has thousands: six times the compile time.
  file(GLOB RONDO_SIMD kernels/cpu/*.cc)
  set_property(SOURCE ${RONDO_SIMD} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize-address-use-after-scope)
endif()
