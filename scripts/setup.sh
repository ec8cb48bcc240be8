# What ./skipway and scripts/test share: packages, Python environments, building. Sourced, not run;
# expects `set -euo pipefail` and $root. All it says goes to stderr, the details to build/setup.log.

build_packages=(g++ cmake ninja-build python3-venv ca-certificates libjpeg-dev libpng-dev
  libarchive-dev libcurl4-openssl-dev libssl-dev libcli11-dev nlohmann-json3-dev libhwy-dev)
# Without these all still works: compiling again is slower, and there is no stand-in data set.
optional_packages=(ccache dataset-fashion-mnist)

# libtorch_cpu.so links only these two of the NVIDIA wheels: 0.5 GB to download instead of 4.7 GB.
torch_wheels="--no-deps torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85"
torch_wheels_cuda="torch==2.11.0"

log=$root/build/setup.log

say() { printf 'skipway: %s\n' "$*" >&2; }

# give_up CODE TEXT…: the exit codes are the program's: 1 bug, 4 environment, 9 disk or permission.
give_up() {
  local code=$1
  shift
  say "$@"
  exit "$code"
}

# take_turns DESCRIPTOR WHAT: locks its open file until it is closed, once no other WHAT has it.
take_turns() {
  command -v flock >/dev/null || return 0
  flock -n "$1" || { say "waiting for another $2 in $root" && flock "$1"; }
}

begin_setup() {
  { mkdir -p "$root/build" && : >>"$log"; } 2>/dev/null ||
    give_up 9 "cannot write to $root/build; is the folder yours, and is the disk full?"
  if [[ -n ${SKIPWAY_TORCH:-} ]]; then
    local given=$SKIPWAY_TORCH
    SKIPWAY_TORCH=$(realpath -e "$given" 2>/dev/null) || give_up 4 "expected the folder of a LibTorch at SKIPWAY_TORCH, got $given, which is not there"
  fi
  exec 9>"$root/build/setup.lock"
  take_turns 9 set-up  # two at once would tread on each other
  : >"$log"
  trap 'echo >&2; exit 130' INT  # after the command that runs, which got the signal too
  trap 'echo >&2; exit 143' TERM
}

end_setup() {
  trap - INT TERM
  exec 9>&-  # the program must not hold the lock
}

# stage CODE TEXT COMMAND…: one line on the screen with the time it took; ends all with CODE, or
# with 9 when the disk was the reason, when the command fails.
stage() {
  local code=$1 text=$2 start=$SECONDS log_start=$(($(wc -c <"$log") + 1)) output
  shift 2
  printf 'skipway: %s … ' "$text" >&2
  printf '== %s\n' "$text" >>"$log"
  # What it says is looked at below, so in English.
  if LC_ALL=C.UTF-8 "$@" 3>&2 >>"$log" 2>&1 </dev/null; then
    printf '%d s\n' $((SECONDS - start)) >&2
    return
  fi
  printf 'failed\n' >&2
  output=$(tail -c "+$log_start" "$log")
  tail -n 15 <<<"$output" | sed 's/^/    /' >&2
  say "the whole output is in $log"
  if grep -qE 'No space left|Disk quota exceeded|Read-only file system|Permission denied' \
    <<<"$output"; then
    give_up 9 "the disk is full or may not be written; $(free_mb "$root") MB are free at $root"
  elif grep -qE 'Could not resolve|Temporary failure|Network is unreachable|NewConnectionError|ConnectTimeout|ProxyError' \
    <<<"$output"; then
    give_up 4 "no network, or the package server cannot be reached; start again when it can be"
  elif grep -q 'Killed signal' <<<"$output"; then
    give_up 4 "the compiler ran out of memory; close other programs and start again"
  fi
  exit "$code"
}

free_mb() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

missing_packages() {
  local package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ?i* ]] || echo "$package"
  done
}

apt_install() {
  local run=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive)
  local apt=("${run[@]}" apt-get -q -y -o DPkg::Lock::Timeout=300)
  local install=("${apt[@]}" install --no-install-recommends "$@")
  # The first try fails where the package lists are old or were never fetched, or an earlier one was interrupted.
  "${install[@]}" || { "${run[@]}" dpkg --configure -a && "${apt[@]}" update && "${install[@]}"; }
}

# install_packages NAME…: these and the optional ones, as far as they are missing.
install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system; needed are the likes of: $*; going on with what is here"
    return
  fi
  local needed wished=() missing as_root=()
  mapfile -t needed < <(missing_packages "$@")
  # They are tried once, and again by a set-up that is asked for.
  local tried=$root/build/.optional-tried
  [[ -e $tried ]] || mapfile -t wished < <(missing_packages "${optional_packages[@]}")
  missing=(${needed[@]+"${needed[@]}"} ${wished[@]+"${wished[@]}"})
  ((${#missing[@]})) || return 0
  if (($(id -u) != 0)); then
    as_root=(sudo)
    if ! sudo -n true 2>/dev/null && ! { [[ -t 0 && -t 2 ]] && command -v sudo >/dev/null &&
      say "sudo is needed to install: ${missing[*]}" && sudo -v; }; then
      if ((${#needed[@]} == 0)); then
        say "going on without ${missing[*]}"
        touch "$tried"
        return
      fi
      say "Debian packages are missing, and only an administrator may install them. Ask one to run:"
      printf '    apt-get install --no-install-recommends %s\n' "${missing[*]}" >&2
      exit 4
    fi
  fi
  ((${#needed[@]} == 0)) || stage 4 "installing ${needed[*]}" apt_install "${needed[@]}"
  ((${#wished[@]} == 0)) || apt_install "${wished[@]}" >>"$log" 2>&1 </dev/null || say "going on without ${wished[*]}"
  touch "$tried"
}

# .skipway goes last: what is left of a removal that was stopped is still known to be ours.
remove_venv() {
  [[ ! -e $1 ]] || echo unfinished >"$1/.skipway"
  find "$1" -mindepth 1 -maxdepth 1 ! -name .skipway -exec rm -rf {} + 2>/dev/null || true
  rm -rf "$1"
}

# make_venv FOLDER TEXT MEGABYTES PIP-ARGUMENTS: FOLDER/.skipway tells what is in it, or that an
# earlier set-up did not get to the end.
make_venv() {
  local venv=$1 text=$2 megabytes=$3 arguments=$4 python=/usr/bin/python3
  [[ $(cat "$venv/.skipway" 2>/dev/null) != "$arguments" ]] || return 0
  [[ -x $python ]] || python=python3
  if [[ -e $venv && ! -e $venv/.skipway ]]; then
    say "$venv was made by someone else; moving it to $venv.old"
    mv -T --backup=numbered "$venv" "$venv.old"
  fi
  [[ $(cat "$venv/.skipway" 2>/dev/null) != unfinished ]] || remove_venv "$venv"
  (($(free_mb "$root") >= megabytes)) ||
    give_up 9 "$text needs $megabytes MB of disk, $(free_mb "$root") MB are free at $root"
  # What was built against it would not start any more, or with another interpreter's files.
  [[ $venv != "$root/.venv" ]] || rm -f "$root"/build/*/.built
  remove_venv "$venv"
  mkdir "$venv"
  echo unfinished >"$venv/.skipway"
  stage 4 "Python environment $(basename "$venv")" "$python" -m venv "$venv"
  # shellcheck disable=SC2086 # the arguments are words; downloads go to the disk that was checked
  stage 4 "$text" env TMPDIR="$root/build" "$venv/bin/python" -I -m pip install $arguments
  echo "$arguments" >"$venv/.skipway"
}

install_torch() {
  [[ -z ${SKIPWAY_TORCH:-} ]] || return 0
  local have
  have=$(cat "$root/.venv/.skipway" 2>/dev/null || true)
  if [[ ${SKIPWAY_CUDA:-} == 1 || $have == "$torch_wheels_cuda" ]]; then
    make_venv "$root/.venv" "LibTorch with CUDA (4.7 GB to download)" 15000 "$torch_wheels_cuda"
  else
    make_venv "$root/.venv" "LibTorch (0.5 GB to download)" 3000 "$torch_wheels"
  fi
}

configure() {
  local preset=$1 cache=$root/build/$1/CMakeCache.txt fresh=()
  # A checkout that was moved or copied: CMake would refuse the old paths.
  if [[ -e $cache ]] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache"; then
    fresh=(--fresh)
  fi
  (cd "$root" && cmake --preset "$preset" ${fresh[@]+"${fresh[@]}"} \
    "-DSKIPWAY_TORCH=${SKIPWAY_TORCH:-}")
}

compile() {
  local dir=$1 target=$2 line jobs free_kb limit memory_jobs
  jobs=$(nproc)
  # A file takes up to 1.5 GB to compile. A container may have less memory than the machine.
  free_kb=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || true)
  [[ $limit =~ ^[0-9]+$ ]] && ((limit / 1024 < free_kb)) && free_kb=$((limit / 1024))
  memory_jobs=$((free_kb / 1500000 + 1))
  cmake --build "$dir" --target "$target" -j "$((jobs < memory_jobs ? jobs : memory_jobs))" 2>&1 |
    while IFS= read -r line; do
      printf '%s\n' "$line"
      if [[ -t 3 && $line =~ ^\[([0-9]+/[0-9]+)\] ]]; then  # 3 is the screen
        printf '\rskipway: building %s … ' "${BASH_REMATCH[1]}" >&3
      fi
    done
}

# build PRESET TARGET
build() {
  local dir=$root/build/$1 made_for="$root ${SKIPWAY_TORCH:-}"
  if command -v ccache >/dev/null; then  # compiles nothing where it cannot write
    local cache
    { cache=$(ccache -k cache_dir) && mkdir -p "$cache/tmp" && [[ -w $cache/tmp ]]; } 2>/dev/null || export CCACHE_DISABLE=1
  fi
  if [[ $(cat "$dir/.built" 2>/dev/null) != "$made_for" || ! -e $dir/build.ninja || $root/CMakePresets.json -nt $dir/.built ]]; then
    rm -f "$dir/.built"  # of what was configured before
    stage 4 "configuring" configure "$1"
  fi
  echo "$made_for" >"$dir/.building"  # its time is the start: later changes of sources are newer
  stage 1 "building" compile "$dir" "$2"
  mv "$dir/.building" "$dir/.built"
}
