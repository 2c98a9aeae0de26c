#!/usr/bin/env bash
# Every code block of docs/embedding.md, indented ones too: extracted, compiled, run, and compared with the text block behind it.
#   guide_test.sh SOURCE BUILD C++-COMPILER C-COMPILER
# A cpp or c block with main() is a program; other cpp blocks are bodies of functions that get an engine, other c blocks have
# such a function, `piece`, in them. cmake blocks build the programs, sh blocks run beside them. Indented blocks are commands for
# the top of the source tree; they run where this build is the folder that they name.
set -euo pipefail
export CMAKE_GENERATOR=Ninja  # make need not be installed
source=$1 build=$2 cxx=$3 cc=$4
here=$source/tests/embedding
work=$build/guide_test
blocks=$work/blocks

die() { printf 'docs/embedding.md: %s\n' "$*" >&2; exit 1; }

rm -rf "$work" && mkdir -p "$blocks" "$work/bin"
awk -v dir="$blocks" '
  /^```/ && file { close(file); file = ""; next }
  /^```/ { file = sprintf("%s/%02d.%s", dir, ++n, substr($0, 4)); printf "" > file; next }
  file { print > file; next }
  !/^    / { top = ""; next }
  !top { top = sprintf("%s/%02d.top", dir, ++n) }
  { print substr($0, 5) > top }' "$source/docs/embedding.md"
for block in "$blocks"/*; do
  case $block in
    *.cpp | *.c | *.cmake | *.sh | *.text | *.top) ;;
    *) die "block $(basename "$block"): expected cpp, c, cmake, sh or text after the fence" ;;
  esac
done

has_main() { grep -q '^int main(' "$1"; }
number() { basename "$1" | cut -d. -f1; }

# The programs: what cmake and sh blocks build, from a folder in which the guide's names lie.
mkdir "$work/client"
ln -s "$source" "$work/client/rondo"
ln -s "$build" "$work/client/build"
for block in "$blocks"/*.cpp; do if has_main "$block"; then cp "$block" "$work/client/client.cc"; fi; done
for block in "$blocks"/*.c; do if has_main "$block"; then cp "$block" "$work/client/client.c"; fi; done

# A project that fetches rondo links the library that this build has made, by its own command: to compile it once more would show
# nothing that this build has not shown.
link_with_this_library() {
  local out=$1 library object
  object=$(ninja -C "$out" -t commands client | sed -n 's/.* -o \([^ ]*client\.cc\.o\) .*/\1/p')
  ninja -C "$out" "$object" || return
  library=$(ninja -C "$out" -t commands client | grep -oE '[^ ]*librondo\.a' | sort -u)
  mkdir -p "$(dirname "$out/$library")" && cp "$build/librondo.a" "$out/$library" || return
  (cd "$out" && bash -c "$(ninja -t commands client | tail -n 1)")
}

cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }  # what this build was configured with

export PREFIX=$work/prefix LD_LIBRARY_PATH=$work/prefix/lib
ran=0 clients=()
for block in "$blocks"/*; do
  case $block in
    *.top)
      if [[ $(realpath "$build") == $(realpath "$source/build") ]]; then
        (cd "$source" && bash -euo pipefail "$block" >"$work/log" 2>&1) || die "$(basename "$block"): $(cat "$work/log")"
      else
        echo "left out: $(cat "$block"): this build is $build"
      fi
      ;;
    *.sh) (cd "$work/client" && bash -euo pipefail "$block" >"$work/log" 2>&1) || die "$(basename "$block"): $(cat "$work/log")" ;;
    *.cmake)
      project=$work/$(number "$block")
      mkdir "$project" && cp -P "$work/client/client.cc" "$work/client/rondo" "$project" && cp "$block" "$project/CMakeLists.txt"
      cmake -S "$project" -B "$project/out" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_PREFIX_PATH="$PREFIX" \
        -DRONDO_CUDA="$(cached RONDO_CUDA)" -DRONDO_NVCC="$(cached RONDO_NVCC)" \
        >"$work/log" 2>&1 || die "$(basename "$block"): $(cat "$work/log")"
      if grep -q FetchContent "$block"; then
        link_with_this_library "$project/out" >"$work/log" 2>&1 || die "$(basename "$block"): $(cat "$work/log")"
      else
        cmake --build "$project/out" >"$work/log" 2>&1 || die "$(basename "$block"): $(cat "$work/log")"
      fi
      clients+=("$project/out/client")
      ;;
    *) continue ;;
  esac
  ran=$((ran + 1))
done

# All pieces of C++ in one program.
{
  cat "$here/guide_pieces.h"
  table=
  for block in "$blocks"/*.cpp; do
    has_main "$block" && continue
    n=$(number "$block")
    printf 'static void piece_%s([[maybe_unused]] rondo::Engine& engine) {\n#line 1 "block %s"\n' "$n" "$n"
    cat "$block"
    printf '}\n'
    table+="{\"$n\", piece_$n}, "
  done
  printf '#line 1 "table"\nint main(int, char** argv) { return run_piece({%s}, argv[1]); }\n' "$table"
} >"$work/pieces.cc"
flags=(-I"$PREFIX/include" -Wall -Wextra -Werror)
libraries=(-L"$PREFIX/lib" -lrondo -pthread)
"$cxx" -std=c++20 "${flags[@]}" "$work/pieces.cc" "${libraries[@]}" -o "$work/bin/pieces"

cd "$source"  # models/demo
first=$(for block in "$blocks"/*.cpp; do if has_main "$block"; then number "$block"; fi; done | head -n 1)
for client in "${clients[@]}"; do
  [[ $(timeout 60 "$client" 2>&1) == $(cat "$blocks/$(printf '%02d' $((10#$first + 1))).text") ]] ||
    die "$client: expected what block $first prints"
done
for block in "$blocks"/*.cpp "$blocks"/*.c; do
  n=$(number "$block")
  expected=$blocks/$(printf '%02d' $((10#$n + 1))).text
  [[ -e $expected ]] || die "block $n: expected a text block behind it"
  if [[ $block == *.cpp ]] && has_main "$block"; then
    program=("$work/client/client")
  elif [[ $block == *.cpp ]]; then
    program=("$work/bin/pieces" "$n")
  elif has_main "$block"; then
    program=("$work/client/client-in-c")
  else
    cat "$here/guide_pieces_c.h" "$block" - <<<'int main(void) { return run_piece(piece); }' >"$work/bin/$n.c"
    "$cc" -std=c11 -pedantic "${flags[@]}" "$work/bin/$n.c" "${libraries[@]}" -o "$work/bin/$n"
    program=("$work/bin/$n")
  fi
  timeout 60 "${program[@]}" >"$work/found" 2>&1 || die "block $n: it ended with $?: $(cat "$work/found")"
  # A text block ends with a line's end, whatever the output does.
  if [[ $(cat "$expected") != "$(cat "$work/found")" ]]; then
    die "block $n: expected: $(cat "$expected") found: $(cat "$work/found")"
  fi
  ran=$((ran + 1))
done

blocks_there=$(find "$blocks" -type f ! -name '*.text' | wc -l)
[[ $ran -eq $blocks_there && $ran -gt 15 ]] || die "expected all of $blocks_there blocks to run, $ran did"
echo "$ran blocks of docs/embedding.md ran"
