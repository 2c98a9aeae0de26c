# What other projects get: rondo::rondo, static or shared, the headers as <rondo/engine.h> and <rondo/rondo.h>, a CMake
# package, a pkg-config file, and Debian packages by cpack.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The soname changes with every release whose headers may have changed: before 1.0 that is every minor version.
set(RONDO_SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

# The public headers, in the build folder as they lie when installed, so that a project around this one sees those alone.
set(RONDO_INCLUDE ${PROJECT_BINARY_DIR}/include)
set(headers runner/engine.h runner/rondo.h buffers/error.h)
if(RONDO_WITH_TEXT)
  list(APPEND headers runner/text/tokenizer.h runner/text/utf8.h)
endif()
foreach(header ${headers})
  string(REPLACE "runner/" "" installed ${header})
  get_filename_component(folder ${RONDO_INCLUDE}/rondo/${installed} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${header} ${RONDO_INCLUDE}/rondo/${installed} COPY_ON_ERROR SYMBOLIC)
  if(RONDO_INSTALL)
    get_filename_component(folder rondo/${installed} DIRECTORY)
    install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder} COMPONENT development)
  endif()
endforeach()
target_include_directories(rondo_library PUBLIC $<BUILD_INTERFACE:${RONDO_INCLUDE}>
                           INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# The same objects once more, as a shared library that shows the public headers' symbols alone.
file(CONFIGURE OUTPUT shared.cc CONTENT "" @ONLY)  # CMake asks for a source
add_library(rondo_shared SHARED ${PROJECT_BINARY_DIR}/shared.cc)
target_link_libraries(rondo_shared PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,rondo_library>)
target_include_directories(rondo_shared INTERFACE $<BUILD_INTERFACE:${RONDO_INCLUDE}>
                           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_options(rondo_shared PRIVATE -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/package/exports.map)
set_target_properties(rondo_shared PROPERTIES OUTPUT_NAME rondo LINKER_LANGUAGE CXX VERSION ${PROJECT_VERSION}
                      SOVERSION ${RONDO_SOVERSION} LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/package/exports.map)

# engine.h needs C++20. The installed package asks for it itself, where C++ is enabled: a project may be in C alone.
target_compile_features(rondo_shared INTERFACE $<BUILD_INTERFACE:cxx_std_20>)
if(BUILD_SHARED_LIBS)
  add_library(rondo::rondo ALIAS rondo_shared)
else()
  add_library(rondo_public INTERFACE)
  target_compile_features(rondo_public INTERFACE cxx_std_20)
  target_include_directories(rondo_public INTERFACE ${RONDO_INCLUDE})
  target_link_libraries(rondo_public INTERFACE $<LINK_ONLY:rondo_library>)
  add_library(rondo::rondo ALIAS rondo_public)
  if(NOT PROJECT_IS_TOP_LEVEL)
    set_target_properties(rondo_shared PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endif()

if(NOT RONDO_INSTALL)
  return()
endif()

# One package, two files of targets, each with rondo::rondo in it; rondo-config.cmake takes one of them.
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/rondo)
set_target_properties(rondo_library rondo_shared PROPERTIES EXPORT_NAME rondo)
install(TARGETS rondo_library EXPORT rondo-static
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(TARGETS rondo_shared EXPORT rondo-shared
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development)
if(RONDO_WITH_TEXT)
  install(TARGETS rondo_text ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)  # rondo-config.cmake names it
endif()
install(EXPORT rondo-static NAMESPACE rondo:: DESTINATION ${package} COMPONENT development)
install(EXPORT rondo-shared NAMESPACE rondo:: DESTINATION ${package} COMPONENT development)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rondo-config-version.cmake COMPATIBILITY SameMinorVersion)
configure_file(${CMAKE_CURRENT_LIST_DIR}/package/rondo-config.cmake.in rondo-config.cmake @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/rondo-config.cmake ${PROJECT_BINARY_DIR}/rondo-config-version.cmake
              cmake/find_hwy.cmake
        DESTINATION ${package} COMPONENT development)

# For pkg-config: what librondo.a needs beside what fmt's and Highway's own files say.
set(RONDO_PC_LIBRARIES "-lstdc++ -lm -pthread -ldl")
if(RONDO_WITH_CUDA)
  get_target_property(cudart CUDA::cudart_static IMPORTED_LOCATION)
  get_filename_component(RONDO_CUDA_LIBRARIES ${cudart} DIRECTORY)
  string(APPEND RONDO_PC_LIBRARIES " -L${RONDO_CUDA_LIBRARIES} -lcudart_static -lcublasLt -ldl -lrt")
  # NVIDIA's packages put libcublasLt where the loader does not always look.
  set_target_properties(rondo_shared PROPERTIES INSTALL_RPATH ${RONDO_CUDA_LIBRARIES})
endif()
file(RELATIVE_PATH RONDO_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" RONDO_PC_PREFIX ${RONDO_PC_PREFIX})
configure_file(${CMAKE_CURRENT_LIST_DIR}/package/rondo.pc.in rondo.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/rondo.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

# Once all of this folder is read, since the program comes later.
cmake_language(DEFER CALL include ${PROJECT_SOURCE_DIR}/cmake/package/debian.cmake)
