# Imported target LibTorch::cpu, from the pip wheel in .venv or from SKIPWAY_TORCH=/path/to/libtorch.
# Not the wheel's own package file: that one stops when there is no CUDA compiler.

set(SKIPWAY_TORCH "" CACHE PATH "A LibTorch of your own (the folder that holds include/ and lib/)")

set(_torch_root "${SKIPWAY_TORCH}")
if(NOT _torch_root)
  file(GLOB _torch_root "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
endif()
if(NOT EXISTS "${_torch_root}/include/ATen/ATen.h")
  message(FATAL_ERROR "LibTorch was not found in '${_torch_root}'. Run ./skipway setup, which puts it "
                      "into .venv, or pass -DSKIPWAY_TORCH=/path/to/libtorch.")
endif()

add_library(LibTorch::c10 SHARED IMPORTED)
set_target_properties(LibTorch::c10 PROPERTIES
  IMPORTED_LOCATION "${_torch_root}/lib/libc10.so"
  INTERFACE_INCLUDE_DIRECTORIES "${_torch_root}/include;${_torch_root}/include/torch/csrc/api/include")

# libtorch_cpu of the wheel needs the CUDA run time beside it, even where no GPU is; it finds it by its own RPATH.
file(GLOB _cuda_runtime "${_torch_root}/../nvidia/cu*/lib")
set(_rpath_link "")
foreach(_dir IN LISTS _cuda_runtime)
  list(APPEND _rpath_link "-Wl,-rpath-link,${_dir}")
endforeach()

add_library(LibTorch::cpu SHARED IMPORTED)
set_target_properties(LibTorch::cpu PROPERTIES
  IMPORTED_LOCATION "${_torch_root}/lib/libtorch_cpu.so"
  INTERFACE_LINK_LIBRARIES LibTorch::c10
  INTERFACE_LINK_OPTIONS "${_rpath_link}")
message(STATUS "LibTorch: ${_torch_root}")
