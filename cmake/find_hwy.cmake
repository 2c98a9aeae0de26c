# hwy::hwy, Google Highway: by its own CMake package, or by the pkg-config file that is all that Debian 12 ships.
# Installed beside rondo's package, whose static library needs it too.
find_package(HWY QUIET CONFIG)
if(NOT TARGET hwy::hwy)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(HWY REQUIRED IMPORTED_TARGET GLOBAL libhwy)
  add_library(hwy::hwy ALIAS PkgConfig::HWY)
endif()
