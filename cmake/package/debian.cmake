# Where the program goes, and cpack -G DEB: rondo (the program), librondo0.1 (the shared library), librondo-dev (headers, static
# library, what CMake and pkg-config look for).
set(runtime librondo${RONDO_SOVERSION})
set(RONDO_MAINTAINER "rondo maintainers <maintainers@example.invalid>" CACHE STRING "The Debian packages' maintainer")

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME rondo)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT ${RONDO_MAINTAINER})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL runtime development)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
if(RONDO_WITH_CUDA)  # NVIDIA's libraries may be of no Debian package
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${RONDO_CUDA_LIBRARIES})
endif()

set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME ${runtime})
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_RUNTIME_DESCRIPTION "decode engine for Hugging Face checkpoints - shared library
rondo turns Hugging Face checkpoints into tokens, on CPUs and NVIDIA GPUs.
This package has the library that programs are linked to.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME librondo-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "${runtime} (= ${PROJECT_VERSION}), libfmt-dev, libhwy-dev")
if(RONDO_WITH_TEXT)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SUGGESTS "libpcre2-dev, libutf8proc-dev")  # for rondo::text
endif()
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "decode engine for Hugging Face checkpoints - development files
rondo turns Hugging Face checkpoints into tokens, on CPUs and NVIDIA GPUs.
This package has the headers for C++20 and C, the static library, and the
files that CMake and pkg-config look for.")

install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${runtime} RENAME copyright COMPONENT runtime)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/librondo-dev RENAME copyright COMPONENT development)
if(RONDO_PROGRAM)
  install(TARGETS rondo RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
  if(RONDO_WITH_CUDA)
    set_target_properties(rondo PROPERTIES INSTALL_RPATH ${RONDO_CUDA_LIBRARIES})
  endif()
  list(APPEND CPACK_COMPONENTS_ALL program)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME rondo)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
  set(CPACK_DEBIAN_PROGRAM_DESCRIPTION "decode engine for Hugging Face checkpoints - program
rondo turns Hugging Face checkpoints into tokens, on CPUs and NVIDIA GPUs.
This package has the program: generate, score, inspect, doctor.")
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/rondo RENAME copyright COMPONENT program)
endif()
include(CPack)
