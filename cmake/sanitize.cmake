# RONDO_SANITIZE puts one sanitizer under everything that is built.
if(RONDO_SANITIZE STREQUAL "address")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=undefined> -g)
  add_link_options(-fsanitize=address,undefined)
elseif(RONDO_SANITIZE STREQUAL "thread")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=thread> -g)
  add_link_options(-fsanitize=thread)
elseif(NOT RONDO_SANITIZE STREQUAL "")
  message(FATAL_ERROR "RONDO_SANITIZE: expected address, thread or nothing, found ${RONDO_SANITIZE}")
endif()
if(RONDO_SANITIZE)
  # Of the x86 instruction sets, AVX2 alone beside the baseline: the sources are the same for all, and each set costs minutes
  # of a sanitizer's compile time. The bits are hwy/detect_targets.h's: AVX-512 in its variants, SSE4, SSSE3.
  add_compile_definitions($<$<COMPILE_LANGUAGE:CXX>:HWY_DISABLED_TARGETS=0x19FF>)
endif()
