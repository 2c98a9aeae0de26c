#!/usr/bin/env bash
# What other projects get, from the outside: one stage a call, after `installed`, which the others stand on.
#   package_test.sh STAGE SOURCE BUILD C++-COMPILER C-COMPILER
set -euo pipefail
export CMAKE_GENERATOR=Ninja  # make need not be installed
stage=$1 source=$2 build=$3 cxx=$4 cc=$5
work=$build/package_test
prefix=$work/installed
lib=$prefix/lib

die() { printf '%s\n' "$*" >&2; exit 1; }

# expect TEXT FILE: the file has that line.
expect() { grep -qxF -- "$1" "$2" || die "expected the line \"$1\", found: $(cat "$2")"; }

fresh() { rm -rf "${1:?}" && mkdir -p "$1"; }

# Both examples, as a user runs them.
run_examples() {
  printf '36+79=\nreverse stressed=\nsay 773=\n' | "$1/server" "$source/models/demo" >"$1/server.out"
  expect '[1] 36+79=115 (stop)' "$1/server.out"
  expect '[2] reverse stressed=desserts (stop)' "$1/server.out"
  expect '[3] say 773=seven hundred seventy-three (stop)' "$1/server.out"
  "$1/complete" "$source/models/demo" 'sort 9 8 7 6=' >"$1/complete.out"
  expect '6 7 8 9' "$1/complete.out"
  if "$1/complete" /nonexistent x 2>"$1/error.out"; then die "expected a missing checkpoint to be an error"; fi
  grep -q '/nonexistent' "$1/error.out" || die "expected the path in the message, found: $(cat "$1/error.out")"
}

# build_examples DIR OPTION...: by find_package.
build_examples() {
  local dir=$1
  shift
  fresh "$dir"
  cmake -S "$source/examples" -B "$dir" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_C_COMPILER="$cc" \
    -DCMAKE_PREFIX_PATH="$prefix" "$@" >"$dir/log"
  cmake --build "$dir" -j2 >>"$dir/log" || die "$(cat "$dir/log")"
}

needs_shared_library() { ldd "$1" | grep >/dev/null 'librondo\.so\.[0-9.]* => '"$lib"; }

with_text() { [[ -e $build/include/rondo/text/tokenizer.h ]]; }

installed() {
  fresh "$prefix"
  cmake --install "$build" --prefix "$prefix" >"$work/install.log"
  local file
  for file in bin/rondo include/rondo/engine.h include/rondo/rondo.h include/rondo/buffers/error.h lib/librondo.a \
    lib/librondo.so lib/pkgconfig/rondo.pc lib/cmake/rondo/rondo-config.cmake; do
    [[ -e $prefix/$file ]] || die "expected $file under the prefix, found: $(cd "$prefix" && find . -type f)"
  done
  [[ -z $(find "$prefix/include" -type l) ]] || die "expected headers, found links into the source tree"
  local headers=3
  if with_text; then headers=5; fi
  [[ $(find "$prefix/include" -name '*.h' | wc -l) -eq $headers ]] ||
    die "expected $headers headers: $(find "$prefix/include")"
  ! grep -rlE "$source|$build" "$lib/cmake" "$lib/pkgconfig" || die "expected no paths of the source tree in these"
  "$prefix/bin/rondo" generate --model "$source/models/demo" --prompt '36+79=' >"$work/rondo.out"
  expect '115' "$work/rondo.out"
}

# What is installed is built by the targets that scripts/demo names, so that both may follow each other.
demo_installs() {
  [[ -e $build/build.ninja ]] || { echo "no ninja to ask"; return; }
  local targets installed name
  targets=$(sed -n 's/^build build //p' "$source/scripts/demo")
  # shellcheck disable=SC2086  # targets are words
  ninja -C "$build" -t commands $targets >"$work/demo-commands"
  installed=$(grep -oE "\"$build/(lib)?rondo[^/\"]*\"" "$build/cmake_install.cmake" | sed 's,.*/,,; s,"$,,' |
    grep -vE '\.(cmake|pc)$' | sort -u)
  [[ $(wc -w <<<"$installed") -ge 4 ]] || die "expected the program and both libraries, found: $installed"
  for name in $installed; do
    grep -qF " $name " "$work/demo-commands" || die "expected scripts/demo to build $name, which is installed; it builds: $targets"
  done
}

# The shared library shows what the public headers declare: no more, no less.
exports() {
  nm -DC --defined-only "$lib/librondo.so" | cut -d' ' -f3- | sort -u >"$work/exports"
  local strange missing=() name
  strange=$(grep -vE '^(rondo_[a-z_]+$|rondo::(Engine::|StepTimes::bounds$|[a-z_]+(\[abi:cxx11\])?\()|(typeinfo|typeinfo name|vtable) for rondo::Error$|rondo::Error::)' \
    "$work/exports" || true)
  [[ -z $strange ]] || die "expected the public headers' symbols alone, found: $strange"
  while read -r name; do
    grep -qx "$name" "$work/exports" || missing+=("$name")
  done < <(sed -n 's/^[a-z].*[ *]\(rondo_[a-z_]*\)(.*/\1/p' "$source/runner/rondo.h" | grep -v '^rondo_default_')
  [[ ${#missing[@]} -eq 0 ]] || die "expected what rondo.h declares, missing: ${missing[*]}"
  [[ $(grep -c '^rondo_' "$work/exports") -ge 20 ]] || die "expected the C interface, found: $(cat "$work/exports")"
  grep -q '^rondo::Engine::step()' "$work/exports" || die "expected rondo::Engine::step() among the symbols"
  readelf -d "$lib/librondo.so" | grep >/dev/null 'SONAME.*librondo\.so\.[0-9]*\.[0-9]*\]' || die "expected a soname with a version"
}

examples_shared() {
  build_examples "$work/examples"
  needs_shared_library "$work/examples/server" || die "expected the shared library: $(ldd "$work/examples/server")"
  run_examples "$work/examples"
}

examples_static() {
  build_examples "$work/examples-static" -DBUILD_SHARED_LIBS=OFF
  ! needs_shared_library "$work/examples-static/server" || die "expected the static library"
  run_examples "$work/examples-static"
}

# A project in C alone, static and shared.
c_alone() {
  local dir=$work/c-alone kind
  fresh "$dir"
  cp "$source/examples/complete.c" "$dir"
  cat >"$dir/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(c_alone LANGUAGES C)
find_package(rondo REQUIRED COMPONENTS ${KIND})
add_executable(complete complete.c)
target_link_libraries(complete PRIVATE rondo::rondo)
CMAKE
  for kind in static shared; do
    cmake -S "$dir" -B "$dir/$kind" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$prefix" -DKIND=$kind >"$dir/log"
    cmake --build "$dir/$kind" >>"$dir/log" 2>&1 || die "$(cat "$dir/log")"
    "$dir/$kind/complete" "$source/models/demo" '36+79=' >"$dir/out"
    expect '115' "$dir/out"
  done
  if cmake -S "$dir" -B "$dir/none" -DCMAKE_PREFIX_PATH="$prefix" -DKIND=gpu >"$dir/log" 2>&1; then
    die "expected an unknown component to be an error"
  fi
  grep -q 'component static or shared' "$dir/log" || die "expected a reason, found: $(cat "$dir/log")"
}

# rondo::text of the installed tree, beside the static library and the shared one.
text() {
  local dir=$work/text kind
  fresh "$dir"
  cat >"$dir/client.cc" <<'CC'
#include <rondo/engine.h>
#include <rondo/text/tokenizer.h>
#include <rondo/text/utf8.h>

#include <cstdio>

int main(int, char** arguments) {
  const rondo::Tokenizer tokenizer = rondo::Tokenizer::open(arguments[1]);
  rondo::Utf8Stream stream;
  std::string text;
  for (int32_t id : tokenizer.encode("Grüße, world")) text += stream.take(tokenizer.bytes(id));
  std::printf("%s, by %s\n", (text + stream.end()).c_str(), rondo::version());
  try {
    rondo::Tokenizer::open("/nonexistent");
  } catch (const rondo::Error& error) {
    std::printf("%s\n", error.what());
  }
}
CC
  cat >"$dir/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(text_client LANGUAGES CXX)
find_package(rondo REQUIRED COMPONENTS ${KIND} text)
add_executable(client client.cc)
target_link_libraries(client PRIVATE rondo::text)
CMAKE
  for kind in static shared; do
    cmake -S "$dir" -B "$dir/$kind" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_PREFIX_PATH="$prefix" -DKIND=$kind >"$dir/log" ||
      die "$(cat "$dir/log")"
    cmake --build "$dir/$kind" >>"$dir/log" 2>&1 || die "$(cat "$dir/log")"
    "$dir/$kind/client" "$source/tests/tokenizers/qwen2" >"$dir/out"
    expect "Grüße, world, by $("$prefix/bin/rondo" --version | grep -oE '[0-9.]+')" "$dir/out"
    grep -q '/nonexistent' "$dir/out" || die "expected the path in the message, found: $(cat "$dir/out")"
  done
  needs_shared_library "$dir/shared/client" || die "expected the shared library: $(ldd "$dir/shared/client")"
  ! needs_shared_library "$dir/static/client" || die "expected the static library"
}

# vcpkg.json names a port for every library that CMake looks for, and the text feature those of RONDO_TEXT.
vcpkg() {
  local name port
  while read -r name; do
    case $name in
      CUDAToolkit | PkgConfig | Threads | rondo) continue ;;
      CLI11) port=cli11 ;;
      GTest) port=gtest ;;
      HWY) port=highway ;;
      nlohmann_json) port=nlohmann-json ;;
      libpcre2-8) port=pcre2 ;;
      libutf8proc) port=utf8proc ;;
      *) port=$name ;;
    esac
    grep -q "\"$port\"" "$source/vcpkg.json" || die "expected a port for $name in vcpkg.json, found no \"$port\""
  done < <(grep -hoE 'find_package\([A-Za-z0-9_]+|lib(pcre2-8|utf8proc)\b' "$source"/CMakeLists.txt "$source"/cmake/*.cmake \
    "$source"/{tests,bench}/CMakeLists.txt | sed 's/find_package(//' | sort -u)
  [[ -n ${port:-} ]] || die "expected CMake to look for libraries, found none"
}

pkg_config() {
  local dir=$work/pkg-config
  fresh "$dir"
  export PKG_CONFIG_PATH=$lib/pkgconfig
  [[ $(pkg-config --modversion rondo) == "$("$prefix/bin/rondo" --version | grep -oE '[0-9.]+')" ]] ||
    die "expected the version of the program, found $(pkg-config --modversion rondo)"
  # shellcheck disable=SC2046  # flags are words
  {
    "$cxx" -std=c++20 "$source/examples/server.cc" $(pkg-config --cflags --libs rondo) -pthread -o "$dir/server"
    "$cc" -std=c11 -Wall -Wextra -pedantic -Werror "$source/examples/complete.c" $(pkg-config --cflags --libs rondo) \
      -o "$dir/complete"
  }
  LD_LIBRARY_PATH=$lib run_examples "$dir"
  # C with the static library: the C++ runtime and all else come from the file.
  fresh "$dir-static" && cp "$dir/server" "$dir-static"
  # shellcheck disable=SC2046
  "$cc" -std=c11 "$source/examples/complete.c" $(pkg-config --cflags rondo) \
    $(pkg-config --static --libs rondo | sed 's/-lrondo/-l:librondo.a/') -o "$dir-static/complete"
  ! needs_shared_library "$dir-static/complete" || die "expected the static library"
  LD_LIBRARY_PATH=$lib run_examples "$dir-static"
}

# rondo inside another project: neither's targets, options and folders get in the other's way. The library itself is not
# built once more; the project's own objects are, and the link is looked at.
fetch_content() {
  local dir=$work/fetch-content
  fresh "$dir"
  mkdir "$dir/kernels"
  cp "$source/examples/complete.c" "$dir"
  printf '#error "the folder of the project around"\n' >"$dir/kernels/ops.h"
  printf '#if __has_include("kernels/model.h")\n#error "a folder of the library"\n#endif\n' >"$dir/server.cc"
  cat "$source/examples/server.cc" >>"$dir/server.cc"
  cat >"$dir/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.25)
project(around LANGUAGES C CXX)
include(FetchContent)
FetchContent_Declare(rondo SOURCE_DIR $source)
FetchContent_MakeAvailable(rondo)
include_directories(BEFORE .)
add_executable(complete complete.c)
add_executable(server server.cc)
target_link_libraries(complete PRIVATE rondo::rondo)
target_link_libraries(server PRIVATE rondo::rondo)
if(TARGET rondo OR TARGET cpu_test OR CMAKE_BUILD_TYPE)
  message(FATAL_ERROR "expected the library alone, and no build type")
endif()
CMAKE
  local shared
  for shared in OFF ON; do
    cmake -S "$dir" -B "$dir/$shared" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_C_COMPILER="$cc" -DRONDO_CUDA=OFF \
      -DBUILD_SHARED_LIBS=$shared >"$dir/log"
    ninja -C "$dir/$shared" -t commands server >"$dir/commands"
    grep -q -- '-O3.*runner/engine.cc$' "$dir/commands" || die "expected the library to be optimised"
  done
  ninja -C "$dir/OFF" CMakeFiles/server.dir/server.cc.o CMakeFiles/complete.dir/complete.c.o >>"$dir/log" ||
    die "$(cat "$dir/log")"
  tail -n 1 "$dir/commands" | grep >/dev/null 'librondo\.so' || die "expected librondo.so, found: $(tail -n 1 "$dir/commands")"
  ninja -C "$dir/OFF" -t commands server | tail -n 1 | grep -E >/dev/null 'librondo\.a .*libfmt.*hwy' || die "expected librondo.a and what it needs"
  ! ninja -C "$dir/OFF" -t commands all | grep >/dev/null 'librondo\.so' || die "expected no shared library that nobody asked for"
}

debian() {
  local dir=$work/debian package
  fresh "$dir"
  (cd "$dir" && cpack --config "$build/CPackConfig.cmake" -G DEB >log) || die "$(cat "$dir/log")"
  for package in "$dir"/*.deb; do dpkg-deb -c "$package" | sed "s/^/$(dpkg-deb -f "$package" Package) /"; done >"$dir/files"
  local line
  for line in 'rondo .*\./usr/bin/rondo$' 'librondo-dev .*\./usr/include/rondo/engine\.h$' \
    'librondo-dev .*\./usr/include/rondo/rondo\.h$' 'librondo-dev .*/librondo\.a$' 'librondo-dev .*/rondo\.pc$' \
    'librondo-dev .*/rondo-config\.cmake$' 'librondo-dev .*/librondo\.so -> ' 'librondo[0-9.]* .*/librondo\.so\.[0-9.]*$'; do
    grep -qE "^$line" "$dir/files" || die "expected $line in a package, found: $(cat "$dir/files")"
  done
  for package in "$dir"/rondo_*.deb "$dir"/librondo[0-9]*.deb; do
    dpkg-deb -f "$package" Depends | grep >/dev/null 'libc6' || die "expected what it depends on: $(dpkg-deb -f "$package")"
  done
  dpkg-deb -f "$dir"/librondo-dev_*.deb Depends | grep >/dev/null 'librondo[0-9.]* (= ' || die "expected the library's own version"
  # Unpacked, the three are a whole: the program runs, and a program can be built and run.
  for package in "$dir"/*.deb; do dpkg-deb -x "$package" "$dir/root"; done
  "$dir/root/usr/bin/rondo" generate --model "$source/models/demo" --prompt '36+79=' >"$dir/out" 2>"$dir/log"
  expect '115' "$dir/out"
  # shellcheck disable=SC2046
  "$cc" -std=c11 "$source/examples/complete.c" \
    $(PKG_CONFIG_PATH=$dir/root/usr/lib/pkgconfig pkg-config --cflags --libs rondo) -o "$dir/complete"
  LD_LIBRARY_PATH=$dir/root/usr/lib "$dir/complete" "$source/models/demo" '36+79=' >"$dir/out"
  expect '115' "$dir/out"
}

mkdir -p "$work"
"$stage"
