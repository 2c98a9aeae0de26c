# hwy::hwy, Google Highway: by its own CMake package, or by the pkg-config file that is all that Debian 12 ships.
# Installed beside rondo's package, whose static library needs it too.
find_package(HWY QUIET CONFIG)
if(NOT TARGET hwy::hwy)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(HWY REQUIRED IMPORTED_TARGET GLOBAL libhwy)
  add_library(hwy::hwy ALIAS PkgConfig::HWY)
endif()

# Of the x86 instruction sets AVX-512, AVX2 and SSE4 beside the baseline: AVX-512's later variants and SSSE3 have nothing that these
# kernels use, and without them multiply_blocks.cc compiles in 26 s in place of 42 (g++ 13, Highway 1.0.7); under a sanitizer AVX2
# alone. Bits: hwy/detect_targets.h.
if(RONDO_SANITIZE)
  add_compile_definitions($<$<COMPILE_LANGUAGE:CXX>:HWY_DISABLED_TARGETS=0x19FF>)
else()
  add_compile_definitions($<$<COMPILE_LANGUAGE:CXX>:HWY_DISABLED_TARGETS=0x10FF>)
endif()
