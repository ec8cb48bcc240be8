// Loading and fetching of data with progress on the terminal, for every command that does either.
#pragma once
#include <functional>
#include <string>

#include "data/dataset.h"
#include "data/fetch.h"
#include "train/config.h"

namespace skipway {

/// A status line on a terminal, else a line for every tenth of a file; nothing when `quiet`.
std::function<void(const FetchProgress&)> fetch_progress_display(bool quiet);

/// load_dataset, with progress on the terminal. Errors: as load_dataset.
Dataset load_data(const std::string& spec, LoadOptions options, bool quiet);
/// The same with the image size and seed of `config`.
Dataset load_data(const std::string& spec, const Config& config, bool quiet);

/// What every command that trains begins with: allocator and threads of the process, the device,
/// then load_data. Errors: kDevice before the data are read; as load_dataset.
Dataset prepare(const Config& config, bool quiet);

}  // namespace skipway
