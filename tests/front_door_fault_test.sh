#!/usr/bin/env bash
# What ./skipway does when set-up goes well and when it does not: with a CMake, a package manager and
# a disk that only pretend. Not the real set-up; a fresh machine is the test of that.
#   front_door_fault_test.sh SOURCE-FOLDER
set -euo pipefail

source_folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checkout=$work/checkout
calls=$work/calls
failures=0

# tool NAME: makes a command of the text on stdin that comes before the machine's own.
tool() {
  mkdir -p "$work/bin"
  { echo '#!/usr/bin/env bash' && cat; } >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

# A checkout with the two scripts, a source file, and tools that all work.
fresh_checkout() {
  rm -rf "$checkout" "$work/bin" "$calls"
  mkdir -p "$checkout/scripts" "$checkout/src" "$checkout/cmake" "$work/torch"
  cp "$source_folder/skipway" "$checkout/"
  cp "$source_folder/scripts/setup.sh" "$checkout/scripts/"
  touch "$checkout/CMakeLists.txt" "$checkout/CMakePresets.json" "$checkout/src/main.cc" "$calls"
  find "$checkout" -exec touch -d '1 hour ago' {} +
  tool cmake <<<"
    echo \"cmake \$1\" >>'$calls'
    mkdir -p '$checkout/build/release' && touch '$checkout/build/release/build.ninja'
    [[ \$1 == --build ]] || exit 0
    sleep 0.2
    printf '#!/usr/bin/env bash\necho \"program in \$PWD: \$*\"; echo \"\${SKIPWAY_SETUP_S-none} \${GOMP_SPINCOUNT-none} \${GLIBC_TUNABLES-none}\" >variables; exit 42\n' >'$checkout/build/release/skipway'
    chmod +x '$checkout/build/release/skipway'
    echo built >>'$calls'"
  tool dpkg-query <<<"echo ii"
  tool apt-get <<<"echo \"apt-get \$*\" >>'$calls'"
}

# run ARGUMENTS…: ./skipway in $work; leaves $code, $out and $err.
run() {
  code=0
  (cd "$work" && PATH="$work/bin:$PATH" SKIPWAY_TORCH="${torch-$work/torch}" "${door:-$checkout/skipway}" "$@") \
    >"$work/out" 2>"$work/err" </dev/null || code=$?
  out=$(<"$work/out") err=$(<"$work/err")
}

# expect WHAT TEST…
expect() {
  local what=$1
  shift
  "$@" || {
    failures=$((failures + 1))
    printf 'FAILED: %s\n  code: %s\n  out: %s\n  err: %s\n' "$what" "$code" "$out" "$err"
  }
}
says() { [[ $err == *"$1"* ]]; }
builds() { (($(grep -cx built "$calls") == $1)); }

fresh_checkout
ln -s "$checkout/skipway" "$work/link"
door=$work/link run train --json
expect "the program runs in the caller's folder, with the arguments" [ "$out" = "program in $work: train --json" ]
expect "the program's exit code is passed on" [ "$code" = 42 ]
run
expect "nothing is built twice" builds 1
expect "nothing is said when nothing is to be done" [ -z "$err" ]
expect "the program has its settings, and no set-up" [ "$(<"$work/variables")" = "none 10000 glibc.malloc.hugetlb=1" ]
touch "$checkout/src/main.cc"
run
expect "a changed source is built" builds 2
expect "the program is told what the set-up took" grep -qE '^[0-9]+ ' "$work/variables"
touch "$checkout/src/new.cc"
run && run
expect "a new source is built, once" builds 3
torch=$work run
expect "another LibTorch is built against" builds 4
torch=. run
expect "the same, as a relative path" builds 4
torch=$work/no/such run
expect "one that is not there is an environment error" [ "$code" = 4 ]
expect "it is named" says "$work/no/such"
run setup
expect "setup builds and runs no program" [ "$code$out" = 0 ]

fresh_checkout
tool cmake <<<"echo 'main.cc:1: error: no such thing'; exit 1"
run
expect "a compiler's error is shown" says "no such thing"
expect "the log is named" says "$checkout/build/setup.log"
expect "stdout is left to the program" [ -z "$out" ]
tool cmake <<<"echo 'fatal error: No space left on device'; exit 1"
run
expect "a full disk has its exit code" [ "$code" = 9 ]

fresh_checkout
touch "$checkout/build"
run
expect "a folder that cannot be written has the disk's exit code" [ "$code" = 9 ]

fresh_checkout
tool dpkg-query <<<'[[ ${*: -1} == libpng-dev ]] || echo ii'
tool id <<<'echo 1000'
tool sudo <<<'exit 1'
run
expect "packages that may not be installed are an environment error" [ "$code" = 4 ]
expect "the command for the administrator is shown" says "apt-get install --no-install-recommends libpng-dev"
tool sudo <<<'[[ $1 == -n ]] && shift; "$@"'
run
expect "with sudo they are installed" grep -q 'apt-get .*install .*libpng-dev' "$calls"
expect "and the program starts" [ "$code" = 42 ]
tool dpkg-query <<<'[[ ${*: -1} == ccache ]] || echo ii'
tool sudo <<<'exit 1'
run setup
expect "what is only convenient stops nobody" [ "$code" = 0 ]
tool sudo <<<'[[ $1 == -n ]] && shift; "$@"'
tool apt-get <<<"exit 100"
run setup
expect "nor where it cannot be installed" [ "$code" = 0 ]
expect "and that is said" says "going on without ccache"

fresh_checkout
tool df <<<'printf "Filesystem 1M-blocks Used Available\nx 9 9 100\n"'
torch= run
expect "too little disk is said before the download" says "100 MB are free"
expect "too little disk has its exit code" [ "$code" = 9 ]
tool df <<<'printf "Filesystem 1M-blocks Used Available\nx 9 9 99999\n"'
export PIP_NO_INDEX=1 PIP_FIND_LINKS=
torch= run
expect "a download that fails is an environment error" [ "$code" = 4 ]
touch "$checkout/.venv/left-over"
torch= run
expect "a half-made environment is made anew" [ ! -e "$checkout/.venv/left-over" ]
mkdir -p "$checkout/build/release" && touch "$checkout/build/release/.built"
torch= run
expect "what was built against an environment goes with it" [ ! -e "$checkout/build/release/.built" ]
rm "$checkout/.venv/.skipway"
torch= run
expect "somebody else's environment is kept" [ -e "$checkout/.venv.old/bin/python" ]

fresh_checkout
run &
run
wait
expect "two set-ups at once take turns" [ "$(tr '\n' ' ' <"$calls")" = "cmake --preset cmake --build built cmake --build built " ]

((failures == 0)) && echo "the front door behaves"
