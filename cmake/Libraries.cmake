# The libraries the build uses; where some are missing, all of them are named at once, with their
# Debian packages.

find_package(LibTorch REQUIRED MODULE)

set(wanted JPEG PNG LibArchive CURL OpenSSL CLI11 nlohmann_json HWY)
set(wanted_packages libjpeg-dev libpng-dev libarchive-dev libcurl4-openssl-dev libssl-dev
  libcli11-dev nlohmann-json3-dev libhwy-dev)
if(SKIPWAY_TESTS)
  list(APPEND wanted GTest)
  list(APPEND wanted_packages "libgtest-dev libgmock-dev")
endif()

set(missing "")
foreach(library package IN ZIP_LISTS wanted wanted_packages)
  find_package(${library} QUIET)
  if(NOT ${library}_FOUND)
    string(APPEND missing "\n  ${library}: on Debian, apt-get install ${package}")
  endif()
endforeach()
if(missing)
  message(FATAL_ERROR "Libraries are missing:${missing}\n"
                      "./skipway and scripts/test install them where they may.")
endif()
