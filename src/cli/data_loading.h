// Loading and fetching of data with progress on the terminal, for every command that does either.
#pragma once
#include <functional>
#include <string>

#include "cli/arguments.h"
#include "data/dataset.h"
#include "data/fetch.h"
#include "train/config.h"
#include "train/pretrained.h"

namespace skipway {

/// A status line on a terminal, else a line for every tenth of a file; nothing when is_quiet().
std::function<void(const FetchProgress&)> fetch_progress_display();

/// load_dataset, with progress on the terminal. Errors: as load_dataset.
Dataset load_data(const std::string& spec, LoadOptions options);
/// The same with the image size and seed of `config`.
Dataset load_data(const std::string& spec, const Config& config);

/// read_pretrained, with progress on the terminal. Errors: as read_pretrained.
Pretrained read_weights(const std::string& source);

/// Of --weights: fetches what is published, and takes model, stem, mean and std from the weights
/// where neither flag, variable nor file gave them. Nothing without --weights. Errors: as
/// read_pretrained; kCheckpoint for weights of another model than was asked for.
void take_settings_of_weights(Arguments& arguments);

/// What every command that trains begins with: allocator and threads of the process, the device,
/// then load_data. Errors: kDevice before the data are read; as load_dataset.
Dataset prepare(const Config& config);

}  // namespace skipway
