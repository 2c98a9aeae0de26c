# Shared by scripts/demo, scripts/test and scripts/gpu; sourced by bash, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
JOBS=$(nproc)

say() { printf '%s\n' "$*"; }

# Whether a Debian package's part is there: a program by its name, a library by dpkg or by its header.
have_package() {
  case $1 in
    g++ | cmake | pkg-config) command -v "$1" >/dev/null && return ;;
    ninja-build) command -v ninja >/dev/null && return ;;
  esac
  if command -v dpkg-query >/dev/null; then
    [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == "install ok installed" ]]
    return
  fi
  case $1 in
    libhwy-dev) local header=hwy/highway.h ;;
    libcli11-dev) local header=CLI/CLI.hpp ;;
    libfmt-dev) local header=fmt/format.h ;;
    nlohmann-json3-dev) local header=nlohmann/json.hpp ;;
    libpcre2-dev) local header=pcre2.h ;;
    libutf8proc-dev) local header=utf8proc.h ;;
    libgtest-dev) local header=gtest/gtest.h ;;
    libbenchmark-dev) local header=benchmark/benchmark.h ;;
    *) return 1 ;;
  esac
  [[ -e /usr/include/$header || -e /usr/local/include/$header ]]
}

# need_packages PACKAGE...: installs what is missing with apt; without root it names the line to run and exits 2.
need_packages() {
  local missing=() package
  for package in "$@"; do have_package "$package" || missing+=("$package"); done
  [[ ${#missing[@]} -eq 0 ]] && return
  if ! command -v apt-get >/dev/null; then
    say "rondo: expected ${missing[*]} (Debian's names), and apt-get to install them, found neither" >&2
    exit 2
  fi
  if [[ $(id -u) -ne 0 ]]; then
    say "rondo: some packages are missing; as root run:" >&2
    say "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 2
  fi
  say "Installing ${missing[*]}"
  apt-get update -q >/dev/null || say "apt-get update failed; trying with the lists that are there" >&2
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null; then
    say "rondo: apt-get could not install ${missing[*]}" >&2
    exit 2
  fi
}

PACKAGES=(g++ cmake ninja-build pkg-config libhwy-dev libcli11-dev libfmt-dev nlohmann-json3-dev
          libpcre2-dev libutf8proc-dev)
TEST_PACKAGES=(libgtest-dev libbenchmark-dev)

find_nvcc() {
  local nvcc
  for nvcc in "${CUDACXX:-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc; do
    if [[ -n $nvcc ]] && command -v "$nvcc" >/dev/null; then
      command -v "$nvcc"
      return
    fi
  done
}

# Sets CUDA_OPTION to ON or OFF, NVCC to the compiler found, and BACKENDS to the line that says which and why.
choose_backends() {
  local nvcc release
  CUDA_OPTION=OFF
  NVCC=
  nvcc=$(find_nvcc)
  if [[ -z $nvcc ]]; then
    BACKENDS="Backends: CPU alone (no nvcc on the PATH, in CUDACXX or in /usr/local/cuda/bin)"
    return
  fi
  release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || true
  if [[ -z $release ]]; then
    BACKENDS="Backends: CPU alone ($nvcc does not say its release)"
    return
  fi
  local home
  home=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  if [[ ${release%%.*} -lt 12 ]]; then
    BACKENDS="Backends: CPU alone ($nvcc is release $release; C++20 needs 12 or newer)"
  elif [[ -z $(find -L "$home/include" "$home"/targets/*/include /usr/include -maxdepth 1 -name cublasLt.h 2>/dev/null) ]]; then
    BACKENDS="Backends: CPU alone ($nvcc comes without cublasLt.h)"
  else
    CUDA_OPTION=ON
    NVCC=$nvcc
    BACKENDS="Backends: CPU and CUDA (nvcc $release, $nvcc)"
  fi
}

# configure SOURCE DIR OPTION...: a folder that was configured before keeps its generator. Sources are compiled a dozen at a
# time, in half the time, or a few, where cores would else wait for the last dozen; CMake's default, one at a time, is for
# those who change one.
configure() {
  local source=$1 dir=$2 log=$2/configure.log generator=() together=$((JOBS > 4 ? 4 : 12))
  shift 2
  mkdir -p "$dir"
  if [[ ! -e $dir/CMakeCache.txt ]] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  # CMake is told which nvcc: even with the CUDA backend off, the tests on the host want that toolkit's headers.
  if ! cmake -S "$source" -B "$dir" "${generator[@]}" -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE="$together" \
    ${NVCC:+-DRONDO_NVCC="$NVCC"} "$@" >"$log" 2>&1; then
    cat "$log" >&2
    say "rondo: CMake could not configure $dir; its output is above" >&2
    exit 1
  fi
}

# build DIR TARGET...: everything where no target is named.
build() {
  local dir=$1 targets=()
  shift
  [[ $# -gt 0 ]] && targets=(--target "$@")
  cmake --build "$dir" --parallel "$JOBS" "${targets[@]}"
}
